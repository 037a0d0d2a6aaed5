"""No attack breaks what is proved, and ours break what the strongest peer breaks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from edgeproof.attacks.base import find_attack
from edgeproof.attacks.configured import choose_attack
from edgeproof.attacks.ensemble import ensemble
from edgeproof.plugins.registry import entries
from tests.oracles import draws, images, small_network, torchattacks_attack

SPECS = [spec for name in entries("attack") if (spec := find_attack(name)).norm == "linf" and spec.access != "data"]
SHORT = {"steps": 10, "queries": 50, "targets": 3, "attacks": "fgsm,apgd-ce,pgd-linf"}
EPS = 0.03


def relu_network(seed: int = 0) -> nn.Sequential:
    """Return a small ReLU network whose intervals stay narrow."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(48, 12), nn.ReLU(), nn.Linear(12, 5)).double()


def certified(network: nn.Sequential, x: Tensor, y: Tensor, *, eps: float) -> Tensor:
    """Return which images no perturbation within eps (and [0, 1]) can move out of class y, by interval bounds.

    The last layer is merged with the differences of its logits, which makes the bound of each margin tighter.
    """
    low, high = (x - eps).clamp(0, 1).flatten(1), (x + eps).clamp(0, 1).flatten(1)
    first, last = network[1], network[3]
    low, high = interval(first.weight, first.bias, low, high)
    low, high = low.clamp(min=0), high.clamp(min=0)
    margins = last.weight[y][:, None, :] - last.weight[None]  # (N, K, hidden): own class minus each class
    lowest = (margins.clamp(min=0) * low[:, None] + margins.clamp(max=0) * high[:, None]).sum(2)
    lowest = lowest + last.bias[y][:, None] - last.bias
    return (lowest.scatter(1, y[:, None], torch.inf) > 0).all(1)


def interval(weight: Tensor, bias: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    up, down = weight.clamp(min=0).T, weight.clamp(max=0).T
    return low @ up + high @ down + bias, high @ up + low @ down + bias


@pytest.mark.parametrize("spec", SPECS, ids=[spec.name for spec in SPECS])
def test_no_attack_breaks_a_certified_image(spec) -> None:  # type: ignore[no-untyped-def]
    network, x = relu_network(), images(200, shape=(3, 4, 4))
    params = {name: value for name, value in SHORT.items() if spec.takes(name)}
    second = relu_network(seed=1) if spec.takes("deployed") else None  # what is to be wrong there stays right here
    budget = EPS / (10 if spec.budget == "steps*eps" else 1)
    chosen = choose_attack(spec, eps=budget, params=params, deployed=second)
    with torch.no_grad():
        y = network(x).argmax(1)
        proved = certified(network, x, y, eps=EPS)
        broken = network(chosen.run(network, x, y, draws=draws(200)).clamp(0, 1)).argmax(1) != y
    assert 40 < int(proved.sum()) < 160
    assert not (broken & proved).any()
    if spec.access == "gradients" and second is None:
        assert int(broken.sum()) > 20


@pytest.mark.slow
@pytest.mark.parametrize("eps", [0.01, 0.02])
def test_the_ensemble_breaks_at_least_what_autoattack_breaks(eps: float) -> None:
    model, x = small_network().float(), images(128).float()
    y = model(x).argmax(1).detach()
    with torch.no_grad():
        ours = model(ensemble(model, x, y, eps=eps, stop="first", draws=draws(128))).argmax(1) != y
    with torch.random.fork_rng(devices=[]):
        x_adv = torchattacks_attack("AutoAttack", model, x, y, eps=eps, n_classes=5, seed=0)
    theirs = model(x_adv).argmax(1) != y
    assert 5 < int(theirs.sum()) < 123
    assert int((theirs & ~ours).sum()) <= 1
    assert int(ours.sum()) >= int(theirs.sum())

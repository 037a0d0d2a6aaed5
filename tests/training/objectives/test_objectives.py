from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeproof.attacks.base import Draws
from edgeproof.errors import ConfigError
from edgeproof.models.base import Classifier, build_classifier
from edgeproof.plugins.registry import REQUIRED, entries
from edgeproof.training.objectives.base import Objective, Task, build_objective

#: What the contract test gives for parameters without a default.
NEEDED: dict[str, Any] = {"eps": "8/255"}
#: And for objectives that need one of several parameters.
CHOSEN: dict[str, dict[str, Any]] = {"cost-sensitive": {"protect": "1"}, "min-max": {"protect": "1"}}


def classifier(name: str = "lenet", count: int = 3) -> Classifier:
    torch.manual_seed(0)
    classes = [f"c{k}" for k in range(count)]
    return build_classifier(name, input_shape=(1, 16, 16), classes=classes, mean=[0.5], std=[0.5]).train()


def batch(count: int = 6) -> tuple[Tensor, Tensor, Draws]:
    x = torch.rand(count, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    return x, torch.arange(count) % 3, Draws(seed=7, index=np.arange(count))


def objective(name: str, **params: Any) -> Objective:
    x, y, _ = batch()
    return build_objective(name, params, task=Task(x, y, num_classes=3, batch_size=6, epochs=2, seed=0))


@pytest.mark.parametrize("name", entries("objective"))
def test_every_objective_gives_a_finite_loss_that_reaches_all_weights_and_repeats_itself(name: str) -> None:
    needed = [param.name for param in entries("objective")[name].params if param.default is REQUIRED]
    params = {key: NEEDED[key] for key in needed if key != "draws"} | CHOSEN.get(name, {})
    x, y, draws = batch()
    losses = []
    for _ in range(2):
        model = classifier()
        minimised = objective(name, **params)
        minimised.begin_epoch(model, epoch=1)
        loss = minimised(model, x, y, draws=draws)
        loss.backward()
        assert model.training
        assert all(parameter.grad is not None for parameter in model.parameters())
        losses.append(float(loss.detach()))
    assert losses[0] == losses[1]
    assert np.isfinite(losses[0])


def test_standard_is_the_cross_entropy_of_the_logits() -> None:
    x, y, draws = batch()
    model = classifier()
    expected = -functional.log_softmax(model(x), 1)[range(6), y].mean()
    torch.testing.assert_close(objective("standard")(model, x, y, draws=draws), expected)


def test_mixup_weighs_the_losses_of_a_pair_as_their_images() -> None:
    x, y, draws = batch()
    model = classifier()
    share = float(np.random.default_rng([7, 0]).beta(0.4, 0.4))
    pairs = torch.stack([share * x[n] + (1 - share) * x[n - 1] for n in range(6)])
    logs = functional.log_softmax(model(pairs), 1)
    expected = -sum(share * logs[n, y[n]] + (1 - share) * logs[n, y[n - 1]] for n in range(6)) / 6
    torch.testing.assert_close(objective("mixup", alpha=0.4)(model, x, y, draws=draws), expected)
    with pytest.raises(ConfigError, match=r"^alpha = 0; expected a number above 0"):
        objective("mixup", alpha=0)(model, x, y, draws=draws)


def linear() -> tuple[Classifier, Tensor]:
    """Two classes whose logit difference is w . x: the worst image within eps lies at -eps * sign(w) for class 1."""
    model = classifier(count=2)
    weight = torch.randn(256, generator=torch.Generator().manual_seed(2))
    layer = nn.Linear(256, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.stack([torch.zeros(256), weight]))
    model.network = nn.Sequential(nn.Flatten(), layer)
    return model, weight


@pytest.mark.parametrize(("steps", "random_start"), [(1, False), (10, True)])
def test_on_a_linear_model_the_adversarial_loss_is_the_closed_form(steps: int, random_start: bool) -> None:
    model, weight = linear()
    x = torch.full((4, 1, 16, 16), 0.5)
    y = torch.tensor([0, 1, 0, 1])
    draws = Draws(seed=0, index=np.arange(4))
    loss = objective("adversarial", eps=0.1, steps=steps, random_start=random_start)(model, x, y, draws=draws)
    # mean 0.5 and std 0.5: the grey image is 0, and eps is 0.2 for the network
    worst = 0.2 * weight.abs().sum()
    torch.testing.assert_close(loss, functional.softplus(worst), rtol=1e-5, atol=0)


def test_a_share_of_the_adversarial_loss_can_be_of_the_clean_images() -> None:
    x, y, draws = batch()
    losses = {
        clean: float(objective("adversarial", eps=0.1, clean=clean)(classifier(), x, y, draws=draws).detach())
        for clean in (0.0, 0.5, 1.0)
    }
    assert losses[1.0] == pytest.approx(
        float(objective("standard")(classifier(), x, y, draws=draws).detach()), rel=1e-5
    )
    assert losses[0.5] == pytest.approx((losses[0.0] + losses[1.0]) / 2, rel=1e-5)
    assert losses[0.0] > losses[1.0]


def test_the_attack_neither_moves_batch_statistics_nor_leaves_gradients_behind() -> None:
    x, y, draws = batch()
    attacked, clean = classifier("resnet-20"), classifier("resnet-20")
    objective("adversarial", eps=0.0, steps=3)(attacked, x, y, draws=draws)
    objective("standard")(clean, x, y, draws=draws)
    for key, value in clean.state_dict().items():
        assert torch.equal(attacked.state_dict()[key], value), key
    assert all(parameter.grad is None for parameter in attacked.parameters())


def test_budgets_and_shares_that_cannot_be_meant_are_refused() -> None:
    x, y, draws = batch()
    with pytest.raises(ConfigError, match="did you mean 8/255"):
        objective("adversarial", eps=8)(classifier(), x, y, draws=draws)
    with pytest.raises(ConfigError, match="clean = 2 is no share"):
        objective("adversarial", eps=0.1, clean=2)(classifier(), x, y, draws=draws)
    with pytest.raises(ConfigError, match="'adversarial' needs a value for 'eps'"):
        objective("adversarial")

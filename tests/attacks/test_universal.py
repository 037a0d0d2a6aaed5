"""Universal perturbations: closed forms on linear models, resuming, and what balance means."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from edgeproof.attacks import fitting
from edgeproof.attacks.base import find_attack
from edgeproof.attacks.configured import choose_attack
from edgeproof.attacks.fitting import BatchSampler, FitCheckpoint
from edgeproof.attacks.objectives import Balanced, clamped_cross_entropy, entropy, uniform_histogram
from edgeproof.attacks.universal import universal, universal_balanced, universal_l2
from edgeproof.errors import ConfigError
from tests.oracles import Linear, draws, images, small_network

EPS = 8 / 255
SMALL = {"steps": 20, "fit_batch": 8}


def grey(count: int, classes: int = 2) -> tuple[Tensor, Tensor]:
    """Images far from 0 and 1, so that nothing is clipped, with equal classes."""
    return images(count) * 0.4 + 0.3, torch.arange(count) % classes


def test_on_a_linear_model_a_perturbation_a_class_is_the_sign_of_the_weights() -> None:
    model = Linear()
    x, y = grey(32)
    found = universal(model, x, y, eps=EPS, per="class", beta=1e9, draws=draws(32), **SMALL)
    away = (model.weight[1] - model.weight[0]).sign().view(3, 8, 8)
    torch.testing.assert_close(found, EPS * torch.stack([away, -away]).detach(), atol=1e-9, rtol=0)


def test_on_a_linear_model_the_l2_perturbation_towards_a_class_lies_along_the_weights() -> None:
    model = Linear()
    x, y = grey(32)
    found = universal_l2(model, x, y, eps=0.5, direction="descent", label="1", draws=draws(32), **SMALL)
    along = model.weight[1] - model.weight[0]
    torch.testing.assert_close(found.flatten(), (0.5 * along / along.norm()).detach(), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("method", ["sgd", "deepfool"])
def test_both_methods_fool_a_network_on_images_that_they_have_not_seen(method: str) -> None:
    model = small_network()
    x = images(200)
    y = model(x).argmax(1).detach()
    found = universal(model, x[:120], y[:120], eps=0.2, method=method, draws=draws(120), **SMALL)  # type: ignore[arg-type]
    assert float(found.abs().max()) <= 0.2
    new, own = x[120:], y[120:]
    noise = 0.2 * torch.sign(torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=x.dtype))
    wrong = [(model((new + shift).clamp(0, 1)).argmax(1) != own).float().mean() for shift in (found[0], noise)]
    assert wrong[0] > wrong[1] + 0.2


def test_a_killed_fit_continues_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, (x, y) = small_network(), grey(40, classes=5)
    options = {"eps": EPS, "tau": 2.0, "steps": 9, "fit_batch": 16, "draws": draws(40)}
    whole = universal_balanced(model, x, y, **options)
    monkeypatch.setattr(fitting, "_SAVED_EVERY", 2)
    asked = []

    def tiring(images: Tensor) -> Tensor:
        asked.append(len(images))
        if len(asked) == 6:
            raise KeyboardInterrupt
        return model(images)

    with pytest.raises(KeyboardInterrupt):
        universal_balanced(tiring, x, y, checkpoint=FitCheckpoint(tmp_path / "fit.npz"), **options)
    assert int(np.load(tmp_path / "fit.npz")["done"]) == 4
    assert torch.equal(
        universal_balanced(model, x, y, checkpoint=FitCheckpoint(tmp_path / "fit.npz"), **options), whole
    )


def test_a_pass_shows_every_image_once_and_each_pass_has_its_own_order() -> None:
    x, y = grey(12, classes=3)
    feed = BatchSampler(x, y, size=3, count=2, draws=draws(12))
    first, second = (torch.cat([feed(step).x for step in steps]) for steps in ((0, 1), (2, 3)))
    assert not torch.equal(first, second)
    for seen in (first, second):
        assert sorted(map(float, seen.sum((1, 2, 3)))) == pytest.approx(sorted(map(float, x.sum((1, 2, 3)))))
    assert feed(1).which.tolist() == [0, 0, 0, 1, 1, 1]
    assert torch.equal(feed(1).x, BatchSampler(x, y, size=3, count=2, draws=draws(12))(1).x)


def test_without_calibration_cap_and_penalty_the_balanced_goal_is_the_plain_margin() -> None:
    logits, y = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 4
    which = torch.zeros_like(y)
    goal = Balanced(uniform_histogram(count=1, classes=4, like=logits), reduction="max", tau=0.0, kappa=1e9)
    others = torch.stack([max(row[k] for k in range(4) if k != own) for row, own in zip(logits, y, strict=True)])
    torch.testing.assert_close(goal(logits, y, which), others - logits[range(6), y])


def test_with_cross_entropy_the_balanced_goal_is_the_logit_adjustment() -> None:
    logits, y = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 4
    histogram = torch.tensor([[0.7, 0.1, 0.1, 0.1]])
    goal = Balanced(histogram.clone(), strength="ce", tau=1.5, beta=1e9, decay=0.999999)
    expected = clamped_cross_entropy(1e9)(logits - 1.5 * torch.log(4 * histogram + 0.1), y, y)
    torch.testing.assert_close(goal(logits, y, torch.zeros_like(y)), expected, atol=1e-4, rtol=1e-4)


def test_the_histogram_follows_what_is_predicted_of_each_perturbation() -> None:
    histogram = uniform_histogram(count=3, classes=2, like=torch.empty(0))
    logits = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    goal = Balanced(histogram, tau=1.0, decay=0.5)
    goal(logits, torch.tensor([1, 1, 0]), torch.tensor([0, 0, 1]))
    torch.testing.assert_close(histogram, torch.tensor([[0.75, 0.25], [0.25, 0.75], [0.5, 0.5]]))
    assert bool(goal.offsets()[0, 0] > goal.offsets()[0, 1])


@pytest.mark.parametrize("penalty", ["entropy", "histogram"])
def test_the_penalty_is_least_for_one_label_and_most_for_all_of_them(penalty: str) -> None:
    goal = Balanced(uniform_histogram(count=1, classes=3, like=torch.empty(0)), penalty=penalty, lam=1.0)  # type: ignore[arg-type]
    same, spread = 9 * torch.eye(3)[[0, 0, 0]], 9 * torch.eye(3)
    values = [goal._penalty(logits, torch.zeros(3, dtype=torch.int64)).sum() for logits in (same, spread)]
    assert values[0] < values[1]


def test_entropy_is_that_of_scipy_and_has_a_gradient_at_zero() -> None:
    stats = pytest.importorskip("scipy.stats")
    p = torch.tensor([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]], requires_grad=True)
    np.testing.assert_allclose(entropy(p).detach(), stats.entropy(p.detach(), axis=1), rtol=1e-6)
    entropy(p).sum().backward()
    assert torch.isfinite(p.grad).all()  # type: ignore[arg-type]


def test_calibration_spreads_the_predictions() -> None:
    model = small_network()
    x = images(200)
    y = model(x).argmax(1).detach()
    top = []
    for tau in (0.0, 8.0):
        found = universal_balanced(model, x, y, eps=0.2, tau=tau, draws=draws(200), steps=60, fit_batch=50)
        shares = torch.bincount(model((x + found[0]).clamp(0, 1)).argmax(1), minlength=5) / len(x)
        top.append(float(entropy(shares[None])))
    assert top[1] > top[0] + 0.1


def test_an_attack_that_is_not_fitted_says_so() -> None:
    attack = choose_attack(find_attack("universal"), eps=EPS, params={})
    with pytest.raises(ConfigError, match="attack 'universal' is fitted on training images first"):
        attack.run(small_network(), images(2), torch.zeros(2, dtype=torch.int64), draws=draws(2))


def test_deepfool_towards_a_class_is_refused() -> None:
    x, y = grey(4)
    with pytest.raises(ConfigError, match="method = 'deepfool' leaves the true class"):
        universal(Linear(), x, y, eps=EPS, method="deepfool", direction="descent", label="1")


def test_a_cap_below_every_margin_is_told(caplog: pytest.LogCaptureFixture) -> None:
    model, (x, y) = small_network(), grey(40, classes=5)
    found = universal_balanced(model, x, y, eps=EPS, kappa=1e-9, draws=draws(40), **SMALL)
    assert not found.any()
    assert "changes nothing: the margin of every image is above kappa = 1e-09" in caplog.text
    caplog.clear()
    assert universal_balanced(model, x, y, eps=EPS, kappa=10.0, draws=draws(40), **SMALL).any()
    assert not caplog.text


def test_deepfool_needs_another_class() -> None:
    model, (x, y) = small_network(), grey(8)
    with pytest.raises(ConfigError, match="candidates = 1; expected at least 2"):
        universal(model, x, y, eps=EPS, method="deepfool", candidates=1, draws=draws(8), **SMALL)

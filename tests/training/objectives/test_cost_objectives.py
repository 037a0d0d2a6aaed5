"""Objectives that know what mistakes cost, their penalties and controls, and TRADES."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeproof.attacks.base import Draws
from edgeproof.attacks.losses import expected_cost
from edgeproof.errors import ConfigError, ModelError
from edgeproof.evaluation.costs import protected_costs
from edgeproof.models.base import Classifier
from edgeproof.training.objectives.base import Task, build_objective
from edgeproof.training.objectives.min_max import min_max_penalty
from edgeproof.training.objectives.trades import divergence_from
from tests.training.objectives.test_objectives import batch, classifier, linear, objective

DEAR = torch.tensor(protected_costs([1], cost=10, side="miss", num_classes=3))


def value(name: str, model: Classifier | None = None, **params: object) -> float:
    x, y, draws = batch()
    return float(objective(name, **params)(model or classifier(), x, y, draws=draws).detach())


def test_the_expected_cost_of_logits_is_that_counted_by_hand() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.125, 0.5, 0.375]], dtype=torch.float64))
    found = expected_cost(DEAR)(logits, torch.tensor([0, 1]))
    torch.testing.assert_close(found, torch.tensor([0.5, 5.0], dtype=torch.float64))


def test_the_gradient_of_the_expected_cost_is_the_finite_difference() -> None:
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    y = torch.tensor([0, 1, 2, 1, 0])
    assert torch.autograd.gradcheck(lambda z: expected_cost(DEAR)(z, y), (logits,))


def test_the_min_max_penalty_is_zero_exactly_for_one_weight_and_else_positive() -> None:
    one = torch.zeros(150)
    one[17] = -3.7
    assert float(min_max_penalty(one)) == 0
    one[18] = 1e-3
    assert float(min_max_penalty(one)) > 0
    assert float(min_max_penalty(torch.ones(4))) == 2  # 4 - sqrt(4)


def test_the_gradient_of_the_min_max_penalty_is_the_finite_difference() -> None:
    weight = torch.randn(4, 25, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(min_max_penalty, (weight,))
    zero = torch.zeros(25, requires_grad=True)
    min_max_penalty(zero).backward()
    assert torch.isfinite(zero.grad).all()  # type: ignore[arg-type]


def test_on_a_linear_model_cost_sensitive_training_meets_the_worst_image() -> None:
    model, weight = linear()
    x, y = torch.full((4, 1, 16, 16), 0.5), torch.tensor([0, 1, 0, 1])
    task = Task(x, y, num_classes=2, batch_size=4, epochs=1, seed=0)
    params = {"eps": 0.1, "protect": "1", "cost": 4, "side": "miss", "clean": 0}
    minimised = build_objective("cost-sensitive", params, task=task)
    loss = minimised(model, x, y, draws=Draws(seed=0, index=np.arange(4)))
    # mean 0.5 and std 0.5: the grey image is 0, eps is 0.2 for the network, and both terms rise with the wrong logit
    worst = 0.2 * weight.abs().sum()
    wrong = torch.sigmoid(worst)
    torch.testing.assert_close(loss, functional.softplus(worst) + (wrong + 4 * wrong) / 2, rtol=1e-5, atol=0)


def test_without_weight_the_cost_has_no_say() -> None:
    plain = value("adversarial", eps=0.05, steps=1, step_size=0.05, random_start=False, clean=0.5)
    assert value("cost-sensitive", eps=0.05, protect="1", weight=0) == pytest.approx(plain)


def test_the_adversaries_climb_the_same_sum_that_is_minimised() -> None:
    dear = value("cost-sensitive", eps=0.05, protect="1", cost=1000, clean=0)
    model = classifier()
    x, y, _ = batch()
    x_adv = x.clone().requires_grad_()
    model.eval()
    loss = functional.cross_entropy(model(x_adv), y) + expected_cost(_matrix(1000))(model(x_adv), y).mean()
    stepped = (x + 0.05 * torch.autograd.grad(loss, x_adv)[0].sign()).clamp(0, 1)
    logits = model.train()(stepped)
    expected = functional.cross_entropy(logits, y) + expected_cost(_matrix(1000))(logits, y).mean()
    assert dear == pytest.approx(float(expected.detach()), rel=1e-5)


def _matrix(cost: float) -> Tensor:
    return torch.tensor(protected_costs([1], cost=cost, side="both", num_classes=3), dtype=torch.float32)


def convs(model: Classifier) -> list[Tensor]:
    return [m.weight.detach() for m in model.network.modules() if isinstance(m, nn.Conv2d)]


def r(weight: Tensor) -> float:
    return float(weight.abs().sum() - weight.square().sum().sqrt())


def test_min_max_adds_cost_and_the_penalties_of_two_convolutions() -> None:
    model = classifier()
    x, y, _ = batch()
    clean = float(functional.cross_entropy(model(x), y).detach())
    cost = float(expected_cost(_matrix(10))(model(x), y).mean().detach())
    first, second = convs(model)
    assert value("min-max", protect="1", conv1=0.5, conv2=0.25, cost_weight=2) == pytest.approx(
        clean + 2 * cost + 0.5 * r(first) + 0.25 * r(second), rel=1e-5
    )


def test_its_controls_are_settings() -> None:
    model = classifier()
    first = convs(model)[0]
    plain = value("standard")
    assert value("min-max", cost_weight=0, conv1=0) == pytest.approx(plain, rel=1e-5)
    assert value("min-max", cost_weight=0) == pytest.approx(plain + r(first), rel=1e-5)
    assert value("min-max", cost_weight=0, penalty="l2") == pytest.approx(
        plain + float(first.square().sum()) / 2, rel=1e-5
    )
    by_filter = sum(r(filter_) for filter_ in first)
    assert value("min-max", cost_weight=0, scope="filter") == pytest.approx(plain + by_filter, rel=1e-5)


def test_what_the_objectives_cannot_do_is_refused() -> None:
    for name, given in (("cost-sensitive", {"eps": 0.1}), ("min-max", {})):
        with pytest.raises(ConfigError, match="needs to know what mistakes cost"):
            objective(name, **given)
    with pytest.raises(ConfigError, match="unknown class 'seven'"):
        objective("cost-sensitive", eps=0.1, protect="seven")
    with pytest.raises(ConfigError, match="conv1 = -1 is no weight"):
        objective("min-max", cost_weight=0, conv1=-1)
    model = classifier()
    model.network = nn.Sequential(nn.Flatten(), nn.Linear(256, 3))
    with pytest.raises(ModelError, match=r"has 0 convolutions; set conv1 = 0"):
        value("min-max", model, cost_weight=0)


def test_the_divergence_is_kullback_leibler_and_zero_for_the_same_answer() -> None:
    z = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    other = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    p, q = z.softmax(1), other.softmax(1)
    y = torch.zeros(4, dtype=torch.int64)
    torch.testing.assert_close(divergence_from(z)(other, y), (p * (p / q).log()).sum(1))
    torch.testing.assert_close(divergence_from(z)(z, y), torch.zeros(4), atol=1e-6, rtol=0)


def test_trades_is_cross_entropy_without_beta_and_more_with_it() -> None:
    plain = value("standard")
    assert value("trades", eps=0.1, beta=0) == pytest.approx(plain)
    model, weight = linear()
    x = torch.full((4, 1, 16, 16), 0.5)
    y = torch.tensor([0, 1, 0, 1])
    loss = objective("trades", eps=0.1, beta=2)(model, x, y, draws=Draws(seed=0, index=np.arange(4)))
    # On a grey image the network says 1/2, 1/2; either corner of the ball is the furthest: KL = -log(4 p (1 - p)) / 2.
    worst = 0.2 * weight.abs().sum()
    furthest = (functional.softplus(worst) + functional.softplus(-worst)) / 2 - np.log(2)
    torch.testing.assert_close(loss, np.log(2) + 2 * furthest, rtol=1e-5, atol=0)

"""Training against shared perturbations, on a linear model where the worst ones are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from edgeproof.attacks.base import Draws
from edgeproof.errors import ConfigError
from edgeproof.training.objectives.base import Objective, Task, build_objective
from tests.training.objectives.test_objectives import batch, classifier, linear

EPS = 0.1
DRAWS = Draws(seed=0, index=np.arange(4))
X, Y = torch.full((4, 1, 16, 16), 0.5), torch.tensor([0, 1, 0, 1])


def objective(name: str, **params: Any) -> Objective:
    task = Task(X, Y, num_classes=2, batch_size=4, epochs=2, seed=0)
    return build_objective(name, {"eps": EPS, **params}, task=task)


def worst_loss(weight: torch.Tensor, model: Any) -> torch.Tensor:
    shift = EPS * weight.sign().view(1, 1, 16, 16) * (1 - 2 * Y).view(-1, 1, 1, 1)
    return functional.cross_entropy(model(X + shift), Y).detach()


def test_one_perturbation_a_class_reaches_the_worst_loss_of_a_linear_model() -> None:
    model, weight = linear()
    training = objective("universal", per="class", beta=1e9)
    losses = [float(training(model, X, Y, draws=DRAWS).detach()) for _ in range(5)]
    assert losses[0] < losses[3] == pytest.approx(float(worst_loss(weight, model)), rel=1e-6)
    assert losses[4] == losses[3]


def test_sharing_by_one_is_the_worst_of_each_image() -> None:
    model, weight = linear()
    loss = objective("shared", images=1, beta=1e9)(model, X, Y, draws=DRAWS)
    torch.testing.assert_close(loss.detach(), worst_loss(weight, model))


def test_shared_by_both_classes_a_linear_model_is_not_hurt_as_much() -> None:
    model, weight = linear()
    loss = objective("shared", images=4, beta=1e9)(model, X, Y, draws=DRAWS)
    assert float(loss.detach()) < float(worst_loss(weight, model))


def test_a_spared_share_of_the_batch_is_clean() -> None:
    model, _ = linear()
    training = objective("universal", clean=0.5)
    training.delta.fill_(EPS)  # type: ignore[union-attr, operator]
    seen: list[torch.Tensor] = []
    model.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    training(model, X, Y, draws=DRAWS)
    assert torch.equal(seen[-1][:2], X[:2])
    assert not torch.equal(seen[-1][2:], X[2:])


@pytest.mark.parametrize("kind", ["plain", "balanced"])
def test_the_pool_keeps_the_last_perturbations_and_the_first_epoch_is_clean(kind: str) -> None:
    model = classifier()
    x, y, draws = batch()
    task = Task(x, y, num_classes=3, batch_size=6, epochs=5, seed=0)
    options = {"eps": EPS, "kind": kind, "pool": 3, "fit_steps": 2, "fit_batch": 4}
    training: Any = build_objective("universal-two-stage", options, task=task)
    training.begin_epoch(model, epoch=1)
    clean = functional.cross_entropy(model(x), y)
    torch.testing.assert_close(training(model, x, y, draws=draws), clean, atol=1e-4, rtol=1e-4)
    pools = []
    for epoch in (2, 3):
        training.begin_epoch(model, epoch=epoch)
        pools.append(training.pool.clone())
        assert model.training
    assert int(training.filled) == 4
    assert not pools[0][2].any()  # two of three places
    assert torch.equal(pools[1][1], pools[0][1])  # the third took the free place, the fourth that of the first
    assert not torch.equal(pools[1][0], pools[0][0])
    assert not torch.equal(pools[1][0], pools[1][2])
    assert 0 < float(training.pool.abs().max()) <= EPS + 1e-7


def test_free_training_replays_a_batch_and_moves_its_perturbations_backwards() -> None:
    model, weight = linear()
    training: Any = objective("free", replays=2)
    for offered in (X, X * 0, X * 0):
        training(model, offered, Y, draws=DRAWS).backward()
        if offered is X:
            away = EPS * weight.sign().view(1, 16, 16) * (1 - 2 * Y).view(-1, 1, 1, 1)
            torch.testing.assert_close(training.delta, away)
            assert torch.equal(training.x, X)
    assert torch.equal(training.x, X * 0)
    assert int(training.step) == 3


def test_what_they_remember_is_saved() -> None:
    model, _ = linear()
    one, other = objective("universal", per="class"), objective("universal", per="class")
    one(model, X, Y, draws=DRAWS)
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.delta, other.delta)  # type: ignore[arg-type]
    assert bool(one.delta.any())  # type: ignore[operator, union-attr]


@pytest.mark.parametrize("name", ["universal", "shared", "universal-two-stage"])
def test_a_share_that_leaves_nothing_to_attack_is_refused(name: str) -> None:
    with pytest.raises(
        ConfigError, match="clean = 1 is no share that may stay clean; expected a number from 0 to below 1"
    ):
        objective(name, clean=1.0)(linear()[0], X, Y, draws=DRAWS)

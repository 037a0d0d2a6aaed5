"""Losses for imbalanced classes, against their closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from edgeproof.attacks.base import Draws
from edgeproof.errors import ConfigError
from edgeproof.training.objectives.base import Objective, Task, build_objective
from tests.training.objectives.test_objectives import classifier

SIZES = (40, 10, 1)


def objective(name: str, sizes: tuple[int, ...] = SIZES, **params: float) -> Objective:
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    images = torch.zeros(len(labels), 1, 16, 16)
    task = Task(images, labels, num_classes=3, batch_size=8, epochs=1, seed=0)
    return build_objective(name, params, task=task)


def losses(made: Objective) -> tuple[float, list[float]]:
    """The objective on one image a class, and the plain losses of these images."""
    model = classifier().eval()
    x, y = torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(1)), torch.arange(3)
    with torch.no_grad():
        loss = float(made(model, x, y, draws=Draws(seed=0, index=np.arange(3))))
        return loss, functional.cross_entropy(model(x), y, reduction="none").tolist()


def test_weights_are_the_inverse_effective_numbers_and_sum_to_the_classes() -> None:
    loss, plain = losses(objective("class-balanced", beta=0.9))
    weights = [0.1 / (1 - 0.9**size) for size in SIZES]
    expected = sum(w * value for w, value in zip(weights, plain, strict=True)) * 3 / sum(weights) / 3
    assert loss == pytest.approx(expected, rel=1e-5)


def test_without_strength_or_imbalance_both_are_cross_entropy() -> None:
    for made in (
        objective("class-balanced", beta=0.0),
        objective("class-balanced", sizes=(7, 7, 7)),
        objective("logit-adjustment", tau=0.0),
        objective("logit-adjustment", sizes=(7, 7, 7)),
    ):
        loss, plain = losses(made)
        assert loss == pytest.approx(sum(plain) / 3, rel=1e-5)


def test_adjusted_logits_ask_a_larger_margin_of_rare_classes() -> None:
    made = objective("logit-adjustment", tau=2.0)
    offsets = dict(made.named_buffers())["offsets"]
    assert float(offsets[0] - offsets[2]) == pytest.approx(2 * math.log(40 / 1), rel=1e-6)
    model = classifier().eval()
    x, y = torch.rand(3, 1, 16, 16), torch.arange(3)
    with torch.no_grad():
        expected = functional.cross_entropy(model(x) + 2 * torch.log(torch.tensor(SIZES) / 51), y)
        assert float(made(model, x, y, draws=Draws(seed=0, index=np.arange(3)))) == pytest.approx(float(expected))


def test_what_has_no_meaning_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"beta = 1; expected a number from 0 to under 1"):
        objective("class-balanced", beta=1)
    with pytest.raises(ConfigError, match="tau = -1"):
        objective("logit-adjustment", tau=-1)
    with pytest.raises(ConfigError, match="class 2 has no training images"):
        objective("logit-adjustment", sizes=(3, 3))

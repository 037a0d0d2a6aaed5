"""Objectives that treat classes by how well they are doing."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from edgeproof.models.base import Classifier
from edgeproof.training.objectives.class_wise import ClassWise, dafa_weights
from tests.training.objectives.test_objectives import batch, classifier, objective


def certain() -> Classifier:
    """Always the same answer: class 0 with probability 0.8, class 1 with 0.15 and class 2 with 0.05."""
    model = classifier()
    layer = nn.Linear(256, 3)
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.copy_(torch.log(torch.tensor([0.8, 0.15, 0.05])))
    model.network = nn.Sequential(nn.Flatten(), layer)
    return model


def after_an_epoch(**params: object) -> ClassWise:
    x, y, draws = batch()
    made = objective("class-wise", eps=0.1, **params)
    assert isinstance(made, ClassWise)
    made.begin_epoch(certain(), epoch=1)
    made(certain(), x, y, draws=draws)
    made.begin_epoch(certain(), epoch=2)
    return made


def test_the_first_epoch_is_adversarial_training() -> None:
    x, y, draws = batch()
    plain = objective("adversarial", eps=0.1, clean=0.5)(classifier(), x, y, draws=draws)
    for rule in ("cfa", "dafa", "worst"):
        torch.testing.assert_close(objective("class-wise", eps=0.1, rule=rule)(classifier(), x, y, draws=draws), plain)


def test_cfa_gives_a_class_the_budget_that_it_can_stand() -> None:
    made = after_an_epoch(rule="cfa")
    assert made.budget.tolist() == [1.5, 0.5, 0.5]
    assert made.weight.tolist() == [1, 1, 1]


def test_the_worst_class_rule_raises_what_is_wrong_and_keeps_the_mean() -> None:
    made = after_an_epoch(rule="worst", strength=2.0)
    assert float(made.weight.mean()) == pytest.approx(1)
    assert float(made.weight[1] / made.weight[0]) == pytest.approx(math.exp(2))


def test_dafa_moves_weight_from_the_class_that_does_better() -> None:
    confused = torch.tensor([[0.9, 0.1], [0.4, 0.6]])
    # 0 does better: it gives p_10 p_00 = 0.36, and 1 gains the same.
    torch.testing.assert_close(dafa_weights(confused, strength=1.0), torch.tensor([0.64, 1.36]))
    many = torch.rand(7, 7, generator=torch.Generator().manual_seed(0)).softmax(1)
    assert float(dafa_weights(many, strength=0.5).mean()) == pytest.approx(1, rel=1e-5)


def test_the_weights_count_in_the_loss() -> None:
    x, y, draws = batch()
    made = after_an_epoch(rule="worst")
    losses = functional.cross_entropy(certain()(x), y, reduction="none")
    found = made(certain(), x, y, draws=draws)
    torch.testing.assert_close(found, (made.weight[y] * losses).mean())

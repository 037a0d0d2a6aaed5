from __future__ import annotations

import pytest
import torch

from edgeproof.attacks.losses import cross_entropy, dlr, goal_margin, margin, targeted_dlr
from edgeproof.errors import ConfigError

LOGITS = torch.tensor([[3.0, 1.0, 0.0, -2.0], [0.0, 4.0, 3.0, 1.0]])


def test_margin_is_the_best_other_logit_minus_that_of_the_class() -> None:
    assert margin(LOGITS, torch.tensor([0, 2])).tolist() == [-2.0, 1.0]


def test_goal_margin_is_positive_once_the_image_is_where_the_attack_wants_it() -> None:
    y = torch.tensor([0, 2])
    assert (goal_margin(LOGITS, y, direction="ascent") > 0).tolist() == [False, True]
    assert (goal_margin(LOGITS, y, direction="descent") > 0).tolist() == [True, False]


def test_dlr_matches_its_definition() -> None:
    # Croce & Hein 2020, eq. 6: -(z_y - max other) / (z_1 - z_3), sorted from the largest.
    assert torch.allclose(dlr(LOGITS, torch.tensor([0, 2])), torch.tensor([-2 / 3, 1 / 3]))


def test_targeted_dlr_matches_its_definition() -> None:
    # Croce & Hein 2020, eq. 7: -(z_y - z_t) / (z_1 - (z_3 + z_4) / 2).
    loss = targeted_dlr(torch.tensor([1, 1]))(LOGITS, torch.tensor([0, 2]))
    assert torch.allclose(loss, torch.tensor([-2 / 4, 1 / 3.5]))


def test_dlr_does_not_change_when_logits_are_scaled_or_shifted() -> None:
    y = torch.tensor([0, 2])
    assert torch.allclose(dlr(LOGITS * 1000 + 7, y), dlr(LOGITS, y))


@pytest.mark.parametrize("loss", [cross_entropy, margin, dlr])
def test_every_loss_falls_when_the_logit_of_its_class_rises(loss) -> None:  # type: ignore[no-untyped-def]
    logits = LOGITS.clone().requires_grad_()
    y = torch.tensor([0, 2])
    (grad,) = torch.autograd.grad(loss(logits, y).sum(), logits)
    assert (grad.gather(1, y[:, None]) < 0).all()


def test_dlr_asks_for_three_classes() -> None:
    with pytest.raises(ConfigError, match="needs at least 3 classes and the model has 2; use ce or margin"):
        dlr(LOGITS[:, :2], torch.tensor([0, 1]))

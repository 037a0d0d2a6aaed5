from __future__ import annotations

import pytest
import torch

from edgeproof.attacks.apgd import apgd_ce, apgd_dlr, apgd_t, checkpoints
from edgeproof.attacks.losses import margin
from edgeproof.attacks.pgd import pgd_linf
from edgeproof.errors import ConfigError
from tests.oracles import Linear, draws, images, small_network, torchattacks_apgd

Y = torch.arange(64) % 5


def test_checkpoints_are_those_of_the_paper() -> None:
    # Croce & Hein 2020, section 3: w_j = ceil(p_j N), p_0 = 0, p_1 = 0.22, p_(j+1) = p_j + max(p_j - p_(j-1) - 0.03, 0.06).
    assert list(checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert list(checkpoints(100).values()) == [22, 19, 16, 13, 10, 7, 6, 6]


@pytest.mark.parametrize("steps", [1, 2, 5, 20])
def test_any_number_of_steps_has_its_checkpoints_inside(steps: int) -> None:
    assert all(0 < at < steps for at in checkpoints(steps))


@pytest.mark.parametrize("attack", [apgd_ce])
def test_it_reaches_the_optimum_of_a_linear_model(attack) -> None:  # type: ignore[no-untyped-def]
    model, x, y = Linear(), images(), torch.arange(16) % 2
    reached = margin(model(attack(model, x, y, eps=0.1, steps=10, draws=draws(16))), y)
    away = (model.weight[1] - model.weight[0]).sign().view(1, 3, 8, 8)
    best = (x + 0.1 * torch.where(y == 0, 1, -1).to(x).view(-1, 1, 1, 1) * away).clamp(0, 1)
    assert torch.allclose(reached, margin(model(best), y))


@pytest.mark.parametrize("loss", ["ce", "dlr"])
def test_it_breaks_at_least_what_torchattacks_breaks(loss: str) -> None:
    model, x = small_network(), images(64)
    ours = {"ce": apgd_ce, "dlr": apgd_dlr}[loss](model, x, Y, eps=0.02, steps=20, draws=draws(64))
    theirs = torchattacks_apgd(model, x, Y, eps=0.02, steps=20, loss=loss)
    broken = [int((model(images).argmax(1) != Y).sum()) for images in (ours, theirs)]
    assert 0 < broken[1] < 64
    assert broken[0] >= broken[1]


def test_it_is_no_weaker_than_pgd_of_as_many_steps() -> None:
    model, x = small_network(), images(64)
    with torch.no_grad():
        apgd = margin(model(apgd_ce(model, x, Y, eps=0.02, steps=30, draws=draws(64))), Y)
        pgd = margin(model(pgd_linf(model, x, Y, eps=0.02, steps=30, draws=draws(64))), Y)
    assert int((apgd > 0).sum()) >= int((pgd > 0).sum())
    assert float(apgd.mean()) > float(pgd.mean()) - 1e-3


def test_targets_are_the_likeliest_wrong_classes_in_turn() -> None:
    model, x = small_network(), images(64)
    with torch.no_grad():
        one, four = (
            margin(model(apgd_t(model, x, Y, eps=0.02, steps=10, targets=n, draws=draws(64))), Y) for n in (1, 4)
        )
    assert (four >= one).all()
    assert (four > one).any()


def test_more_targets_than_wrong_classes_are_all_of_them() -> None:
    model, x = small_network(), images(8)
    all_of_them, nine = (apgd_t(model, x, Y[:8], eps=0.02, steps=5, targets=n) for n in (4, 9))
    assert torch.equal(all_of_them, nine)


def test_a_scaled_model_is_broken_all_the_same_by_dlr() -> None:
    model, x = small_network(), images(64)
    plain, scaled = (
        model(apgd_dlr(lambda x, s=s: model(x) * s, x, Y, eps=0.02, steps=20, draws=draws(64))).argmax(1) != Y
        for s in (1, 1e6)
    )
    assert torch.equal(plain, scaled)


def test_two_classes_are_refused_by_dlr() -> None:
    with pytest.raises(ConfigError, match="the dlr loss needs at least 3 classes and the model has 2"):
        apgd_dlr(Linear(), images(), torch.arange(16) % 2, eps=0.1)

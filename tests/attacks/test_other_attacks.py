"""PGD's variants, momentum, minimum-norm and query attacks against closed forms and independent libraries."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

from edgeproof.attacks.carlini_wagner import cw_l2
from edgeproof.attacks.deepfool import deepfool
from edgeproof.attacks.ensemble import ensemble
from edgeproof.attacks.losses import margin
from edgeproof.attacks.momentum import _gaussian, _placement, _shrink, di_fgsm, mi_fgsm, ti_fgsm
from edgeproof.attacks.norms import uniform_in_l2
from edgeproof.attacks.pgd import pgd_l2, pgd_linf, pgd_temperature
from edgeproof.attacks.square import _side, square
from edgeproof.errors import ConfigError
from edgeproof.ops import l2_norm, l2_step
from tests.oracles import (
    Linear,
    draws,
    foolbox_minimum,
    foolbox_pgd,
    images,
    small_network,
    torchattacks_attack,
)

Y = torch.arange(16) % 5
EPS, STEP = 8 / 255, 2 / 255


def test_pgd_l2_equals_foolbox_from_the_clean_images_in_float64() -> None:
    model, x = small_network(), images()
    ours = pgd_l2(model, x, Y, eps=0.5, step_size=0.1, steps=10, random_start=False, keep="last")
    theirs = foolbox_pgd(model, x, Y, start=x, eps=0.5, step_size=0.1, steps=10, norm="l2")
    assert float((ours - theirs).abs().max()) < 1e-9


def test_pgd_l2_moves_along_the_weights_of_a_linear_model() -> None:
    model, x, y = Linear(), images() * 0.5 + 0.25, torch.arange(16) % 2
    away = (model.weight[1] - model.weight[0]).view(1, 3, 8, 8).detach()
    expected = x + 0.2 * torch.where(y == 0, 1, -1).to(x).view(-1, 1, 1, 1) * away / away.norm()
    assert torch.allclose(pgd_l2(model, x, y, eps=0.2, random_start=False), expected, atol=1e-12, rtol=0)


def test_an_l2_step_follows_gradients_whose_squares_vanish_in_float32() -> None:
    x = torch.full((2, 1, 2, 2), 0.5)
    grad = torch.tensor([1e-30, 0.0]).view(2, 1, 1, 1).expand(2, 1, 2, 2)
    moved = l2_step(x, grad, x, step_size=0.2, eps=1.0) - x
    assert torch.allclose(l2_norm(moved).flatten(), torch.tensor([0.2, 0.0]))


def test_l2_starts_are_uniform_in_the_ball() -> None:
    x = torch.full((400, 1, 2, 2), 0.5, dtype=torch.float64)
    offset = uniform_in_l2(x, eps=0.1, draws=draws(400)) - x
    radius = l2_norm(offset).flatten() / 0.1
    assert float(radius.max()) <= 1
    assert abs(float((radius**4).mean()) - 0.5) < 0.05  # the share of the volume inside is uniform
    assert float(offset.mean(0).abs().max()) < 0.01


def test_softened_logits_break_a_saturated_model_as_if_it_were_not() -> None:
    model, x = small_network(), images(64)
    x, y = x.float(), model(x).argmax(1)
    network = model.float()

    def certain(x):  # type: ignore[no-untyped-def]
        return network(x) * 1e4

    with torch.no_grad():
        plain, masked, softened = (
            margin(network(x_adv), y) > 0
            for x_adv in (
                pgd_linf(network, x, y, eps=0.03),
                pgd_linf(certain, x, y, eps=0.03),
                pgd_temperature(certain, x, y, eps=0.03),
            )
        )
    assert int(masked.sum()) < int(plain.sum()) // 2
    assert int(softened.sum()) >= int(plain.sum()) - 1


def test_mi_fgsm_equals_torchattacks_in_float64() -> None:
    model, x = small_network(), images()
    ours = mi_fgsm(model, x, Y, eps=EPS, step_size=STEP, steps=8, decay=0.9)
    theirs = torchattacks_attack("MIFGSM", model, x, Y, eps=EPS, alpha=STEP, steps=8, decay=0.9)
    assert float((ours - theirs).abs().max()) < 1e-9


def test_ti_fgsm_equals_torchattacks_without_input_diversity() -> None:
    model, x = small_network().float(), images().float()
    ours = ti_fgsm(model, x, Y, eps=EPS, step_size=STEP, steps=8, decay=0.9, kernel_size=5, sigma=2 / 3)
    theirs = torchattacks_attack(
        "TIFGSM", model, x, Y, eps=EPS, alpha=STEP, steps=8, decay=0.9, len_kernel=5, nsig=3, diversity_prob=0
    )
    assert float(((ours - theirs).abs() < 1e-6).double().mean()) > 0.99


def test_a_gaussian_of_one_pixel_is_mi_fgsm() -> None:
    model, x = small_network(), images()
    assert torch.equal(ti_fgsm(model, x, Y, eps=EPS, kernel_size=1), mi_fgsm(model, x, Y, eps=EPS))
    assert float(_gaussian(7, sigma=3.0).sum()) == pytest.approx(1)


def test_di_fgsm_without_transformations_is_mi_fgsm() -> None:
    model, x = small_network(), images()
    assert torch.equal(di_fgsm(model, x, Y, eps=EPS, smallest=1.0), mi_fgsm(model, x, Y, eps=EPS))
    assert not torch.equal(di_fgsm(model, x, Y, eps=EPS), mi_fgsm(model, x, Y, eps=EPS))


def test_shrunk_content_lies_where_the_draw_puts_it() -> None:
    x = torch.ones(3, 1, 8, 8)
    whole_half_top_left_and_bottom_right = torch.tensor(
        [[0.9, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]]
    )
    placed = _placement(whole_half_top_left_and_bottom_right, probability=0.5, smallest=0.5)
    shown = _shrink(x, placed)[:, 0] > 0.5
    assert shown[0].all()
    for corner in (shown[1], shown[2]):
        assert int(corner.sum()) == 16
    assert shown[1][4:, 4:].all() != shown[1][:4, :4].all()
    assert torch.equal(shown[1], shown[2].flip(0, 1))


def test_deepfool_takes_the_shortest_way_out_of_a_linear_class() -> None:
    model, x = Linear(classes=4), images() * 0.2 + 0.4
    with torch.no_grad():
        logits = model(x)
        y = logits.argmax(1)
        gaps = (logits.gather(1, y[:, None]) - logits) / torch.cdist(model.weight[y], model.weight).clamp(min=1e-9)
        shortest = gaps.scatter(1, y[:, None], math.inf).amin(1)
    x_adv = deepfool(model, x, y, eps=100, overshoot=0.02)
    assert (model(x_adv).argmax(1) != y).all()
    assert torch.allclose(l2_norm(x_adv - x).flatten(), 1.02 * (shortest + 1e-4), rtol=1e-6)


def test_deepfool_equals_foolbox_in_float64() -> None:
    model, x = small_network(), images()
    y = model(x).argmax(1)
    ours = deepfool(model, x, y, eps=100, steps=20)
    theirs = foolbox_minimum("L2DeepFoolAttack", model, x, y, steps=20, candidates=5)
    assert float((ours - theirs).abs().max()) < 1e-9


def test_cw_equals_foolbox_in_float64() -> None:
    model, x = small_network(), images()
    y = model(x).argmax(1)
    ours = cw_l2(model, x, y, eps=100, steps=15, searches=4, constant=2**-4)
    theirs = foolbox_minimum(
        "L2CarliniWagnerAttack", model, x, y,
        steps=15, binary_search_steps=4, initial_const=2**-4, abort_early=False,
    )  # fmt: skip
    found = theirs.flatten(1).abs().sum(1) > 0
    assert int(found.sum()) > 0
    assert float((ours - theirs)[found].abs().max()) < 1e-9
    assert torch.equal(ours[~found], x[~found])


def test_cw_comes_near_the_shortest_way_out_of_a_linear_class() -> None:
    model, x = Linear(classes=4), images() * 0.2 + 0.4
    y = model(x).argmax(1)
    shortest = l2_norm(deepfool(model, x, y, eps=100, overshoot=0) - x)
    found = l2_norm(cw_l2(model, x, y, eps=100, constant=1.0, steps=80, searches=4) - x)
    assert (found < 1.1 * shortest + 0.01).all()


@pytest.mark.parametrize("attack", [deepfool, partial(cw_l2, steps=20, searches=2, constant=1.0)])
def test_a_budget_too_small_leaves_an_image_on_the_way_to_its_adversary(attack) -> None:  # type: ignore[no-untyped-def]
    model, x = small_network(), images()
    y = model(x).argmax(1)
    far = attack(model, x, y, eps=100)
    needed = l2_norm(far - x)
    small = attack(model, x, y, eps=float(needed.max()) / 2)
    assert torch.allclose(l2_norm(small - x), needed.clamp(max=float(needed.max()) / 2))
    assert torch.allclose(small - x, (far - x) * (l2_norm(small - x) / needed.clamp(min=1e-12)))


def test_square_raises_the_margin_with_its_queries_and_needs_no_gradient() -> None:
    model, x = small_network(), images(32)
    y = model(x).argmax(1)

    def engine(x):  # type: ignore[no-untyped-def]
        assert not x.requires_grad
        return model(x.detach())

    with torch.no_grad():
        margins = [margin(model(square(engine, x, y, eps=0.05, queries=n)), y) for n in (1, 10, 80)]
    assert float(margins[2].mean()) > float(margins[1].mean()) > float(margins[0].mean())
    assert (margins[2] > 0).any()


def test_squares_shrink_as_the_authors_schedule_says() -> None:
    # 32 x 32 pixels, share 0.8: side = round(sqrt(p * 1024)), p halved after 10, 50, 200, ... of 10,000 queries.
    sides = {query: _side(query, queries=10_000, share=0.8, size=(32, 32)) for query in (0, 10, 11, 51, 8001)}
    assert sides == {0: 29, 10: 29, 11: 20, 51: 14, 8001: 1}


def test_an_ensemble_breaks_what_any_of_its_attacks_breaks() -> None:
    model, x = small_network(), images(64)
    y = torch.arange(64) % 5
    options = {"eps": 0.02, "draws": draws(64)}
    together = model(ensemble(model, x, y, attacks="fgsm, pgd-linf", **options)).argmax(1) != y
    first = model(ensemble(model, x, y, attacks="fgsm,pgd-linf", stop="first", **options)).argmax(1) != y
    alone = [model(ensemble(model, x, y, attacks=name, **options)).argmax(1) != y for name in ("fgsm", "pgd-linf")]
    assert torch.equal(together, alone[0] | alone[1])
    assert torch.equal(first, together)


def test_an_ensembles_budget_is_that_of_its_members() -> None:
    model, x = small_network(), images()
    given = {"eps": EPS, "queries": 7, "draws": draws(16)}
    assert torch.equal(ensemble(model, x, Y, attacks="square", steps=3, **given), square(model, x, Y, **given))
    steps = {"eps": EPS, "steps": 3, "draws": draws(16)}
    assert torch.equal(ensemble(model, x, Y, attacks="pgd-linf", queries=7, **steps), pgd_linf(model, x, Y, **steps))


@pytest.mark.parametrize(
    "classes, attacks, message",
    [
        (
            2,
            "fgsm,apgd-ce,apgd-t,square",
            "apgd-t needs at least 4 classes and the model has 2; give --attacks fgsm,apgd-ce,square",
        ),
        (3, "apgd-t,apgd-dlr", "apgd-t needs at least 4 classes and the model has 3; give --attacks apgd-dlr"),
        (2, "apgd-dlr", "apgd-dlr needs at least 3 classes and the model has 2; choose others"),
    ],
)
def test_an_ensemble_names_the_attacks_that_are_defined_before_any_runs(
    classes: int, attacks: str, message: str
) -> None:
    calls: list[int] = []

    def model(x: torch.Tensor) -> torch.Tensor:
        calls.append(len(x))
        return x.flatten(1)[:, :classes]

    with pytest.raises(ConfigError, match=message):
        ensemble(model, torch.rand(4, 1, 4, 4), torch.zeros(4, dtype=torch.long), eps=0.1, attacks=attacks)
    assert calls == [1]


@pytest.mark.parametrize("attacks", ["pgd-l2", "fgsm-possas", "ensemble", "fgsm,ifgsm-unprojected"])
def test_attacks_of_another_threat_model_are_no_members(attacks: str) -> None:
    with pytest.raises(ConfigError, match="cannot be part of an ensemble; expected L-infinity attacks within eps"):
        ensemble(small_network(), images(), Y, eps=EPS, attacks=attacks)


@pytest.mark.parametrize(
    ("attack", "options", "message"),
    [
        (square, {"share": 0}, "share = 0; expected a share of the pixels above 0"),
        (di_fgsm, {"smallest": 1.5}, "smallest = 1.5; expected both in"),
        (ti_fgsm, {"kernel_size": 4}, "kernel_size = 4; expected an odd number"),
        (deepfool, {"candidates": 1}, "candidates = 1"),
        (cw_l2, {"confidence": -1.0}, "confidence = -1; expected 0 or more"),
        (pgd_temperature, {"rho": 0.7}, "rho = 0.7; expected a probability"),
    ],
)
def test_parameters_out_of_range_are_refused(attack, options: dict, message: str) -> None:  # type: ignore[type-arg,no-untyped-def]
    with pytest.raises(ConfigError, match=message):
        attack(small_network(), images(), Y, eps=EPS, **options)

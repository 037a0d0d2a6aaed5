"""FGSM, I-FGSM, PGD and noise against closed forms and two independent libraries."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from edgeproof.attacks.fgsm import fgsm, fgsm_possas, ifgsm, ifgsm_unprojected
from edgeproof.attacks.losses import margin
from edgeproof.attacks.noise import noise
from edgeproof.attacks.pgd import pgd_linf
from edgeproof.errors import ConfigError, ModelError
from tests.oracles import Linear, draws, foolbox_pgd, images, random_start, small_network, torchattacks_pgd

EPS, STEP = 8 / 255, 2 / 255
Y = torch.arange(16) % 5


def optimum(model: Linear, x: Tensor, y: Tensor, *, eps: float) -> Tensor:
    """Return the worst image of a linear two-class model: every pixel goes the whole way, as far as [0, 1] lets it."""
    with torch.no_grad():
        away = (model.weight[1] - model.weight[0]).sign().view(1, *x.shape[1:])
        return (x + eps * torch.where(y == 0, 1, -1).to(x).view(-1, 1, 1, 1) * away).clamp(0, 1)


def test_fgsm_reaches_the_optimum_of_a_linear_model() -> None:
    model, x, y = Linear(), images(), torch.arange(16) % 2
    assert torch.equal(fgsm(model, x, y, eps=EPS), optimum(model, x, y, eps=EPS))


@pytest.mark.parametrize("keep", ["best", "last"])
@pytest.mark.parametrize("loss", ["ce", "margin"])
def test_pgd_reaches_the_optimum_of_a_linear_model_from_any_start(loss, keep) -> None:  # type: ignore[no-untyped-def]
    model, x, y = Linear(), images(), torch.arange(16) % 2
    x_adv = pgd_linf(model, x, y, eps=EPS, steps=8, step_size=EPS / 3, loss=loss, keep=keep, draws=draws(16))
    assert torch.allclose(x_adv, optimum(model, x, y, eps=EPS), atol=1e-15, rtol=0)


def test_descent_reaches_the_other_optimum_of_a_linear_model() -> None:
    model, x, y = Linear(), images(), torch.arange(16) % 2
    expected = optimum(model, x, 1 - y, eps=EPS)
    assert torch.equal(fgsm(model, x, y, eps=EPS, direction="descent"), expected)
    assert torch.allclose(pgd_linf(model, x, y, eps=EPS, direction="descent"), expected, atol=1e-15, rtol=0)


def test_fgsm_equals_foolbox_in_float64() -> None:
    model, x = small_network(), images()
    theirs = foolbox_pgd(model, x, Y, start=x, eps=EPS, step_size=EPS, steps=1, norm="linf")
    assert float((fgsm(model, x, Y, eps=EPS) - theirs).abs().max()) < 1e-9


@pytest.mark.parametrize("steps", [1, 10])
def test_pgd_equals_foolbox_and_torchattacks_in_float64(steps: int) -> None:
    model, x = small_network(), images()
    start, same = random_start(x, eps=EPS, seed=5)
    ours = pgd_linf(model, x, Y, eps=EPS, step_size=STEP, steps=steps, keep="last", draws=same)
    foolbox = foolbox_pgd(model, x, Y, start=start, eps=EPS, step_size=STEP, steps=steps, norm="linf")
    torchattacks = torchattacks_pgd(model, x, Y, seed=5, eps=EPS, step_size=STEP, steps=steps)
    assert float((ours - foolbox).abs().max()) < 1e-9
    assert float((ours - torchattacks).abs().max()) < 1e-9


def test_pgd_equals_foolbox_and_torchattacks_in_float32_on_nearly_every_pixel() -> None:
    model, x = small_network().float(), images().float()
    start, same = random_start(x, eps=EPS, seed=5)
    ours = pgd_linf(model, x, Y, eps=EPS, step_size=STEP, steps=10, keep="last", draws=same)
    foolbox = foolbox_pgd(model, x, Y, start=start, eps=EPS, step_size=STEP, steps=10, norm="linf")
    torchattacks = torchattacks_pgd(model, x, Y, seed=5, eps=EPS, step_size=STEP, steps=10)
    for theirs in (foolbox, torchattacks):
        assert float(((ours - theirs).abs() < 1e-6).double().mean()) >= 0.999
        assert torch.equal(model(ours).argmax(1) == Y, model(theirs).argmax(1) == Y)


def test_ifgsm_equals_foolbox_from_the_clean_images() -> None:
    model, x = small_network(), images()
    theirs = foolbox_pgd(model, x, Y, start=x, eps=EPS, step_size=STEP, steps=6, norm="linf")
    assert float((ifgsm(model, x, Y, eps=EPS, step_size=STEP, steps=6) - theirs).abs().max()) < 1e-9


def test_unprojected_steps_go_steps_times_eps_on_a_linear_model() -> None:
    model, x, y = Linear(), images(), torch.arange(16) % 2
    x_adv = ifgsm_unprojected(model, x, y, eps=0.01, steps=3)
    assert torch.allclose(x_adv, optimum(model, x, y, eps=0.03), atol=1e-15, rtol=0)


def test_the_paper_variant_neither_clips_nor_stands_still_at_a_zero_gradient() -> None:
    model, x, y = Linear(), images(), torch.arange(16) % 2
    flat = torch.zeros_like(x[:1])
    dead = fgsm_possas(lambda x: x.flatten(1)[:, :2] * 0, flat, y[:1], eps=0.01)
    assert torch.equal(dead, flat + 0.01)
    x_adv = fgsm_possas(model, x, y, eps=0.01, steps=3)
    assert torch.allclose((x_adv - x).abs(), torch.full_like(x, 0.03))
    assert float(x_adv.min()) < 0
    assert float(x_adv.max()) > 1


def test_worst_iterate_is_never_milder_than_the_last_one() -> None:
    model, x = small_network(), images(64)
    y = torch.arange(64) % 5
    with torch.no_grad():
        best, last = (
            margin(model(pgd_linf(model, x, y, eps=0.1, step_size=0.08, steps=7, keep=keep)), y)
            for keep in ("best", "last")
        )
    assert (best >= last).all()
    assert (best > last).any()


def test_restarts_never_lose_what_an_earlier_one_found() -> None:
    model, x = small_network(), images(64)
    y = torch.arange(64) % 5
    with torch.no_grad():
        margins = [margin(model(pgd_linf(model, x, y, eps=0.02, steps=3, restarts=n)), y) for n in (1, 2, 4)]
    assert (margins[1] >= margins[0]).all()
    assert (margins[2] >= margins[1]).all()
    assert (margins[2] > margins[0]).any()


@pytest.mark.parametrize("attack", [fgsm, ifgsm, pgd_linf])
def test_likely_labels_are_those_of_the_clean_image(attack) -> None:  # type: ignore[no-untyped-def]
    model, x = small_network(), images()
    with torch.no_grad():
        logits = model(x)
    for label, y in [
        ("most-likely", logits.argmax(1)),
        ("least-likely", logits.argmin(1)),
        ("3", torch.full((16,), 3)),
    ]:
        assert torch.equal(attack(model, x, Y, eps=EPS, label=label), attack(model, x, y, eps=EPS))


@pytest.mark.parametrize("label", ["5", "-1", "likely", "0" * 5000])
def test_a_label_that_is_no_class_is_refused(label: str) -> None:
    with pytest.raises(ConfigError, match="expected true, most-likely, least-likely or a class from 0 to 4"):
        fgsm(small_network(), images(), Y, eps=EPS, label=label)


def test_sign_noise_moves_every_pixel_by_eps_and_uniform_noise_by_half_of_it_on_average() -> None:
    x = torch.full((8, 3, 8, 8), 0.5)
    signs = noise(small_network(), x, Y[:8], eps=0.1, kind="sign") - x
    uniform = noise(small_network(), x, Y[:8], eps=0.1) - x
    assert torch.allclose(signs.abs(), torch.tensor(0.1))
    assert abs(float((signs > 0).float().mean()) - 0.5) < 0.05
    assert abs(float(uniform.abs().mean()) - 0.05) < 0.002


def test_several_equal_searches_are_refused() -> None:
    with pytest.raises(ConfigError, match="restarts = 3 without a random start repeat the same search"):
        pgd_linf(small_network(), images(), Y, eps=EPS, restarts=3, random_start=False)


def test_keeping_the_last_iterate_of_several_restarts_is_refused() -> None:
    with pytest.raises(ConfigError, match="keep = 'last' needs restarts = 1 and stop = 'never', not 2"):
        pgd_linf(small_network(), images(), Y, eps=EPS, restarts=2, keep="last")


def test_steps_of_zero_are_refused() -> None:
    with pytest.raises(ConfigError, match="steps = 0; expected more than 0"):
        pgd_linf(small_network(), images(), Y, eps=EPS, steps=0)


def test_a_model_without_gradients_is_refused_with_what_to_do() -> None:
    with pytest.raises(ModelError, match=r"gives no gradient .* use an attack that needs none"):
        fgsm(lambda x: small_network()(x.detach()).detach(), images(), Y, eps=EPS)

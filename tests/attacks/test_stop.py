from __future__ import annotations

import pytest
import torch

from edgeproof.attacks.base import parse_stop
from edgeproof.attacks.fgsm import fgsm
from edgeproof.attacks.losses import margin
from edgeproof.attacks.pgd import pgd_linf
from edgeproof.errors import ConfigError
from tests.oracles import draws, images, small_network

Y = torch.arange(64) % 5


def run(stop: str, *, model=None, **options):  # type: ignore[no-untyped-def]
    return pgd_linf(model or small_network(), images(64), Y, eps=0.03, stop=stop, draws=draws(64), **options)


def test_stopping_at_first_success_breaks_all_that_never_stopping_breaks() -> None:
    model = small_network()
    with torch.no_grad():
        first, never = (margin(model(run(stop)), Y) for stop in ("first", "never"))
    assert ((first > 0) >= (never > 0)).all()
    assert 0 < int((never > 0).sum()) < 64
    assert float(never.mean()) > float(first.mean())


def test_images_that_leave_change_nothing_for_those_that_stay() -> None:
    model = small_network()
    first, never = run("first"), run("never")
    with torch.no_grad():
        held = margin(model(first), Y) <= 0
    assert torch.allclose(first[held], never[held], atol=1e-12)


def test_images_leave_the_batch_once_they_are_broken() -> None:
    sizes: list[int] = []
    network = small_network()

    def model(x):  # type: ignore[no-untyped-def]
        sizes.append(len(x))
        return network(x)

    run("first", model=model, restarts=2)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == 64
    assert sizes[-1] < 64
    assert len(sizes) >= 2 * 21


def test_a_margin_asks_for_more_than_a_mere_crossing() -> None:
    model = small_network()
    with torch.no_grad():
        first, wide = (margin(model(run(stop)), Y) for stop in ("first", "margin=0.5"))
    assert ((wide > 0.5) >= (first > 0.5)).all()
    assert (wide >= first).all()
    assert int((wide > 0.5).sum()) > int((first > 0.5).sum())


def test_a_whole_first_step_settles_what_it_can() -> None:
    model, x = small_network(), images(64)
    sizes: list[int] = []

    def counting(x):  # type: ignore[no-untyped-def]
        sizes.append(len(x))
        return model(x)

    with torch.no_grad():
        y = model(x).argmax(1)
        left = int((model(fgsm(model, x, y, eps=0.01)).argmax(1) == y).sum())
    pgd_linf(counting, x, y, eps=0.01, step_size=1e-6, random_start=False, stop="first")
    assert 0 < left < 64
    assert sizes[:3] == [64, 64, left]  # the clean images, the whole steps, the second iterate of what is left


@pytest.mark.parametrize("text", ["soon", "margin", "margin=", "margin=-1", "margin=nan", "first=2", "margin=inf"])
def test_another_rule_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected never, first or margin=K"):
        parse_stop(text)

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeproof.kernels.l2_step import l2_step, reference
from tests.kernels.table import SCALARS, SHAPES, gradients, mixed, narrow, plain, rng, rounded, widen

# The sums are in double, so another order of adding moves a pixel by at most one unit in the last place of its type.
ULP = {"f32": 2.0**-23, "f16": 2.0**-10, "bf16": 2.0**-7}


def run(device: Any, scalar: str, x: np.ndarray, grad: np.ndarray, origin: np.ndarray, **options: Any) -> np.ndarray:
    """Launch on copies out of place and return the output, widened."""
    offset = options.pop("offset", 0)
    put = [device.put(narrow(values, scalar), scalar, offset=offset) for values in (x, grad, origin, np.zeros_like(x))]
    placed = {name: device.put(value) if isinstance(value, np.ndarray) else value for name, value in options.items()}
    l2_step(*put, **placed)
    return widen(device.get(put[-1]), scalar)


def check(device: Any, scalar: str, shape: tuple[int, ...], **options: Any) -> None:
    x, grad, origin = plain(shape, scalar, "x"), gradients(shape, scalar), plain(shape, scalar, "origin")
    out = run(device, scalar, x, grad, origin, **options)
    options.pop("offset", None)
    expected = rounded(reference(x, grad, origin, **options), scalar)
    np.testing.assert_allclose(out, expected, rtol=ULP[scalar], atol=0)


@pytest.mark.parametrize("scalar", SCALARS)
@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 10_000])
@pytest.mark.parametrize("offset", [0, 1])
def test_every_size_and_address_gives_the_reference(device: Any, scalar: str, size: int, offset: int) -> None:
    check(device, scalar, (1, size), offset=offset, step_size=0.5, eps=1.0)


@pytest.mark.parametrize("scalar", SCALARS)
@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape[0] < 20], ids=str)
@pytest.mark.parametrize("direction", ["ascent", "descent"])
def test_budgets_go_by_image(device: Any, scalar: str, shape: tuple[int, ...], direction: str) -> None:
    random = rng(shape)
    steps, radii = (random.uniform(0, 2, shape[0]).astype(np.float32) for _ in range(2))
    check(device, scalar, shape, step_size=steps, eps=radii, direction=direction)


def test_a_step_inside_the_ball_has_the_asked_length(device: Any) -> None:
    shape = (6, 3, 5, 5)
    origin = plain(shape, "f32", "origin", low=0.4, high=0.6)
    moved = run(device, "f32", origin, gradients(shape, "f32"), origin, step_size=0.25, eps=1.0)
    np.testing.assert_allclose(np.linalg.norm((moved - origin).reshape(6, -1), axis=1), 0.25, rtol=1e-5)


def test_a_step_out_of_the_ball_ends_on_it(device: Any) -> None:
    shape = (6, 3, 5, 5)
    origin = plain(shape, "f32", "origin", low=0.4, high=0.6)
    moved = run(device, "f32", origin, gradients(shape, "f32"), origin, step_size=3.0, eps=0.25)
    np.testing.assert_allclose(np.linalg.norm((moved - origin).reshape(6, -1), axis=1), 0.25, rtol=1e-5)


@pytest.mark.parametrize("size", [1e-30, 1e-20, 1.0, 1e20, 1e30])
def test_the_size_of_the_gradient_does_not_matter(device: Any, size: float) -> None:
    origin = np.full((1, 4), 0.5, np.float32)
    grad = np.array([[3, 0, -4, 0]], np.float32) * np.float32(size)
    moved = run(device, "f32", origin, grad, origin, step_size=0.25, eps=1.0)
    np.testing.assert_allclose(moved, [[0.65, 0.5, 0.3, 0.5]], rtol=1e-6)


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf, -np.inf])
def test_a_gradient_without_a_direction_moves_nothing(device: Any, bad: float) -> None:
    x = plain((1, 33), "f32", "x", low=0.4, high=0.6)
    grad = np.zeros_like(x)
    grad[0, 7] = bad
    np.testing.assert_array_equal(run(device, "f32", x, grad, x, step_size=0.25, eps=1.0), x)


def test_values_at_the_borders_give_the_reference(device: Any) -> None:
    shape = (7, 65)
    x, grad, origin = (mixed(shape, "f32", name) for name in ("x", "grad", "origin"))
    x[:3], grad[:3], origin[:3] = np.nan_to_num(x[:3]), gradients(shape, "f32")[:3], plain(shape, "f32")[:3]
    out = run(device, "f32", x, grad, origin, step_size=0.25, eps=0.5)
    np.testing.assert_allclose(out, reference(x, grad, origin, step_size=0.25, eps=0.5), rtol=ULP["f32"], atol=0)


def test_the_output_may_be_the_input(device: Any) -> None:
    x, grad, origin = (plain((3, 85), "f32", name) for name in ("x", "grad", "origin"))
    put = [device.put(values) for values in (x, grad, origin)]
    l2_step(*put, put[0], step_size=0.5, eps=1.0)
    expected = reference(x, grad, origin, step_size=0.5, eps=1.0)
    np.testing.assert_allclose(device.get(put[0]), expected, rtol=ULP["f32"])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    n=st.integers(1, 3), size=st.integers(1, 40), step=st.floats(0, 4), eps=st.floats(0, 4), seed=st.integers(0, 2**31)
)
def test_no_image_leaves_the_ball_or_the_range(
    device: Any, n: int, size: int, step: float, eps: float, seed: int
) -> None:
    x, origin = plain((n, size), "f32", seed), plain((n, size), "f32", seed, 1)
    moved = run(device, "f32", x, gradients((n, size), "f32", seed), origin, step_size=step, eps=eps)
    assert ((moved >= 0) & (moved <= 1)).all()
    distance = np.linalg.norm((moved - origin).astype(np.float64), axis=1)
    assert (distance <= eps * (1 + 1e-6) + 2.0**-24 * np.sqrt(size)).all()

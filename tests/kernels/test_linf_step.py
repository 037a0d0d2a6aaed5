from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgeproof.kernels.linf_step import linf_step, reference
from tests.kernels.table import EPS, SCALARS, SHAPES, SIZES, assert_equal, mixed, narrow, plain, rng, rounded


def run(device: Any, scalar: str, x: np.ndarray, grad: np.ndarray, origin: np.ndarray, **options: Any) -> np.ndarray:
    """Launch on copies out of place and return the output's bits."""
    offset = options.pop("offset", 0)
    put = [device.put(narrow(values, scalar), scalar, offset=offset) for values in (x, grad, origin, np.zeros_like(x))]
    placed = {name: device.put(value) if isinstance(value, np.ndarray) else value for name, value in options.items()}
    linf_step(*put, **placed)
    return device.get(put[-1])


@pytest.mark.parametrize("scalar", SCALARS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("offset", [0, 1])
def test_every_size_and_address_gives_the_reference(device: Any, scalar: str, size: int, offset: int) -> None:
    shape = (1, size)
    x, grad, origin = (mixed(shape, scalar, name) for name in ("x", "grad", "origin"))
    out = run(device, scalar, x, grad, origin, step_size=2 / 255, eps=EPS, offset=offset)
    assert_equal(out, reference(x, grad, origin, step_size=2 / 255, eps=EPS), scalar)


@pytest.mark.parametrize("scalar", SCALARS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("direction", ["ascent", "descent"])
def test_budgets_go_by_image(device: Any, scalar: str, shape: tuple[int, ...], direction: str) -> None:
    random = rng(shape)
    options = {
        "step_size": random.uniform(0, 0.1, shape[0]).astype(np.float32),
        "eps": random.uniform(0, 0.2, shape[0]).astype(np.float32),
        "direction": direction,
    }
    x, grad, origin = (mixed(shape, scalar, name) for name in ("x", "grad", "origin"))
    assert_equal(run(device, scalar, x, grad, origin, **options), reference(x, grad, origin, **options), scalar)


def test_the_output_may_be_the_input(device: Any) -> None:
    x, grad, origin = (plain((3, 5, 17), "f32", name) for name in ("x", "grad", "origin"))
    put = [device.put(values) for values in (x, grad, origin)]
    linf_step(*put, put[0], step_size=0.01, eps=EPS)
    np.testing.assert_array_equal(device.get(put[0]), reference(x, grad, origin, step_size=0.01, eps=EPS))


# On a border, beyond it, at either end of the range, and a gradient without a sign: worked out by hand.
@pytest.mark.parametrize(
    "x, grad, origin, expected",
    [
        (0.5, 1.0, 0.5, 0.625),
        (0.5, -1e-45, 0.5, 0.375),
        (0.5, 0.0, 0.5, 0.5),
        (0.5, -0.0, 0.5, 0.5),
        (0.5, np.nan, 0.5, 0.5),
        (0.5, np.inf, 0.5, 0.625),
        (0.75, 1.0, 0.5, 0.75),
        (0.25, -1.0, 0.5, 0.25),
        (1.0, 1.0, 1.0, 1.0),
        (0.0, -1.0, 0.0, 0.0),
        (9.0, 1.0, 0.5, 0.75),
        (np.inf, 1.0, 0.5, 0.75),
        (-np.inf, 1.0, 0.5, 0.25),
        (np.nan, 1.0, 0.5, np.nan),
        (0.5, 1.0, np.nan, np.nan),
    ],
)
def test_one_pixel_moves_as_worked_out_by_hand(
    device: Any, x: float, grad: float, origin: float, expected: float
) -> None:
    columns = [np.full((1, 1), value, np.float32) for value in (x, grad, origin)]
    moved = reference(*columns, step_size=0.125, eps=0.25)
    np.testing.assert_array_equal(moved, np.full((1, 1), expected, np.float32))
    np.testing.assert_array_equal(run(device, "f32", *columns, step_size=0.125, eps=0.25), moved)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), scalar=st.sampled_from(SCALARS))
def test_any_float_gives_the_reference(device: Any, data: st.DataObject, scalar: str) -> None:
    shape = (data.draw(st.integers(0, 4)), data.draw(st.integers(0, 37)))
    floats = arrays(np.float32, shape, elements=st.floats(width=32))
    x, grad, origin = (rounded(data.draw(floats), scalar) for _ in range(3))
    number = st.floats(0, 2.0**20, width=32)
    options = {
        "step_size": data.draw(number),
        "eps": data.draw(number),
        "direction": data.draw(st.sampled_from(["ascent", "descent"])),
        "offset": data.draw(st.integers(0, 7)),
    }
    out = run(device, scalar, x, grad, origin, **dict(options))
    options.pop("offset")
    assert_equal(out, reference(x, grad, origin, **options), scalar)

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgeproof.kernels.linf_step import reference as linf_reference
from edgeproof.kernels.momentum_step import momentum_step, reference
from tests.kernels.table import EPS, SCALARS, SHAPES, assert_equal, gradients, mixed, narrow, plain, rng

# A sum in another order may differ by one unit in the last place of float32 once it is rounded.
MOMENTUM_RTOL = 2.0**-22


def run(device: Any, scalar: str, *arrays: np.ndarray, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    """Launch on copies of x, grad, momentum and origin: the output's bits and the new momentum."""
    offset = options.pop("offset", 0)
    x, grad, origin = (device.put(narrow(arrays[i], scalar), scalar, offset=offset) for i in (0, 1, 3))
    momentum, out = device.put(arrays[2], offset=offset), device.put(narrow(np.zeros_like(arrays[0]), scalar), scalar)
    placed = {name: device.put(value) if isinstance(value, np.ndarray) else value for name, value in options.items()}
    momentum_step(x, grad, momentum, origin, out, **placed)
    return device.get(out), device.get(momentum)


def check(device: Any, scalar: str, shape: tuple[int, ...], offset: int = 0, **options: Any) -> None:
    x, grad, origin = plain(shape, scalar, "x"), gradients(shape, scalar), plain(shape, scalar, "origin")
    before = plain(shape, "f32", "momentum", low=-1)
    out, momentum = run(device, scalar, x, grad, before, origin, offset=offset, **options)
    _, expected = reference(x, grad, before, origin, **options)
    np.testing.assert_allclose(momentum, expected, rtol=MOMENTUM_RTOL, atol=1e-9)
    # Past the reduction the step is element-wise, and exact: against the momentum that the kernel itself has found.
    options.pop("decay")
    assert_equal(out, linf_reference(x, momentum, origin, **options), scalar)


@pytest.mark.parametrize("scalar", SCALARS)
@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 10_000])
@pytest.mark.parametrize("offset", [0, 1])
def test_every_size_and_address_gives_the_reference(device: Any, scalar: str, size: int, offset: int) -> None:
    check(device, scalar, (1, size), offset, decay=1.0, step_size=2 / 255, eps=EPS)


@pytest.mark.parametrize("scalar", SCALARS)
@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape[0] < 20], ids=str)
def test_budgets_go_by_image(device: Any, scalar: str, shape: tuple[int, ...]) -> None:
    random = rng(shape)
    steps, radii = (random.uniform(0, 0.2, shape[0]).astype(np.float32) for _ in range(2))
    check(device, scalar, shape, decay=0.9, step_size=steps, eps=radii, direction="descent")


def test_a_gradient_that_is_zero_adds_nothing(device: Any) -> None:
    x, before = plain((2, 33), "f32", "x"), plain((2, 33), "f32", "m", low=-1)
    _, momentum = run(device, "f32", x, x * 0, before, x, decay=0.5, step_size=0.01, eps=EPS)
    np.testing.assert_array_equal(momentum, before * np.float32(0.5))


def test_a_constant_gradient_adds_one_over_the_number_of_pixels(device: Any) -> None:
    x = plain((3, 64), "f32", "x")
    grad = np.array([1e-30, 1.0, 1e30], np.float32)[:, None] * np.ones_like(x)
    _, momentum = run(device, "f32", x, grad, x * 0, x, decay=1.0, step_size=0.01, eps=EPS)
    np.testing.assert_allclose(momentum, 1 / 64, rtol=1e-6)


def test_values_at_the_borders_give_the_reference(device: Any) -> None:
    shape = (7, 65)
    x, grad, before, origin = (mixed(shape, "f32", name) for name in ("x", "grad", "momentum", "origin"))
    grad[:3] = gradients(shape, "f32")[:3]  # some images without NaN, which spreads over an image
    out, momentum = run(device, "f32", x, grad, before, origin, decay=1.0, step_size=0.01, eps=EPS)
    expected = reference(x, grad, before, origin, decay=1.0, step_size=0.01, eps=EPS)
    np.testing.assert_allclose(momentum, expected[1], rtol=MOMENTUM_RTOL, atol=1e-45)
    np.testing.assert_array_equal(out, linf_reference(x, momentum, origin, step_size=0.01, eps=EPS))


def test_the_output_may_be_the_input(device: Any) -> None:
    x, grad, before, origin = (plain((3, 85), "f32", name) for name in ("x", "grad", "momentum", "origin"))
    put = [device.put(values) for values in (x, grad, before, origin)]
    momentum_step(*put, put[0], decay=1.0, step_size=0.01, eps=EPS)
    expected, _ = reference(x, grad, before, origin, decay=1.0, step_size=0.01, eps=EPS)
    np.testing.assert_array_equal(device.get(put[0]), expected)

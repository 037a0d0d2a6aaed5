from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeproof.kernels.universal_apply import reference, universal_apply, universal_update, update_reference
from tests.kernels.table import EPS, SCALARS, SHAPES, SIZES, assert_equal, gradients, mixed, narrow, plain, rng


def apply(device: Any, scalar: str, x: np.ndarray, delta: np.ndarray, labels: Any = None, offset: int = 0) -> Any:
    """Launch on copies out of place and return the output's bits."""
    placed, table, out = (device.put(narrow(a, scalar), scalar, offset=offset) for a in (x, delta, np.zeros_like(x)))
    universal_apply(placed, table, out, labels=None if labels is None else device.put(labels))
    return device.get(out)


def update(device: Any, scalar: str, grad: np.ndarray, delta: np.ndarray, labels: Any = None, **options: Any) -> Any:
    """Launch on copies and return the new perturbation's bits."""
    slopes, table = device.put(narrow(grad, scalar), scalar), device.put(narrow(delta, scalar), scalar)
    universal_update(slopes, table, labels=None if labels is None else device.put(labels), **options)
    return device.get(table)


@pytest.mark.parametrize("scalar", SCALARS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("offset", [0, 1])
def test_every_size_and_address_gives_the_reference(device: Any, scalar: str, size: int, offset: int) -> None:
    x, delta = mixed((1, size), scalar, "x"), mixed((size,), scalar, "delta")
    assert_equal(apply(device, scalar, x, delta, offset=offset), reference(x, delta), scalar)


@pytest.mark.parametrize("scalar", SCALARS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_labels_choose_the_perturbation(device: Any, scalar: str, shape: tuple[int, ...]) -> None:
    x, delta = mixed(shape, scalar, "x"), mixed((10, *shape[1:]), scalar, "delta")
    labels = rng(shape).integers(0, 10, shape[0])
    assert_equal(apply(device, scalar, x, delta, labels), reference(x, delta, labels=labels), scalar)


@pytest.mark.parametrize("classes", [0, 3])
def test_a_class_outside_the_table_gives_nan_and_reads_nothing(device: Any, classes: int) -> None:
    x, delta = plain((4, 21), "f32", "x"), plain((classes, 21), "f32", "delta")
    labels = np.array([0, -1, classes, 2**62])
    out = apply(device, "f32", x, delta, labels)
    np.testing.assert_array_equal(out, reference(x, delta, labels=labels))
    assert np.isnan(out[1:]).all()


def test_the_output_may_be_the_input(device: Any) -> None:
    x, delta = plain((3, 85), "f32", "x"), plain((85,), "f32", "delta")
    placed, table = device.put(x), device.put(delta)
    universal_apply(placed, table, placed)
    np.testing.assert_array_equal(device.get(placed), reference(x, delta))


@pytest.mark.parametrize("scalar", SCALARS)
@pytest.mark.parametrize("shape", [*SHAPES, (1, 10_000), (300, 33)], ids=str)
@pytest.mark.parametrize("direction", ["ascent", "descent"])
def test_the_update_follows_the_sign_of_the_batch_mean(
    device: Any, scalar: str, shape: tuple[int, ...], direction: Any
) -> None:
    grad, delta = gradients(shape, scalar), plain(shape[1:], scalar, "delta", low=-0.04, high=0.04)
    options = {"step_size": 0.01, "eps": EPS, "direction": direction}
    assert_equal(update(device, scalar, grad, delta, **options), update_reference(grad, delta, **options), scalar)


@pytest.mark.parametrize("scalar", SCALARS)
def test_the_update_of_a_class_follows_its_images_alone(device: Any, scalar: str) -> None:
    grad, delta = gradients((24, 3, 5, 5), scalar), plain((4, 3, 5, 5), scalar, "delta", low=-0.04, high=0.04)
    labels = rng("labels").integers(-1, 4, 24)
    labels[labels == 2] = 4  # no image of class 2, and some of none
    options = {"step_size": 0.01, "eps": EPS}
    new = update(device, scalar, grad, delta, labels, **options)
    assert_equal(new, update_reference(grad, delta, labels=labels, **options), scalar)
    assert_equal(new[2], np.clip(delta[2], -np.float32(EPS), np.float32(EPS)), scalar)


def test_gradients_that_cancel_or_are_nan_leave_a_pixel_where_it_is(device: Any) -> None:
    grad = np.array([[1, 1e-30, np.nan, np.inf], [-1, -1e-30, 1, -np.inf]], np.float32)
    delta = np.array([0.01, 0.02, 0.03, -0.01], np.float32)
    np.testing.assert_array_equal(update(device, "f32", grad, delta, step_size=0.005, eps=EPS), delta)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(n=st.integers(0, 70), size=st.integers(0, 70), classes=st.integers(1, 4), seed=st.integers(0, 2**31))
def test_any_batch_gives_the_reference(device: Any, n: int, size: int, classes: int, seed: int) -> None:
    x, delta = plain((n, size), "f32", seed), plain((classes, size), "f32", seed, low=-0.1, high=0.1)
    labels = rng(seed).integers(0, classes, n)
    np.testing.assert_array_equal(apply(device, "f32", x, delta, labels), reference(x, delta, labels=labels))
    grad, options = gradients((n, size), "f32", seed), {"step_size": 0.01, "eps": EPS}
    expected = update_reference(grad, delta, labels=labels, **options)
    np.testing.assert_array_equal(update(device, "f32", grad, delta, labels, **options), expected)

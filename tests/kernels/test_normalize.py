from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeproof.kernels.normalize import denormalize, denormalize_reference, normalize, reference
from tests.kernels.table import SCALARS, SIZES, assert_equal, mixed, narrow, rng, widen

MEAN = np.array([0.4914, 0.4822, 0.4465, 0.5], np.float32)
STD = np.array([0.2470, 0.2435, 0.2616, 0.25], np.float32)
SHAPES = (
    (0, 3, 4, 4),
    (2, 3, 0, 4),
    (1, 1, 1, 1),
    (1, 3, 5, 17),
    (2, 3, 32, 32),
    (3, 4, 7, 9),
    (5, 2, 3, 3),
    (2, 1, 28, 28),
)


def pixels(shape: tuple[int, ...], layout: str) -> np.ndarray:
    levels = rng(shape).integers(0, 256, shape, dtype=np.uint8)
    return np.ascontiguousarray(levels.transpose(0, 2, 3, 1)) if layout == "nhwc" else levels


def to_planes(device: Any, scalar: str, images: np.ndarray, shape: Any, layout: Any, offset: int = 0) -> np.ndarray:
    """Launch `normalize` and return the planes' bits."""
    mean, std = MEAN[: shape[1]], STD[: shape[1]]
    out = device.put(narrow(np.zeros(shape, np.float32), scalar), scalar, offset=offset)
    normalize(device.put(images, offset=offset), out, mean=device.put(mean), std=device.put(std), layout=layout)
    return device.get(out)


def to_bytes(device: Any, scalar: str, planes: np.ndarray, layout: Any, offset: int = 0) -> np.ndarray:
    """Launch `denormalize` and return the bytes."""
    shape = planes.shape
    mean, std = MEAN[: shape[1]], STD[: shape[1]]
    place = tuple(shape[axis] for axis in ((0, 2, 3, 1) if layout == "nhwc" else (0, 1, 2, 3)))
    out = device.put(np.zeros(place, np.uint8), offset=offset)
    source = device.put(narrow(planes, scalar), scalar, offset=offset)
    denormalize(source, out, mean=device.put(mean), std=device.put(std), layout=layout)
    return device.get(out)


@pytest.mark.parametrize("scalar", SCALARS)
@pytest.mark.parametrize("shape", [*SHAPES, *((1, 1, 1, size) for size in SIZES)], ids=str)
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_bytes_to_planes_gives_the_reference(device: Any, scalar: str, shape: tuple[int, ...], layout: Any) -> None:
    images = pixels(shape, layout)
    expected = reference(images, MEAN[: shape[1]], STD[: shape[1]], layout=layout)
    for offset in (0, 1):
        assert_equal(to_planes(device, scalar, images, shape, layout, offset), expected, scalar)


@pytest.mark.parametrize("scalar", SCALARS)
@pytest.mark.parametrize("shape", [*SHAPES, *((1, 1, 1, size) for size in SIZES)], ids=str)
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_planes_to_bytes_gives_the_reference(device: Any, scalar: str, shape: tuple[int, ...], layout: Any) -> None:
    planes = mixed(shape, scalar)
    expected = denormalize_reference(planes, MEAN[: shape[1]], STD[: shape[1]], layout=layout)
    for offset in (0, 1):
        np.testing.assert_array_equal(to_bytes(device, scalar, planes, layout, offset), expected)


@pytest.mark.parametrize("scalar", ["f32", "f16"])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_every_level_survives_the_way_there_and_back(device: Any, scalar: str, layout: Any) -> None:
    levels = np.arange(256, dtype=np.uint8)
    images = np.stack([levels, levels[::-1], levels]).reshape(1, 3, 16, 16)
    images = np.ascontiguousarray(images.transpose(0, 2, 3, 1)) if layout == "nhwc" else images
    planes = widen(to_planes(device, scalar, images, (1, 3, 16, 16), layout), scalar)
    np.testing.assert_array_equal(to_bytes(device, scalar, planes, layout), images)


def test_what_is_out_of_range_saturates_and_nan_is_black(device: Any) -> None:
    planes = np.array([np.nan, np.inf, -np.inf, 1e30, -1e30, 0.0], np.float32).reshape(1, 1, 1, 6)
    expected = np.array([0, 255, 0, 255, 0, 125], np.uint8).reshape(1, 1, 1, 6)
    np.testing.assert_array_equal(to_bytes(device, "f32", planes, "nchw"), expected)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.tuples(st.integers(0, 3), st.integers(1, 4), st.integers(0, 9), st.integers(1, 9)),
    scalar=st.sampled_from(SCALARS),
    layout=st.sampled_from(["nchw", "nhwc"]),
)
def test_any_shape_gives_the_reference(device: Any, shape: tuple[int, ...], scalar: str, layout: Any) -> None:
    images = pixels(shape, layout)
    expected = reference(images, MEAN[: shape[1]], STD[: shape[1]], layout=layout)
    assert_equal(to_planes(device, scalar, images, shape, layout), expected, scalar)

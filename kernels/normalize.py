"""Bytes to normalised float planes and back, in one pass."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgeproof.kernels.arrays import (
    FLOATS,
    DeviceArray,
    KernelArgumentError,
    View,
    images_view,
    require_output,
    typed,
)
from edgeproof.kernels.numerics import Floats
from edgeproof.kernels.runtime import elementwise_blocks, launch

Layout: TypeAlias = Literal["nchw", "nhwc"]
Bytes: TypeAlias = NDArray[np.uint8]

LAYOUT = "PPPPqqqq"


@np.errstate(invalid="ignore", divide="ignore")
def reference(images: Bytes, mean: Floats, std: Floats, *, layout: Layout) -> Floats:
    """Specify the normalisation: (level / 255 - mean) / std in float32, in this order, planes first.

    Args:
        images: uint8 images, (N, C, H, W) or (N, H, W, C) as `layout` says.
        mean: (C,) float32 in units of [0, 1].
        std: (C,) float32, not zero.
        layout: "nchw" or "nhwc": how the bytes lie.

    Returns:
        Planes (N, C, H, W) float32; half types are computed like this and rounded once.
    """
    planes = images.transpose(0, 3, 1, 2) if layout == "nhwc" else images
    scaled = planes.astype(np.float32) / np.float32(255)
    normalized: Floats = (scaled - mean[:, None, None]) / std[:, None, None]
    return normalized


@np.errstate(invalid="ignore", over="ignore")
def denormalize_reference(planes: Floats, mean: Floats, std: Floats, *, layout: Layout) -> Bytes:
    """Specify the way back: rint((value * std + mean) * 255), half to even, saturated to [0, 255]; NaN becomes 0.

    Rounded, not truncated: truncation darkens every image that went through a float.

    Args:
        planes: (N, C, H, W) float32.
        mean: (C,) float32.
        std: (C,) float32.
        layout: How the bytes shall lie.

    Returns:
        uint8 images in that layout.
    """
    scaled = np.rint((planes * std[:, None, None] + mean[:, None, None]) * np.float32(255))
    levels = np.clip(np.nan_to_num(scaled, nan=0.0), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(levels.transpose(0, 2, 3, 1)) if layout == "nhwc" else levels


def normalize(
    images: DeviceArray, out: DeviceArray, *, mean: DeviceArray, std: DeviceArray, layout: Layout, stream: Any = None
) -> None:
    """Launch the normalisation that `reference` specifies.

    Args:
        images: uint8 device array in `layout`.
        out: Device array (N, C, H, W) of float32, float16 or bfloat16.
        mean, std: float32 device arrays (C,).
        layout: "nchw" or "nhwc".
        stream: A pycuda stream; None is the legacy default stream.

    Raises:
        KernelArgumentError: When an argument does not fit; nothing is launched then.
        KernelUnavailableError: When there is no pycuda, driver, device or compiler here.
    """
    planes = _planes("out", out)
    source, centre, scale = _partners(planes, images, "images", mean, std, layout)
    require_output(planes, source, centre, scale)
    _launch("normalize", planes, [source, planes, centre, scale], layout, stream)


def denormalize(
    planes: DeviceArray, out: DeviceArray, *, mean: DeviceArray, std: DeviceArray, layout: Layout, stream: Any = None
) -> None:
    """Launch the way back that `denormalize_reference` specifies.

    Args:
        planes: Device array (N, C, H, W) of float32, float16 or bfloat16.
        out: uint8 device array in `layout`.
        mean, std, layout, stream: As in `normalize`.

    Raises:
        KernelArgumentError: When an argument does not fit; nothing is launched then.
        KernelUnavailableError: When there is no pycuda, driver, device or compiler here.
    """
    source = _planes("planes", planes)
    target, centre, scale = _partners(source, out, "out", mean, std, layout)
    require_output(target, source, centre, scale)
    _launch("denormalize", source, [source, target, centre, scale], layout, stream)


def _planes(name: str, array: DeviceArray) -> View:
    planes = images_view(name, array)
    if len(planes.shape) != 4:
        raise KernelArgumentError(f"{name} has shape {planes.shape}, expected (N, C, H, W)")
    return planes


def _partners(
    planes: View, images: DeviceArray, name: str, mean: DeviceArray, std: DeviceArray, layout: Layout
) -> tuple[View, View, View]:
    """Check the bytes, the means and the deviations that go with planes (N, C, H, W)."""
    if layout not in ("nchw", "nhwc"):
        raise KernelArgumentError(f"layout is {layout!r}, expected 'nchw' or 'nhwc'")
    n, c, h, w = planes.shape
    shape = (n, h, w, c) if layout == "nhwc" else (n, c, h, w)
    pixels = typed(name, images, shape, ("|u1",), f"uint8 {layout} of planes {planes.shape}")
    centre = typed("mean", mean, (c,), FLOATS, "one float32 a channel")
    return pixels, centre, typed("std", std, (c,), FLOATS, "one float32 a channel")


def _launch(kernel: str, planes: View, arrays: list[View], layout: Layout, stream: Any) -> None:
    if planes.size:
        _, channels, height, width = planes.shape
        fields: list[View | int | float | None] = [
            *arrays,
            planes.size,
            channels,
            height * width,
            int(layout == "nhwc"),
        ]
        blocks = elementwise_blocks(planes)
        launch("normalize", f"{kernel}_{planes.scalar}", LAYOUT, fields, blocks=blocks, stream=stream)

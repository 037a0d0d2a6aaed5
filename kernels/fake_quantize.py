"""INT8 quantise-dequantise with the straight-through mask, in one pass."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeproof.kernels.arrays import (
    BYTES,
    FLOATS,
    INTEGERS,
    DeviceArray,
    KernelArgumentError,
    View,
    images_view,
    like,
    require_number,
    require_output,
    typed,
)
from edgeproof.kernels.numerics import Array, Floats, clip
from edgeproof.kernels.runtime import elementwise_blocks, launch

LAYOUT = "PPPPPqqqfiii"
_EXACT = 2**24  # whole numbers up to here are exact in float32


@np.errstate(invalid="ignore", over="ignore", divide="ignore")
def reference(
    x: Floats,
    *,
    scale: float | Floats,
    zero_point: int | NDArray[np.int32] = 0,
    qmin: int = -128,
    qmax: int = 127,
    axis: int | None = None,
) -> tuple[Floats, NDArray[np.bool_]]:
    """Specify ONNX's QuantizeLinear and DequantizeLinear one after the other, in float32.

    q = clip(rint(x / scale) + zero_point, qmin, qmax), half to even; the value is (q - zero_point) * scale. NaN stays NaN (the
    standard leaves it open; hiding it would hide a bug) and lies outside the range.

    Args:
        x: Values of any shape, float32. Half types are widened, computed like this and rounded once.
        scale: Positive step: a number, or (C,) float32 along `axis`.
        zero_point: Level of zero: a number, or (C,) int32 along `axis`.
        qmin: Lowest level.
        qmax: Highest level.
        axis: The channel axis of per-channel scales and zero points.

    Returns:
        The dequantised values, and where the level lay in [qmin, qmax] before clipping: the straight-through gradient's mask.
    """
    step, origin = _along(np.asarray(scale, np.float32), x, axis), _along(np.asarray(zero_point, np.float32), x, axis)
    level = np.rint(x / step) + origin
    value: Floats = (clip(level, float(qmin), float(qmax)) - origin) * step
    return value, (level >= qmin) & (level <= qmax)


def _along(values: Array, x: Array, axis: int | None) -> Array:
    if not values.ndim:
        return values
    return values.reshape([-1 if index == axis else 1 for index in range(x.ndim)])


def fake_quantize(
    x: DeviceArray,
    out: DeviceArray,
    *,
    scale: float | DeviceArray,
    zero_point: int | DeviceArray = 0,
    qmin: int = -128,
    qmax: int = 127,
    axis: int | None = None,
    mask: DeviceArray | None = None,
    stream: Any = None,
) -> None:
    """Launch what `reference` specifies; `out` may be `x` itself.

    Args:
        x, out: Device arrays of one shape and one type: float32, float16 or bfloat16.
        scale: A number, or a float32 device array (C,). The values of an array are not looked at.
        zero_point: A number, or an int32 device array (C,).
        qmin, qmax: Lowest and highest level.
        axis: The channel axis, needed where `scale` or `zero_point` is an array.
        mask: Device array of bool or uint8 like `x` that receives the straight-through mask.
        stream: A pycuda stream; None is the legacy default stream.

    Raises:
        KernelArgumentError: When an argument does not fit; nothing is launched then.
        KernelUnavailableError: When there is no pycuda, driver, device or compiler here.
    """
    values = images_view("x", x)
    target = like(values, "out", out)
    step, steps = _parameter("scale", scale, values, axis, FLOATS)
    zero, zeros = _parameter("zero_point", zero_point, values, axis, INTEGERS)
    if steps is None and not step > 0:
        raise KernelArgumentError(f"scale is {scale}, expected a finite number above 0")
    if max(abs(zero), abs(qmin), abs(qmax)) > _EXACT or not qmin < qmax:
        raise KernelArgumentError(
            f"zero_point {zero_point} and levels [{qmin}, {qmax}]: expected qmin < qmax, all within +-2^24, exact in float32"
        )
    inside = None if mask is None else typed("mask", mask, values.shape, BYTES, "one flag a value of x")
    require_output(target, steps, zeros, in_place=values)
    if inside is not None:
        require_output(inside, values, target, steps, zeros)
    if values.size:
        channels, inner = (values.shape[axis], math.prod(values.shape[axis + 1 :])) if axis is not None else (1, 1)
        fields: list[View | int | float | None] = [values, target, inside, steps, zeros]
        fields += [values.size, channels, inner, step, int(zero), int(qmin), int(qmax)]
        kernel = f"fake_quantize_{values.scalar}"
        launch("fake_quantize", kernel, LAYOUT, fields, blocks=elementwise_blocks(values), stream=stream)


def _parameter(
    name: str, value: float | DeviceArray, x: View, axis: int | None, typestrs: tuple[str, ...]
) -> tuple[float, View | None]:
    """Take a number for all values, or an array with one a channel: (number, array or None)."""
    if isinstance(value, (int, float)):
        return require_number(name, value), None
    if axis is None or not 0 <= axis < len(x.shape):
        raise KernelArgumentError(
            f"{name} is an array and axis is {axis}, expected the channel axis, in [0, {len(x.shape)})"
        )
    return 0.0, typed(name, value, (x.shape[axis],), typestrs, "one a channel")

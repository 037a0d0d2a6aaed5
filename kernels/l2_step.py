"""The Euclidean step: along the normalised gradient, back into the L2 ball, clip to [0, 1], in one launch."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgeproof.kernels.arrays import (
    DeviceArray,
    Direction,
    View,
    images_view,
    like,
    per_image,
    require_output,
    sense,
)
from edgeproof.kernels.numerics import Array, Floats, clip, column
from edgeproof.kernels.runtime import launch, row_threads

LAYOUT = "PPPPPPqqddd"


@np.errstate(invalid="ignore", over="ignore", divide="ignore")
def reference(
    x: Floats,
    grad: Floats,
    origin: Floats,
    *,
    step_size: float | Floats,
    eps: float | Floats,
    direction: Direction = "ascent",
) -> Floats:
    """Specify the step: clip(origin + d' * min(1, eps / |d'|), 0, 1) with d' = x - origin +- step_size * grad / |grad|.

    Norms are taken over each image in float64, since the squares of a gradient of 1e-25, common behind a saturated loss, vanish
    in float32; what is added to a pixel is float32. Clipping comes last: it only brings an image in [0, 1] nearer.

    Args:
        x: Where the step starts, (N, ...) float32. Half types are widened, computed like this and rounded once.
        grad: Gradient at `x`. One that is zero, or whose norm is not finite, gives no direction: the image is only projected.
        origin: Clean images, the centres of the balls.
        step_size: Euclidean length of the step: a number, or (N,) float32 with one an image.
        eps: Radius of the ball, likewise.
        direction: "ascent" follows the gradient, "descent" goes against it.

    Returns:
        The moved images.
    """
    offset = x - origin
    slope, wide = grad.astype(np.float64), offset.astype(np.float64)
    slope2, cross, offset2 = inner(slope, slope), inner(slope, wide), inner(wide, wide)
    length = np.sqrt(slope2)
    moves = np.isfinite(length) & (length > 0)
    step, radius = column(step_size, x).astype(np.float64), column(eps, x).astype(np.float64)
    rate = np.where(moves, sense(direction) * step / length, 0.0)
    square = offset2 + np.where(moves, rate * (2 * cross + rate * slope2), 0.0)
    shrink = np.where(square > radius * radius, radius / np.sqrt(square), 1.0).astype(np.float32)
    along = np.where(rate == 0, np.float32(0), (rate * slope).astype(np.float32))
    return clip(origin + shrink * (offset + along), 0.0, 1.0)


def inner(a: Array, b: Array) -> Array:
    """Return the inner product of each image with its partner, with axes of length 1 in place of those summed."""
    products: Array = (a * b).sum(axis=tuple(range(1, a.ndim)), keepdims=True)
    return products


def l2_step(
    x: DeviceArray,
    grad: DeviceArray,
    origin: DeviceArray,
    out: DeviceArray,
    *,
    step_size: float | DeviceArray,
    eps: float | DeviceArray,
    direction: Direction = "ascent",
    stream: Any = None,
) -> None:
    """Launch the step that `reference` specifies; `out` may be `x` itself.

    Args:
        x, grad, origin, out: Device arrays of one shape (N, ...) and one type: float32, float16 or bfloat16.
        step_size: A number, or a float32 device array (N,).
        eps: Likewise.
        direction: As in `reference`.
        stream: A pycuda stream; None is the legacy default stream.

    Raises:
        KernelArgumentError: When an argument does not fit; nothing is launched then.
        KernelUnavailableError: When there is no pycuda, driver, device or compiler here.
    """
    images = images_view("x", x)
    slopes, origins, target = like(images, "grad", grad), like(images, "origin", origin), like(images, "out", out)
    sign_of_step = sense(direction)
    step, steps = per_image("step_size", step_size, images)
    radius, radii = per_image("eps", eps, images)
    require_output(target, slopes, origins, steps, radii, in_place=images)
    if images.size:
        fields: list[View | int | float | None] = [images, slopes, origins, target, steps, radii]
        fields += [images.shape[0], images.image_size, sign_of_step * step, radius, sign_of_step]
        threads = (row_threads(images), 1, 1)
        kernel = f"l2_step_{images.scalar}"
        launch("l2_step", kernel, LAYOUT, fields, blocks=images.shape[0], threads=threads, stream=stream)

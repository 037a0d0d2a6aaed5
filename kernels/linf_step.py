"""The step of a sign attack: move along the sign, back into the L-infinity ball, clip to [0, 1], all in one pass."""

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
from edgeproof.kernels.numerics import Array, Floats, clip, column, sign
from edgeproof.kernels.runtime import elementwise_blocks, launch

BUDGET_LAYOUT = "PPdff"
LAYOUT = "PPPPqq" + BUDGET_LAYOUT


@np.errstate(invalid="ignore", over="ignore")
def reference(
    x: Floats,
    grad: Floats,
    origin: Floats,
    *,
    step_size: float | Floats,
    eps: float | Floats,
    direction: Direction = "ascent",
) -> Floats:
    """Specify the step: clip(clip(x +- step_size * sign(grad), origin - eps, origin + eps), 0, 1), in float32.

    Args:
        x: Where the step starts, (N, ...) float32. Half types are widened, computed like this and rounded once.
        grad: Gradient at `x`. The sign of 0, -0 and NaN is 0, as in torch.
        origin: Clean images, the centres of the balls.
        step_size: Length of the step in pixel units: a number, or (N,) float32 with one an image.
        eps: Radius of the ball, likewise.
        direction: "ascent" follows the gradient, "descent" goes against it.

    Returns:
        The moved images. NaN in `x` or `origin` stays NaN; the sign of a zero is not specified.
    """
    step = np.float32(sense(direction)) * column(step_size, x).astype(np.float32)
    return move(x, sign(grad), origin, step=step, radius=column(eps, x))


def linf_step(
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
    budget = pack_budget(images, step_size, eps, direction)
    require_output(target, slopes, origins, *views_of(budget), in_place=images)
    if images.size:
        fields = [images, slopes, origins, target, images.size, images.image_size, *budget]
        blocks = elementwise_blocks(images)
        launch("linf_step", f"linf_step_{images.scalar}", LAYOUT, fields, blocks=blocks, stream=stream)


def pack_budget(
    images: View,
    step_size: float | DeviceArray,
    eps: float | DeviceArray,
    direction: Direction,
) -> list[View | int | float | None]:
    """Check what a step may take from image to image and return the fields of `LinfBudget` in src/linf.cuh.

    Raises:
        KernelArgumentError: When one does not fit.
    """
    sign_of_step = sense(direction)
    step, steps = per_image("step_size", step_size, images)
    radius, radii = per_image("eps", eps, images)
    return [steps, radii, radius, sign_of_step * step, sign_of_step]


def views_of(fields: list[View | int | float | None]) -> list[View]:
    """Return the arrays among the fields of a parameter struct."""
    return [field for field in fields if isinstance(field, View)]


def move(x: Floats, signs: Floats, origin: Floats, *, step: Array, radius: Array) -> Floats:
    """Return images moved by `step` along `signs`, projected and clipped."""
    eps = radius.astype(np.float32)
    moved = (x + step * signs).astype(np.float32, copy=False)
    return clip(clip(moved, origin - eps, origin + eps), 0.0, 1.0)

"""The step of a sign attack: move along the sign, back into the L-infinity ball, clip to [0, 1], all in one pass."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np

from edgeproof.kernels.arrays import (
    BYTES,
    DeviceArray,
    Direction,
    KernelArgumentError,
    View,
    images_view,
    like,
    per_image,
    require_output,
    sense,
    typed,
)
from edgeproof.kernels.numerics import Array, Floats, clip, column, sign
from edgeproof.kernels.runtime import elementwise_blocks, launch

Pixels: TypeAlias = Literal["float", "uint8"]

BUDGET_LAYOUT = "PPPdffq"
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
    frozen: Array | None = None,
    pixels: Pixels = "float",
) -> Floats:
    """Specify the step: clip(clip(x +- step_size * sign(grad), origin - eps, origin + eps), 0, 1), in float32.

    Args:
        x: Where the step starts, (N, ...) float32. Half types are widened, computed like this and rounded once.
        grad: Gradient at `x`. The sign of 0, -0 and NaN is 0, as in torch.
        origin: Clean images, the centres of the balls.
        step_size: Length of the step in pixel units: a number, or (N,) float32 with one an image.
        eps: Radius of the ball, likewise.
        direction: "ascent" follows the gradient, "descent" goes against it.
        frozen: (N,) bool: these images stay exactly as they are.
        pixels: "uint8" rounds to the nearest of the levels k / 255 inside the budget.

    Returns:
        The moved images. NaN in `x` or `origin` stays NaN; the sign of a zero is not specified.
    """
    radius = column(eps, x)
    step = np.float32(sense(direction)) * column(step_size, x).astype(np.float32)
    value = move(x, sign(grad), origin, step=step, radius=radius, pixels=pixels)
    return value if frozen is None else np.where(column(frozen, x) != 0, x, value)


def linf_step(
    x: DeviceArray,
    grad: DeviceArray,
    origin: DeviceArray,
    out: DeviceArray,
    *,
    step_size: float | DeviceArray,
    eps: float | DeviceArray,
    direction: Direction = "ascent",
    frozen: DeviceArray | None = None,
    pixels: Pixels = "float",
    stream: Any = None,
) -> None:
    """Launch the step that `reference` specifies; `out` may be `x` itself.

    Args:
        x, grad, origin, out: Device arrays of one shape (N, ...) and one type: float32, float16 or bfloat16.
        step_size: A number, or a float32 device array (N,).
        eps: Likewise.
        direction: As in `reference`.
        frozen: Device array (N,) of bool or uint8.
        pixels: As in `reference`; "uint8" is for float32 images.
        stream: A pycuda stream; None is the legacy default stream.

    Raises:
        KernelArgumentError: When an argument does not fit; nothing is launched then.
        KernelUnavailableError: When there is no pycuda, driver, device or compiler here.
    """
    images = images_view("x", x)
    slopes, origins, target = like(images, "grad", grad), like(images, "origin", origin), like(images, "out", out)
    budget = pack_budget(images, step_size, eps, direction, frozen, pixels)
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
    frozen: DeviceArray | None,
    pixels: Pixels,
) -> list[View | int | float | None]:
    """Check what a step may take from image to image and return the fields of `LinfBudget` in src/linf.cuh.

    Raises:
        KernelArgumentError: When one does not fit.
    """
    if pixels not in ("float", "uint8"):
        raise KernelArgumentError(f"pixels is {pixels!r}, expected 'float' or 'uint8'")
    if pixels == "uint8" and images.scalar != "f32":
        raise KernelArgumentError(
            f"pixels is 'uint8' with images of type {images.typestr!r}, expected float32: a half type rounds k / 255 off its level"
        )
    sign_of_step = sense(direction)
    step, steps = per_image("step_size", step_size, images)
    radius, radii = per_image("eps", eps, images)
    mask = None if frozen is None else typed("frozen", frozen, images.shape[:1], BYTES, "one flag an image")
    return [steps, radii, mask, radius, sign_of_step * step, sign_of_step, int(pixels == "uint8")]


def views_of(fields: list[View | int | float | None]) -> list[View]:
    """Return the arrays among the fields of a parameter struct."""
    return [field for field in fields if isinstance(field, View)]


def move(x: Floats, signs: Floats, origin: Floats, *, step: Array, radius: Array, pixels: Pixels) -> Floats:
    """Return images moved by `step` along `signs`, projected and clipped."""
    eps = radius.astype(np.float32)
    moved = (x + step * signs).astype(np.float32, copy=False)
    value = clip(clip(moved, origin - eps, origin + eps), 0.0, 1.0)
    return on_grid(value, origin, radius) if pixels == "uint8" else value


def on_grid(values: Floats, origin: Floats, eps: Array) -> Floats:
    """Round to the nearest level k / 255 inside the budget.

    In float64, and with 1e-4 of a level to spare: a float32 k / 255 lies up to 1e-5 of a level beside level k. Where a
    budget leaves no level, the result lies outside it, at the level below its upper end.
    """
    centre, radius = origin.astype(np.float64) * 255.0, eps.astype(np.float64) * 255.0
    low, high = np.ceil(centre - radius - 1e-4), np.floor(centre + radius + 1e-4)
    level = np.rint(values.astype(np.float64) * 255.0)
    inside = np.minimum(np.maximum(level, low), high).astype(np.float32)
    levels: Floats = clip(inside, 0.0, 255.0) / np.float32(255)
    return levels

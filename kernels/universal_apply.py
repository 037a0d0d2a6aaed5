"""A universal perturbation, or one a class: added to a batch, and moved along the batch's mean gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeproof.kernels.arrays import (
    LABELS,
    DeviceArray,
    Direction,
    KernelArgumentError,
    View,
    images_view,
    like,
    require_number,
    require_output,
    require_type,
    sense,
    typed,
    view,
)
from edgeproof.kernels.numerics import Floats, clip, sign
from edgeproof.kernels.runtime import elementwise_blocks, launch

APPLY_LAYOUT = "PPPPqqq"
UPDATE_LAYOUT = "PPPqqqff"
_COLUMNS, _ROWS = 32, 32  # pixels of a block, and images that it reads side by side


@np.errstate(invalid="ignore", over="ignore")
def reference(x: Floats, delta: Floats, *, labels: NDArray[np.int64] | None = None) -> Floats:
    """Specify the application: clip(x + delta, 0, 1) in float32.

    Args:
        x: Images, (N, C, H, W) float32. Half types are widened, computed like this and rounded once.
        delta: The perturbation (C, H, W), or one a class (K, C, H, W) where `labels` are given.
        labels: Class indices (N,) that choose the perturbation; one outside [0, K) gives NaN throughout its image.

    Returns:
        The perturbed images.
    """
    if labels is None:
        return clip(x + delta, 0.0, 1.0)
    known = (labels >= 0) & (labels < len(delta))
    chosen = delta[np.where(known, labels, 0)] if len(delta) else np.zeros_like(x)
    value = clip(x + chosen, 0.0, 1.0)
    return np.where(known.reshape(-1, *[1] * (x.ndim - 1)), value, np.float32(np.nan))


@np.errstate(invalid="ignore", over="ignore")
def update_reference(
    grad: Floats,
    delta: Floats,
    *,
    step_size: float,
    eps: float,
    direction: Direction = "ascent",
    labels: NDArray[np.int64] | None = None,
) -> Floats:
    """Specify the update: clip(delta +- step_size * sign(mean over the batch of grad), -eps, eps) in float32.

    Sums are in float64: exact, hence in any order, for gradients at a pixel whose magnitudes span less than 2^29 / N.

    Args:
        grad: Gradients at the perturbed images, (N, C, H, W).
        delta: The perturbation (C, H, W), or one a class (K, C, H, W) where `labels` are given.
        step_size: Length of the step in pixel units.
        eps: Radius of the L-infinity ball around zero.
        direction: "ascent" follows the gradient, "descent" goes against it.
        labels: Class indices (N,); a class that the batch does not hold is only clipped, and an image outside [0, K) is
            passed over.

    Returns:
        The new perturbation.
    """
    table = delta[None] if labels is None else delta
    chosen = np.zeros(len(grad), np.int64) if labels is None else labels
    sums = [grad[chosen == index].sum(axis=0, dtype=np.float64) for index in range(len(table))]
    step = np.float32(sense(direction) * step_size)
    moved = table + step * sign(np.stack(sums)) if sums else table
    value = clip(moved, -eps, eps)
    return value[0] if labels is None else value


def universal_apply(
    x: DeviceArray, delta: DeviceArray, out: DeviceArray, *, labels: DeviceArray | None = None, stream: Any = None
) -> None:
    """Launch the application that `reference` specifies; `out` may be `x` itself.

    Args:
        x, out: Device arrays of one shape (N, ...) and one type: float32, float16 or bfloat16.
        delta: Device array of that type, of one image's shape, or (K, ...) with labels.
        labels: int64 device array (N,).
        stream: A pycuda stream; None is the legacy default stream.

    Raises:
        KernelArgumentError: When an argument does not fit; nothing is launched then.
        KernelUnavailableError: When there is no pycuda, driver, device or compiler here.
    """
    images, target = images_view("x", x), like(images_view("x", x), "out", out)
    table, classes, chosen = _table(images, delta, labels)
    require_output(target, table, chosen, in_place=images)
    if images.size:
        fields: list[View | int | float | None] = [images, table, chosen, target]
        fields += [images.size, images.image_size, classes]
        kernel = f"universal_apply_{images.scalar}"
        launch("universal_apply", kernel, APPLY_LAYOUT, fields, blocks=elementwise_blocks(images), stream=stream)


def universal_update(
    grad: DeviceArray,
    delta: DeviceArray,
    *,
    step_size: float,
    eps: float,
    direction: Direction = "ascent",
    labels: DeviceArray | None = None,
    stream: Any = None,
) -> None:
    """Launch the update that `update_reference` specifies, in place on `delta`.

    Args:
        grad: Device array (N, ...) of float32, float16 or bfloat16.
        delta: Device array of that type, of one image's shape, or (K, ...) with labels.
        step_size, eps, direction: As in `update_reference`.
        labels: int64 device array (N,).
        stream: A pycuda stream; None is the legacy default stream.

    Raises:
        KernelArgumentError: When an argument does not fit; nothing is launched then.
        KernelUnavailableError: When there is no pycuda, driver, device or compiler here.
    """
    slopes = images_view("grad", grad)
    table, classes, chosen = _table(slopes, delta, labels)
    step = sense(direction) * require_number("step_size", step_size, low=0.0)
    radius = require_number("eps", eps, low=0.0)
    require_output(table, slopes, chosen)
    if table.size:
        fields: list[View | int | float | None] = [slopes, chosen, table]
        fields += [slopes.shape[0], slopes.image_size, classes, step, radius]
        blocks = -(-slopes.image_size // _COLUMNS) * classes
        kernel, threads = f"universal_update_{slopes.scalar}", (_COLUMNS, _ROWS, 1)
        launch("universal_apply", kernel, UPDATE_LAYOUT, fields, blocks=blocks, threads=threads, stream=stream)


def _table(images: View, delta: DeviceArray, labels: DeviceArray | None) -> tuple[View, int, View | None]:
    """Check a perturbation or a table of them: (its view, how many it holds, the labels' view)."""
    shape = images.shape[1:]
    table = require_type(view("delta", delta), (images.typestr,), f"like {images.name}")
    if labels is None:
        return typed("delta", delta, shape, (images.typestr,), "one image"), 1, None
    if table.shape[1:] != shape or len(table.shape) != len(images.shape):
        raise KernelArgumentError(
            f"delta has shape {table.shape}, expected (K, {', '.join(map(str, shape))}): one image a class"
        )
    return table, table.shape[0], typed("labels", labels, images.shape[:1], LABELS, "one class index an image")

"""The momentum iterative step (MI-FGSM, Dong et al., 2018, arXiv:1710.06081), accumulation and step in one launch."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgeproof.kernels.arrays import (
    FLOATS,
    DeviceArray,
    Direction,
    images_view,
    like,
    require_number,
    require_output,
    sense,
    typed,
)
from edgeproof.kernels.linf_step import BUDGET_LAYOUT, move, pack_budget, views_of
from edgeproof.kernels.numerics import Floats, column, sign
from edgeproof.kernels.runtime import launch, row_threads

LAYOUT = "PPPPPqq" + BUDGET_LAYOUT + "d"


@np.errstate(invalid="ignore", over="ignore")
def reference(
    x: Floats,
    grad: Floats,
    momentum: Floats,
    origin: Floats,
    *,
    decay: float,
    step_size: float | Floats,
    eps: float | Floats,
    direction: Direction = "ascent",
) -> tuple[Floats, Floats]:
    """Specify the step: m' = decay * m + grad / |grad|_1, then the L-infinity step along the sign of m'.

    The norm is taken over each image, summed in float64 and rounded to float32 once. A gradient that is zero throughout adds
    nothing (the published formula divides by zero there); one that holds NaN or an infinity makes the momentum NaN where it
    enters, whose sign is 0.

    Args:
        x: Where the step starts, (N, ...) float32.
        grad: Gradient at `x`.
        momentum: Accumulated gradient before the step, float32 whatever the type of the images: grad / |grad|_1 is about one
            over the number of pixels, which float16 holds only as a denormal.
        origin: Clean images.
        decay: Factor on the old momentum (mu in the paper, 1.0 there).
        step_size, eps, direction: As in `linf_step`.

    Returns:
        The moved images and the new momentum.
    """
    axes = tuple(range(1, x.ndim))
    norm = np.abs(grad).sum(axis=axes, keepdims=True, dtype=np.float64).astype(np.float32)
    along = np.where(norm == 0, np.float32(0), grad / np.where(norm == 0, np.float32(1), norm))
    accumulated = np.float32(decay) * momentum + along
    step = np.float32(sense(direction)) * column(step_size, x).astype(np.float32)
    return move(x, sign(accumulated), origin, step=step, radius=column(eps, x)), accumulated


def momentum_step(
    x: DeviceArray,
    grad: DeviceArray,
    momentum: DeviceArray,
    origin: DeviceArray,
    out: DeviceArray,
    *,
    decay: float,
    step_size: float | DeviceArray,
    eps: float | DeviceArray,
    direction: Direction = "ascent",
    stream: Any = None,
) -> None:
    """Launch the step that `reference` specifies; `momentum` is updated in place and `out` may be `x` itself.

    Args:
        x, grad, origin, out: Device arrays of one shape (N, ...) and one type: float32, float16 or bfloat16.
        momentum: float32 device array of the same shape.
        decay: Factor on the old momentum, in [0, inf).
        step_size, eps, direction, stream: As in `linf_step`.

    Raises:
        KernelArgumentError: When an argument does not fit; nothing is launched then.
        KernelUnavailableError: When there is no pycuda, driver, device or compiler here.
    """
    images = images_view("x", x)
    slopes, origins, target = like(images, "grad", grad), like(images, "origin", origin), like(images, "out", out)
    memory = typed("momentum", momentum, images.shape, FLOATS, "float32, like x")
    budget = pack_budget(images, step_size, eps, direction)
    factor = require_number("decay", decay, low=0.0)
    require_output(target, slopes, origins, memory, *views_of(budget), in_place=images)
    require_output(memory, images, slopes, origins, *views_of(budget))
    if images.size:
        fields = [images, slopes, origins, memory, target, images.shape[0], images.image_size, *budget, factor]
        threads = (row_threads(images), 1, 1)
        kernel = f"momentum_step_{images.scalar}"
        launch("momentum_step", kernel, LAYOUT, fields, blocks=images.shape[0], threads=threads, stream=stream)

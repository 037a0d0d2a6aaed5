"""Element-wise operations behind every attack: one place where a CUDA kernel can take over from torch.

Semantics that a kernel has to share: sign(0) = sign(-0) = sign(nan) = 0, and comparisons, not arithmetic, decide the
borders, so that an image on the border of its budget is on it exactly.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from toolkit.types import Direction

LEVELS = 255  # of an 8-bit pixel

_SMALLEST_NORM = 1e-12  # a difference shorter than this is inside every ball


def linf_step(
    x: Tensor,
    grad: Tensor,
    origin: Tensor,
    *,
    step_size: float | Tensor,
    eps: float | Tensor,
    direction: Direction = "ascent",
) -> Tensor:
    """Take a sign step, and come back into the L-infinity ball around the clean images and into [0, 1].

    Args:
        x: Where the step starts, (N, C, H, W).
        grad: Gradient at `x`; only its sign counts.
        origin: Clean images, the centres of the balls.
        step_size: Length of the step in pixel units: a number, or one an image as (N, 1, 1, 1).
        eps: Radius of the ball, likewise.
        direction: "ascent" follows the gradient, "descent" goes against it.

    Returns:
        clip(clip(x +- step_size * sign(grad), origin - eps, origin + eps), 0, 1).
    """
    step = grad.sign().mul_(step_size)
    moved = step.add_(x) if direction == "ascent" else torch.sub(x, step, out=step)
    return linf_project(moved, origin, eps=eps)


def linf_project(x: Tensor, origin: Tensor, *, eps: float | Tensor) -> Tensor:
    """Bring images (N, C, H, W) into the L-infinity balls around `origin` and into [0, 1]."""
    return torch.clamp(x, min=(origin - eps).clamp_(0, 1), max=(origin + eps).clamp_(0, 1))


def l2_step(
    x: Tensor,
    grad: Tensor,
    origin: Tensor,
    *,
    step_size: float | Tensor,
    eps: float | Tensor,
    direction: Direction = "ascent",
) -> Tensor:
    """Take a step of Euclidean length `step_size` an image, and come back into the L2 ball and into [0, 1].

    The arguments are those of `linf_step`. An image whose gradient is zero or not finite is only projected. The norm of
    the gradient is taken in float64, since behind a saturated loss its squares vanish in float32.
    """
    length = l2_norm(grad.double())
    moves = torch.isfinite(length) & (length > 0)
    rate = torch.where(moves, step_size / length, 0)
    along = torch.where(moves, rate * grad, 0).to(x.dtype)
    offset = x - origin
    return _within_l2(offset.add_(along) if direction == "ascent" else offset.sub_(along), origin, eps=eps)


def l2_project(x: Tensor, origin: Tensor, *, eps: float | Tensor) -> Tensor:
    """Bring images (N, C, H, W) into the L2 balls around `origin` and then into [0, 1], which only comes nearer."""
    return _within_l2(x - origin, origin, eps=eps)


def _within_l2(offset: Tensor, origin: Tensor, *, eps: float | Tensor) -> Tensor:
    shrink = (eps / l2_norm(offset.double()).clamp_(min=_SMALLEST_NORM)).clamp_(max=1)
    return offset.mul_(shrink.to(offset.dtype)).add_(origin).clamp_(0, 1)


def momentum_step(
    x: Tensor,
    grad: Tensor,
    momentum: Tensor,
    origin: Tensor,
    *,
    decay: float,
    step_size: float | Tensor,
    eps: float | Tensor,
    direction: Direction = "ascent",
) -> tuple[Tensor, Tensor]:
    """Accumulate the gradient, and take a sign step along what has accumulated (Dong et al., 2018, arXiv:1710.06081).

    Args:
        x: Where the step starts, (N, C, H, W).
        grad: Gradient at `x`; divided by its L1 norm an image before it is added. A zero one adds nothing.
        momentum: What has accumulated so far.
        origin: Clean images.
        decay: Factor on the old momentum.
        step_size: As in `linf_step`.
        eps: As in `linf_step`.
        direction: As in `linf_step`.

    Returns:
        The moved images and the new momentum.
    """
    norm = grad.double().abs().sum((1, 2, 3), keepdim=True).to(grad.dtype)
    accumulated = decay * momentum + torch.where(norm == 0, 0, grad / norm)
    return linf_step(x, accumulated, origin, step_size=step_size, eps=eps, direction=direction), accumulated


def l2_norm(x: Tensor) -> Tensor:
    """Return the Euclidean norm of each image, (N, 1, 1, 1)."""
    norm: Tensor = torch.linalg.vector_norm(x, dim=(1, 2, 3), keepdim=True)
    return norm


def to_grid(x: Tensor, origin: Tensor, *, eps: float) -> Tensor:
    """Round images to the 8-bit grid, to the nearest level that is inside the L-infinity budget.

    Args:
        x: Images (N, C, H, W) in [0, 1].
        origin: Clean images; they need not be on the grid themselves.
        eps: Budget. Where it leaves a pixel no level, the result is outside it and the contract says so.

    Returns:
        Images k / 255 with whole k.
    """
    # In float64, since 255 * (x + eps) in float32 may land a whole level too low; 1e-6 of a level is what it may lack.
    centre = origin.double() * LEVELS
    low = torch.ceil(centre - eps * LEVELS - 1e-6).clamp_(0, LEVELS)
    high = torch.floor(centre + eps * LEVELS + 1e-6).clamp_(0, LEVELS)
    # Round, do not truncate: truncation pushes 15 of 248 levels outside an 8/255 budget.
    levels = torch.clamp(torch.round(x.double() * LEVELS), min=low, max=high)
    return (levels.to(x.dtype)).div_(LEVELS)


def to_grid_inwards(x: Tensor, origin: Tensor) -> Tensor:
    """Round images to the 8-bit grid towards clean images that are on it, so that no norm of the difference grows."""
    centre = torch.round(origin.double() * LEVELS)
    levels = centre + torch.trunc(x.double() * LEVELS - centre)
    return (levels.to(x.dtype)).div_(LEVELS)


class _RoundToRange(torch.autograd.Function):
    """x / scale + zero point, rounded half to even and limited; the gradient is that of the unrounded, inside the range."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, scale: Tensor, zero_point: Tensor | None, low: int, high: int) -> tuple[Tensor, Tensor]:
        levels = torch.div(x, scale).round_()
        levels = levels if zero_point is None else levels.add_(zero_point)
        limited = levels.clamp(low, high)
        return limited, limited == levels

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1], inputs[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor, None, None, None, None]:
        inside, scale = ctx.saved_tensors
        return grad * inside / scale, None, None, None, None


def quantize(
    x: Tensor, scale: Tensor, zero_point: Tensor | None = None, *, low: int, high: int, axis: int = 1
) -> Tensor:
    """Round to the nearest level, half to even, as ONNX's QuantizeLinear, with a clipped straight-through gradient.

    Args:
        x: Any shape.
        scale: Step between levels: one number, or one for each entry along `axis`.
        zero_point: The level of 0.0, of the shape of `scale`; 0 by default.
        low: Smallest level, -128 for int8.
        high: Largest level.
        axis: Where `scale` lies along.

    Returns:
        Levels, as whole numbers of the type of `x`. The gradient is 1 / scale where the level was inside the range, else 0
        (Bengio, Leonard, Courville 2013, arXiv:1308.3432, with clipping).
    """
    zero = None if zero_point is None else _along(zero_point, x, axis)
    levels: Tensor = _RoundToRange.apply(x, _along(scale, x, axis), zero, low, high)[0]  # type: ignore[no-untyped-call]
    return levels


def dequantize(levels: Tensor, scale: Tensor | None, zero_point: Tensor | None = None, *, axis: int = 1) -> Tensor:
    """Return (levels - zero_point) * scale; without a scale the difference alone."""
    if zero_point is not None:
        levels = levels - _along(zero_point, levels, axis)
    return levels if scale is None else levels * _along(scale, levels, axis)


def fake_quantize(
    x: Tensor, scale: Tensor, zero_point: Tensor | None = None, *, low: int, high: int, axis: int = 1
) -> Tensor:
    """Quantise and dequantise: `x` on the grid of an integer type, with the gradient 1 inside its range and 0 outside."""
    return dequantize(quantize(x, scale, zero_point, low=low, high=high, axis=axis), scale, zero_point, axis=axis)


def _along(values: Tensor, x: Tensor, axis: int) -> Tensor:
    """Shape one value, or one for each entry along an axis, to broadcast against `x`."""
    if values.numel() == 1:
        return values.reshape(())
    shape = [1] * x.dim()
    shape[axis] = -1
    return values.reshape(shape)

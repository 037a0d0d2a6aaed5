"""Element-wise operations behind every attack. On a CUDA device our kernels take over from torch, with the same results.

What both share is what the NumPy references in kernels/ specify: sign(0) = sign(-0) = sign(nan) = 0; comparisons, not
arithmetic, decide the borders, so that an image on the border of its budget is on it exactly; half types are computed
in float32 and rounded once.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from edgeproof.kernels import l2_step as l2_kernel
from edgeproof.kernels import linf_step as linf_kernel
from edgeproof.kernels import momentum_step as momentum_kernel
from edgeproof.kernels import runtime
from edgeproof.kernels import universal_apply as universal_kernel
from edgeproof.types import Direction

LEVELS = 255  # of an 8-bit pixel

_SMALLEST_NORM = 1e-12  # a difference shorter than this is inside every ball
_HALVES = (torch.float16, torch.bfloat16)


def why_no_kernels(device: torch.device) -> str | None:
    """Return None where our CUDA kernels take the steps on a device, else why torch takes them, in one line."""
    if device.type != "cuda":
        return f"{device.type} is no CUDA device"
    if os.environ.get("EDGEPROOF_KERNELS") == "off":
        return "EDGEPROOF_KERNELS=off"
    return _why_unavailable()


@functools.cache
def _why_unavailable() -> str | None:
    return runtime.available()


def _kernels_take(x: Tensor, *others: Tensor) -> bool:
    """Whether tensors are what a kernel takes: on one CUDA device, of one shape and type, without a graph to record."""
    alike = all((other.shape, other.dtype, other.device) == (x.shape, x.dtype, x.device) for other in others)
    recorded = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, *others))
    return (
        alike
        and not recorded
        and x.dtype in (torch.float32, *_HALVES)
        and x.is_cuda
        and why_no_kernels(x.device) is None
    )


def _by_kernel(kernel: Callable[..., None], x: Tensor, grad: Tensor, origin: Tensor, **options: Any) -> Tensor:
    out = torch.empty_like(x, memory_format=_order(x))
    _launch(kernel, x, grad, origin, out, **options)
    return out


def _launch(kernel: Callable[..., None], *tensors: Any, **options: Any) -> None:
    """Launch a kernel on tensors (N, ...), in the memory order of the first, which its outputs have already."""
    order = _order(tensors[0])
    dense = [tensor.detach().contiguous(memory_format=order) for tensor in tensors]
    if order is torch.channels_last:
        dense = [tensor.permute(0, 2, 3, 1) for tensor in dense]
    plain = {name: _row(value, dense[0]) if isinstance(value, Tensor) else value for name, value in options.items()}
    with _kernel_stream(dense[0].device) as stream:
        kernel(*dense, stream=stream, **plain)


def _order(x: Tensor) -> torch.memory_format:
    if x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return torch.contiguous_format


def _row(value: Tensor, x: Tensor) -> Tensor:
    """Return one number an image, given as (N, 1, 1, 1) or for all at once, as the (N,) float32 that a kernel takes."""
    return value.to(x.device, torch.float32).reshape(-1).expand(len(x)).contiguous()


@contextmanager
def _kernel_stream(device: torch.device) -> Iterator[Any]:
    """Give the stream to launch on, in order with torch's current one; under graph capture too.

    pycuda launches on the default stream or on one that it made itself. So work for another stream of torch's goes to one
    of pycuda's, behind what torch has queued and before what it will queue.
    """
    current = torch.cuda.current_stream(device)
    if current.cuda_stream == 0:
        yield None
        return
    ours = runtime.side_stream(device.index or 0)
    adopted = torch.cuda.ExternalStream(ours.handle, device)  # type: ignore[no-untyped-call]
    adopted.wait_stream(current)
    yield ours
    current.wait_stream(adopted)


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
    options: dict[str, Any] = {"step_size": step_size, "eps": eps, "direction": direction}
    if _kernels_take(x, grad, origin):
        return _by_kernel(linf_kernel.linf_step, x, grad, origin, **options)
    if x.dtype in _HALVES:
        return linf_step(x.float(), grad.float(), origin.float(), **options).to(x.dtype)
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
    options: dict[str, Any] = {"step_size": step_size, "eps": eps, "direction": direction}
    if _kernels_take(x, grad, origin):
        return _by_kernel(l2_kernel.l2_step, x, grad, origin, **options)
    if x.dtype in _HALVES:
        return l2_step(x.float(), grad.float(), origin.float(), **options).to(x.dtype)
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
        momentum: What has accumulated so far; float32 where the images are of a half type.
        origin: Clean images.
        decay: Factor on the old momentum.
        step_size: As in `linf_step`.
        eps: As in `linf_step`.
        direction: As in `linf_step`.

    Returns:
        The moved images and the new momentum.
    """
    options: dict[str, Any] = {"decay": decay, "step_size": step_size, "eps": eps, "direction": direction}
    if _kernels_take(x, grad, origin) and momentum.dtype is torch.float32:
        out = torch.empty_like(x, memory_format=_order(x))
        accumulated = momentum.detach().clone(memory_format=_order(x))
        _launch(momentum_kernel.momentum_step, x, grad, accumulated, origin, out, **options)
        return out, accumulated
    if x.dtype in _HALVES:
        moved, accumulated = momentum_step(x.float(), grad.float(), momentum, origin.float(), **options)
        return moved.to(x.dtype), accumulated
    norm = grad.double().abs().sum((1, 2, 3), keepdim=True).to(grad.dtype)
    accumulated = decay * momentum + torch.where(norm == 0, 0, grad / norm)
    return linf_step(x, accumulated, origin, step_size=step_size, eps=eps, direction=direction), accumulated


def universal_apply(x: Tensor, delta: Tensor, owner: Tensor | None = None) -> Tensor:
    """Return clip(x + delta, 0, 1): images under a universal perturbation.

    Args:
        x: Images, (N, C, H, W).
        delta: The perturbation (C, H, W), or several (P, C, H, W) where `owner` is given.
        owner: (N,) int64, which of them each image carries, from 0 to P - 1.
    """
    if _kernels_take(x) and delta.dtype == x.dtype and not (torch.is_grad_enabled() and delta.requires_grad):
        images = x.contiguous()
        out = torch.empty_like(images)
        with _kernel_stream(x.device) as stream:
            universal_kernel.universal_apply(images, delta.contiguous(), out, labels=owner, stream=stream)
        return out
    return torch.clamp(x + (delta if owner is None else delta[owner]), 0, 1)


def universal_update(grad: Tensor, delta: Tensor, owner: Tensor, *, step_size: float, eps: float) -> Tensor:
    """Move universal perturbations along the sign of the sum of their images' gradients, inside the L-infinity ball around 0.

    Sums are in float64, so that their order decides no sign. A perturbation that no image carries is only clipped.

    Args:
        grad: Gradients at the perturbed images, (N, C, H, W).
        delta: Perturbations, (P, C, H, W).
        owner: (N,) int64, which of them each image carries.
        step_size: Length of the step in pixel units.
        eps: Radius of the ball.

    Returns:
        The moved perturbations.
    """
    if _kernels_take(grad) and delta.dtype == grad.dtype:
        moved = delta.clone(memory_format=torch.contiguous_format)
        with _kernel_stream(grad.device) as stream:
            universal_kernel.universal_update(
                grad.contiguous(), moved, step_size=step_size, eps=eps, labels=owner, stream=stream
            )
        return moved
    total = torch.zeros(delta.shape, dtype=torch.float64, device=delta.device).index_add_(0, owner, grad.double())
    return (delta + step_size * torch.nan_to_num(total, nan=0.0).sign().to(delta.dtype)).clamp_(-eps, eps)


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
    # In float64, and with 1e-4 of a level to spare: a float32 k/255 lies up to 1e-5 of a level beside level k.
    centre = origin.double() * LEVELS
    low = torch.ceil(centre - eps * LEVELS - 1e-4).clamp_(0, LEVELS)
    high = torch.floor(centre + eps * LEVELS + 1e-4).clamp_(0, LEVELS)
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

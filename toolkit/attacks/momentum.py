"""Sign attacks with momentum, made to transfer to models that were not asked: MI-, DI- and TI-FGSM."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from edgeproof.attacks.base import Draws, check_positive
from edgeproof.attacks.iterative import Batch, iterate
from edgeproof.attacks.labels import followed_class
from edgeproof.attacks.losses import cross_entropy
from edgeproof.attacks.options import IterativeOptions, Keep
from edgeproof.errors import ConfigError
from edgeproof.ops import momentum_step
from edgeproof.plugins.registry import register
from edgeproof.source_model.gradients import ForwardPass, value_and_grad
from edgeproof.types import Direction, LogitsFn

_FIRST_STREAM = 1  # of the steps' draws; stream 0 is that of random starts


@dataclasses.dataclass(frozen=True)
class Moving(Batch):
    """A batch with the gradients that have accumulated, (n, C, H, W)."""

    momentum: Tensor


@register("mi-fgsm", norm="linf", access="gradients")
def mi_fgsm(
    model: LogitsFn,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    step_size: float | None = None,
    steps: int = 10,
    decay: float = 1.0,
    direction: Direction = "ascent",
    label: str = "true",
    keep: Keep = "last",
    stop: str = "never",
) -> Tensor:
    """Momentum iterative FGSM (Dong et al., 2018, arXiv:1710.06081).

    Args:
        step_size: Length of a step (default: eps / steps).
        decay: Factor on the accumulated gradient.
        keep: "last" keeps the last iterate, which transfers best; "best" the worst one of each image on this model.
        stop: "never", "first" or "margin=K" (these need keep = "best"): when an image leaves the batch.
    """

    def gradient(batch: Moving, step: int) -> ForwardPass:
        return value_and_grad(model, batch.x_adv, batch.y, loss=cross_entropy)

    options = IterativeOptions(eps, steps, step_size, direction=direction, label=label, keep=keep, stop=stop)
    return _with_momentum(model, x, y, options, gradient=gradient, decay=decay)


@register("di-fgsm", norm="linf", access="gradients")
def di_fgsm(
    model: LogitsFn,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    step_size: float | None = None,
    steps: int = 10,
    decay: float = 1.0,
    probability: float = 0.5,
    smallest: float = 0.9,
    direction: Direction = "ascent",
    label: str = "true",
    keep: Keep = "last",
    stop: str = "never",
    draws: Draws | None = None,
) -> Tensor:
    """Diverse inputs: MI-FGSM on images that are shrunk and padded at random (Xie et al., 2019, arXiv:1803.06978).

    Differing from the paper, the image keeps its size, so that any network takes it: its content is shrunk instead of its
    frame enlarged, to a size that need not be a whole number of pixels.

    Args:
        step_size: Length of a step (default: eps / steps).
        decay: Factor on the accumulated gradient.
        probability: Share of the steps at which an image is transformed.
        smallest: Side of the smallest content, as a fraction of the image's.
        keep: "last" keeps the last iterate, which transfers best; "best" the worst one of each image on this model.
        stop: "never", "first" or "margin=K" (these need keep = "best"): when an image leaves the batch.
    """
    if not (0 <= probability <= 1 and 0 < smallest <= 1):
        raise ConfigError(f"probability = {probability:g}, smallest = {smallest:g}; expected both in [0, 1]")

    def gradient(batch: Moving, step: int) -> ForwardPass:
        numbers = batch.draws.uniform(_FIRST_STREAM + step, (4,)).to(batch.x)
        placed = _placement(numbers, probability=probability, smallest=smallest)

        def diverse(images: Tensor) -> Tensor:
            return model(_shrink(images, placed))

        return value_and_grad(diverse, batch.x_adv, batch.y, loss=cross_entropy)

    options = IterativeOptions(
        eps, steps, step_size, direction=direction, label=label, keep=keep, stop=stop, draws=draws
    )
    return _with_momentum(model, x, y, options, gradient=gradient, decay=decay)


@register("ti-fgsm", norm="linf", access="gradients")
def ti_fgsm(
    model: LogitsFn,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    step_size: float | None = None,
    steps: int = 10,
    decay: float = 1.0,
    kernel_size: int = 7,
    sigma: float = 1.0,
    direction: Direction = "ascent",
    label: str = "true",
    keep: Keep = "last",
    stop: str = "never",
) -> Tensor:
    """Translation-invariant MI-FGSM: gradients smoothed by a Gaussian (Dong et al., 2019, arXiv:1904.02884).

    Args:
        step_size: Length of a step (default: eps / steps).
        decay: Factor on the accumulated gradient.
        kernel_size: Side of the Gaussian in pixels, odd; 15 in the paper, for images of 299 x 299.
        sigma: Standard deviation of the Gaussian in pixels; the authors' code has (kernel_size - 1) / 6.
        keep: "last" keeps the last iterate, which transfers best; "best" the worst one of each image on this model.
        stop: "never", "first" or "margin=K" (these need keep = "best"): when an image leaves the batch.
    """
    check_positive(kernel_size=kernel_size, sigma=sigma)
    if kernel_size % 2 == 0:
        raise ConfigError(f"kernel_size = {kernel_size}; expected an odd number, so that the Gaussian has a centre")
    channels = x.shape[1]
    kernel = _gaussian(kernel_size, sigma=sigma).to(x).expand(channels, 1, -1, -1)

    def gradient(batch: Moving, step: int) -> ForwardPass:
        seen = value_and_grad(model, batch.x_adv, batch.y, loss=cross_entropy)
        return seen.mapped(lambda grad: F.conv2d(grad, kernel, padding="same", groups=channels))

    options = IterativeOptions(eps, steps, step_size, direction=direction, label=label, keep=keep, stop=stop)
    return _with_momentum(model, x, y, options, gradient=gradient, decay=decay)


def _with_momentum(
    model: LogitsFn,
    x: Tensor,
    y: Tensor,
    options: IterativeOptions,
    *,
    gradient: Callable[[Moving, int], ForwardPass],
    decay: float,
) -> Tensor:
    eps = options.eps
    step_size = eps / options.steps if options.step_size is None else options.step_size

    def move(batch: Moving, seen: ForwardPass, step: int) -> Moving:
        moved, momentum = momentum_step(
            batch.x_adv,
            seen.grad,
            batch.momentum,
            batch.x,
            decay=decay,
            step_size=step_size,
            eps=eps,
            direction=options.direction,
        )
        return dataclasses.replace(batch, x_adv=moved, momentum=momentum)

    def begin(batch: Batch) -> Moving:
        return Moving(**vars(batch), momentum=torch.zeros_like(batch.x))

    target = followed_class(model, x, y, label=options.label)
    return iterate(model, x, target, options, gradient=gradient, move=move, begin=begin)


def _placement(numbers: Tensor, *, probability: float, smallest: float) -> Tensor:
    """Return the affine maps (N, 2, 3), in grid_sample's terms, that shrink content and place it in its frame.

    Args:
        numbers: (N, 4) uniform in [0, 1): whether, how small, where across and where down.
        probability: Share of the images that are transformed.
        smallest: Smallest side, as a fraction.
    """
    side = torch.where(numbers[:, 0] < probability, smallest + (1 - smallest) * numbers[:, 1], 1.0)
    room = (1 - side) / side  # the frame is read at side times its coordinates, so the shift is in the content's units
    across, down = (room * (2 * numbers[:, column] - 1) for column in (2, 3))
    zero = torch.zeros_like(side)
    return torch.stack([1 / side, zero, across, zero, 1 / side, down], dim=1).view(-1, 2, 3)


def _shrink(images: Tensor, placed: Tensor) -> Tensor:
    grid = F.affine_grid(placed, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _gaussian(size: int, *, sigma: float) -> Tensor:
    """Return a Gaussian (1, 1, size, size) that sums to 1."""
    line = torch.exp(-((torch.arange(size) - size // 2) ** 2) / (2 * math.pow(sigma, 2)))
    square = line[:, None] * line[None, :]
    return (square / square.sum()).view(1, 1, size, size)

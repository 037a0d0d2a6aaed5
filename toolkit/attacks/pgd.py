"""Projected gradient descent, under both norms, and on softened logits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor

from edgeproof.attacks.balls import uniform_in_l2, uniform_in_linf
from edgeproof.attacks.base import Draws, check_positive, draws_of
from edgeproof.attacks.labels import followed_class
from edgeproof.attacks.losses import LOSSES, LossName, softened_cross_entropy
from edgeproof.attacks.search import Batch, Keep, Worst, check_keep, restarted, search
from edgeproof.errors import ConfigError
from edgeproof.ops import l2_step, linf_step
from edgeproof.plugins.registry import register
from edgeproof.source_model.gradients import ForwardPass, Loss, value_and_grad
from edgeproof.types import Direction

if TYPE_CHECKING:
    from edgeproof.types import LogitsFn


@register("pgd-linf", norm="linf", access="gradients")
def pgd_linf(
    model: LogitsFn,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    step_size: float | None = None,
    steps: int = 20,
    restarts: int = 1,
    random_start: bool = True,
    loss: LossName = "ce",
    direction: Direction = "ascent",
    label: str = "true",
    keep: Keep = "best",
    stop: str = "never",
    draws: Draws | None = None,
) -> Tensor:
    """Projected gradient descent under L-infinity (Madry et al., 2018, arXiv:1706.06083).

    Args:
        model: Maps images (N, C, H, W) in [0, 1] to logits (N, K); differentiable.
        x: Clean images, (N, C, H, W) in [0, 1].
        y: True classes, (N,) int64.
        eps: L-infinity budget in the units of `x` (8/255 is eight grey levels).
        step_size: Length of a step (default: 2.5 * eps / steps).
        steps: Number of steps, each one gradient.
        restarts: Number of random starts; the worst image over them is kept.
        random_start: Start at a uniform point of the ball instead of the clean image.
        loss: "ce", "margin" or "dlr".
        direction: "ascent" moves away from the class that is followed, "descent" towards it.
        label: The class that is followed: "true", "most-likely", "least-likely" on the clean image, or an index.
        keep: "best" keeps the worst iterate of each image, which costs one forward pass more; "last" the last one.
        stop: "never", "first" or "margin=K": when an image has been attacked enough and leaves the batch. With the last
            two the whole step of the first gradient is tried as well, which settles most images of an undefended model.
        draws: Random numbers of the starts.

    Returns:
        Images of the shape and dtype of `x`, within `eps` of it and in [0, 1].
    """
    return descend(
        model,
        x,
        followed_class(model, x, y, label=label),
        start=partial(uniform_in_linf, eps=eps) if random_start else None,
        step=linf_step,
        loss=LOSSES[loss],
        eps=eps,
        step_size=step_size,
        steps=steps,
        restarts=restarts,
        direction=direction,
        keep=keep,
        stop=stop,
        draws=draws,
    )


@register("pgd-l2", norm="l2", access="gradients")
def pgd_l2(
    model: LogitsFn,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    step_size: float | None = None,
    steps: int = 20,
    restarts: int = 1,
    random_start: bool = True,
    loss: LossName = "ce",
    direction: Direction = "ascent",
    label: str = "true",
    keep: Keep = "best",
    stop: str = "never",
    draws: Draws | None = None,
) -> Tensor:
    """Projected gradient descent under L2 (Madry et al., 2018, arXiv:1706.06083): normalised steps, projected.

    Args:
        model: Maps images (N, C, H, W) in [0, 1] to logits (N, K); differentiable.
        x: Clean images, (N, C, H, W) in [0, 1].
        y: True classes, (N,) int64.
        eps: L2 budget of a whole image in the units of `x`, such as 0.5.
        step_size: Length of a step (default: 2.5 * eps / steps).
        steps: Number of steps, each one gradient.
        restarts: Number of random starts; the worst image over them is kept.
        random_start: Start at a uniform point of the ball instead of the clean image.
        loss: "ce", "margin" or "dlr".
        direction: "ascent" moves away from the class that is followed, "descent" towards it.
        label: The class that is followed: "true", "most-likely", "least-likely" on the clean image, or an index.
        keep: "best" keeps the worst iterate of each image, which costs one forward pass more; "last" the last one.
        stop: "never", "first" or "margin=K": when an image has been attacked enough and leaves the batch. With the last
            two the whole step of the first gradient is tried as well, which settles most images of an undefended model.
        draws: Random numbers of the starts.

    Returns:
        Images of the shape and dtype of `x`, within `eps` of it and in [0, 1].
    """
    return descend(
        model,
        x,
        followed_class(model, x, y, label=label),
        start=partial(uniform_in_l2, eps=eps) if random_start else None,
        step=l2_step,
        loss=LOSSES[loss],
        eps=eps,
        step_size=step_size,
        steps=steps,
        restarts=restarts,
        direction=direction,
        keep=keep,
        stop=stop,
        draws=draws,
    )


@register("pgd-temperature", norm="linf", access="gradients")
def pgd_temperature(
    model: LogitsFn,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    step_size: float | None = None,
    steps: int = 20,
    restarts: int = 1,
    rho: float = 0.01,
    stop: str = "never",
    draws: Draws | None = None,
) -> Tensor:
    """PGD on logits softened by their own margin: PGD++ (Gupta & Ajanthan, 2022, arXiv:2003.13511).

    Where the loss of a very certain (often a quantised or binary) network is flat, this finds adversaries that `pgd-linf`
    does not; a large difference between the two is a sign of masked gradients.

    Args:
        model: Maps images (N, C, H, W) in [0, 1] to logits (N, K); differentiable.
        x: Clean images, (N, C, H, W) in [0, 1].
        y: True classes, (N,) int64.
        eps: L-infinity budget in the units of `x`.
        step_size: Length of a step (default: 2.5 * eps / steps).
        steps: Number of steps, each one gradient.
        restarts: Number of random starts; the worst image over them is kept.
        rho: Probability that the softened logits can leave to the other classes; below it the logits are softened.
        stop: "never", "first" or "margin=K": when an image has been attacked enough and leaves the batch. With the last
            two the whole step of the first gradient is tried as well, which settles most images of an undefended model.
        draws: Random numbers of the starts.

    Returns:
        Images of the shape and dtype of `x`, within `eps` of it and in [0, 1].
    """
    if not 0 < rho < 0.5:
        raise ConfigError(f"rho = {rho:g}; expected a probability above 0 and below 0.5")
    return descend(
        model,
        x,
        y,
        start=partial(uniform_in_linf, eps=eps),
        step=linf_step,
        loss=softened_cross_entropy(rho),
        eps=eps,
        step_size=step_size,
        steps=steps,
        restarts=restarts,
        direction="ascent",
        keep="best",
        stop=stop,
        draws=draws,
    )


def descend(
    model: LogitsFn,
    x: Tensor,
    y: Tensor,
    *,
    loss: Loss,
    eps: float | Tensor,
    steps: int,
    step_size: float | None = None,
    start: Callable[..., Tensor] | None = None,
    step: Callable[..., Tensor] = linf_step,
    restarts: int = 1,
    direction: Direction = "ascent",
    keep: Keep = "best",
    stop: str = "never",
    draws: Draws | None = None,
) -> Tensor:
    """Follow any loss by one kind of step; the arguments are those of `pgd_linf`, with its choices made.

    `eps` may also be one an image, (N, 1, 1, 1), where no image leaves (`stop="never"`, one restart).
    """
    check_positive(steps=steps, restarts=restarts, step_size=step_size)
    check_keep(keep, restarts=restarts, stop=stop)
    length = 2.5 * eps / steps if step_size is None else step_size
    worst = Worst(x, y, direction=direction, stop=stop)

    def look(batch: Batch, number: int) -> ForwardPass:
        return value_and_grad(model, batch.x_adv, batch.y, loss=loss)

    def move(batch: Batch, seen: ForwardPass, number: int) -> Batch:
        moved = step(batch.x_adv, seen.grad, batch.x, step_size=length, eps=eps, direction=direction)
        return dataclasses.replace(batch, x_adv=moved)

    def lunge(batch: Batch, seen: ForwardPass) -> Tensor:
        return step(batch.x_adv, seen.grad, batch.x, step_size=2 * eps, eps=eps, direction=direction)

    attempt = partial(search, model, observe=look, move=move, steps=steps, worst=worst, keep=keep, lunge=lunge)
    restarted(x, y, attempt=attempt, start=start, restarts=restarts, worst=worst, draws=draws_of(draws, x))
    return worst.images

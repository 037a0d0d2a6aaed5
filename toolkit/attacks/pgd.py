"""Projected gradient descent."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from torch import Tensor

from toolkit.attacks.balls import uniform_in_linf
from toolkit.attacks.base import Draws, check_positive, draws_of
from toolkit.attacks.gradients import Observed, observe
from toolkit.attacks.labels import followed_class
from toolkit.attacks.losses import LOSSES, LossName
from toolkit.attacks.search import Batch, Keep, Worst, check_keep, restarted, search
from toolkit.ops import linf_step
from toolkit.registry import register
from toolkit.types import Direction

if TYPE_CHECKING:
    from toolkit.types import LogitsFn


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
        stop: "never", "first" or "margin=K": when an image has been attacked enough and leaves the batch.
        draws: Random numbers of the starts.

    Returns:
        Images of the shape and dtype of `x`, within `eps` of it and in [0, 1].
    """
    check_positive(steps=steps, restarts=restarts, step_size=step_size)
    check_keep(keep, restarts=restarts, stop=stop)
    step_size = 2.5 * eps / steps if step_size is None else step_size
    target = followed_class(model, x, y, label=label)
    worst = Worst(x, target, direction=direction, stop=stop)

    def look(batch: Batch, step: int) -> Observed:
        return observe(model, batch.x_adv, batch.y, loss=LOSSES[loss])

    def move(batch: Batch, seen: Observed, step: int) -> Batch:
        moved = linf_step(batch.x_adv, seen.grad, batch.x, step_size=step_size, eps=eps, direction=direction)
        return dataclasses.replace(batch, x_adv=moved)

    def attempt(batch: Batch) -> None:
        search(model, batch, observe=look, move=move, steps=steps, worst=worst, keep=keep)

    def start(clean: Tensor, draws: Draws) -> Tensor:
        return uniform_in_linf(clean, eps=eps, draws=draws)

    restarted(
        x,
        target,
        attempt=attempt,
        start=start if random_start else None,
        restarts=restarts,
        worst=worst,
        draws=draws_of(draws, x),
    )
    return worst.images

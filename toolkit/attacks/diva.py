"""DIVA: images that one build of a network gets right and another gets wrong."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from edgeproof.attacks.balls import uniform_in_linf
from edgeproof.attacks.base import Draws, check_positive, draws_of
from edgeproof.attacks.losses import margin
from edgeproof.attacks.search import Batch, Worst, restarted, search
from edgeproof.ops import linf_step
from edgeproof.plugins.registry import register
from edgeproof.source_model.gradients import ForwardPass, value_and_grad

if TYPE_CHECKING:
    from edgeproof.types import LogitsFn


@register("diva", norm="linf", access="gradients")
def diva(
    model: LogitsFn,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    deployed: LogitsFn,
    c: float = 1.0,
    step_size: float | None = None,
    steps: int = 20,
    restarts: int = 1,
    random_start: bool = False,
    stop: str = "never",
    draws: Draws | None = None,
) -> Tensor:
    """Differential attack between two builds of a network: DIVA (Hao et al., MLSys 2022).

    It raises p_model[y] - c * p_deployed[y]: what is found passes a sign-off of the model and fails once it is deployed.
    Differing from the authors, who keep the last iterate, each image keeps the one that comes closest to (or farthest beyond)
    being right for the model and wrong for the deployed build.

    Args:
        model: Maps images (N, C, H, W) in [0, 1] to logits (N, K); differentiable. It is to stay right.
        x: Clean images, (N, C, H, W) in [0, 1].
        y: True classes, (N,) int64.
        eps: L-infinity budget in the units of `x`.
        deployed: The build that is to be wrong, differentiable too.
        c: Weight of the deployed build's probability.
        step_size: Length of a step (default: 2.5 * eps / steps; 1/255 for the authors' 8/255 in 20 steps).
        steps: Number of steps, each one gradient of both builds.
        restarts: Number of random starts; the best image over them is kept.
        random_start: Start at a uniform point of the ball instead of the clean image.
        stop: "never", "first" or "margin=K": when an image has been attacked enough; the margin is the smaller of both leads.
        draws: Random numbers of the starts.

    Returns:
        Images of the shape and dtype of `x`, within `eps` of it and in [0, 1].
    """
    check_positive(c=c, steps=steps, restarts=restarts, step_size=step_size)
    length = 2.5 * eps / steps if step_size is None else step_size
    worst = Worst(x, y, direction="ascent", stop=stop, goal=lead)
    both = partial(_both, model, deployed)
    loss = partial(gap, c=c)

    def look(batch: Batch, number: int) -> ForwardPass:
        return value_and_grad(both, batch.x_adv, batch.y, loss=loss)

    def move(batch: Batch, seen: ForwardPass, number: int) -> Batch:
        moved = linf_step(batch.x_adv, seen.grad, batch.x, step_size=length, eps=eps)
        return dataclasses.replace(batch, x_adv=moved)

    attempt = partial(search, both, observe=look, move=move, steps=steps, worst=worst)
    start = partial(uniform_in_linf, eps=eps) if random_start else None
    restarted(x, y, attempt=attempt, start=start, restarts=restarts, worst=worst, draws=draws_of(draws, x))
    return worst.images


def gap(logits: Tensor, y: Tensor, *, c: float) -> Tensor:
    """Return p_model[y] - c * p_deployed[y] for logits (N, 2, K), the model's first."""
    own = logits.softmax(2)[torch.arange(len(y), device=y.device), :, y]
    return own[:, 0] - c * own[:, 1]


def lead(logits: Tensor, y: Tensor) -> Tensor:
    """Return the smaller of two leads for logits (N, 2, K): of y in the model, and of another class in the deployed build."""
    return torch.minimum(-margin(logits[:, 0], y), margin(logits[:, 1], y))


def _both(model: LogitsFn, deployed: LogitsFn, x: Tensor) -> Tensor:
    return torch.stack([model(x), deployed(x)], dim=1)

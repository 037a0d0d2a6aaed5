"""DIVA: images that one build of a network gets right and another gets wrong."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from edgeproof.attacks.base import Draws, check_positive
from edgeproof.attacks.iterative import iterate
from edgeproof.attacks.losses import margin
from edgeproof.attacks.norms import uniform_in_linf
from edgeproof.attacks.options import IterativeOptions
from edgeproof.ops import linf_step
from edgeproof.plugins.registry import register
from edgeproof.source_model.gradients import value_and_grad
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
        deployed: The build that is to be wrong, differentiable too.
        c: Weight of the deployed build's probability.
        step_size: Length of a step (default: 2.5 * eps / steps; 1/255 for the authors' 8/255 in 20 steps).
        steps: Number of steps, each one gradient of both builds.
    """
    check_positive(c=c)
    options = IterativeOptions(eps, steps, step_size, restarts, random_start, stop=stop, draws=draws)
    length = 2.5 * eps / steps if step_size is None else step_size

    def both(images: Tensor) -> Tensor:
        return torch.stack([model(images), deployed(images)], dim=1)

    step = partial(linf_step, step_size=length, eps=eps)
    start = partial(uniform_in_linf, eps=eps) if random_start else None
    return iterate(
        both,
        x,
        y,
        options,
        gradient=lambda batch, number: value_and_grad(both, batch.x_adv, batch.y, loss=partial(gap, c=c)),
        step=step,
        start=start,
        goal=lead,
    )


def gap(logits: Tensor, y: Tensor, *, c: float) -> Tensor:
    """Return p_model[y] - c * p_deployed[y] for logits (N, 2, K), the model's first."""
    own = logits.softmax(2)[torch.arange(len(y), device=y.device), :, y]
    return own[:, 0] - c * own[:, 1]


def lead(logits: Tensor, y: Tensor) -> Tensor:
    """Return the smaller of two leads for logits (N, 2, K): of y in the model, and of another class in the deployed build."""
    return torch.minimum(-margin(logits[:, 0], y), margin(logits[:, 1], y))

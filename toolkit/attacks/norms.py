"""The norms of budgets: how to step, project and start at random in each."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from edgeproof.attacks.base import Draws
from edgeproof.ops import l2_norm, l2_project, l2_step, linf_project, linf_step
from edgeproof.types import Norm

START = 0  # the stream of the start; steps draw from the streams after it


def uniform_in_linf(x: Tensor, *, eps: float | Tensor, draws: Draws) -> Tensor:
    """Return points uniform in the L-infinity balls around the images (N, C, H, W), clipped to [0, 1]; eps may be one per image."""
    unit = draws.uniform(START, tuple(x.shape[1:])).to(x)
    return unit.mul_(2).sub_(1).mul_(eps).add_(x).clamp_(0, 1)


def uniform_in_l2(x: Tensor, *, eps: float | Tensor, draws: Draws) -> Tensor:
    """Return points uniform in the L2 balls around the images (N, C, H, W), clipped to [0, 1]."""
    size = math.prod(x.shape[1:])
    numbers = draws.uniform(START, (2 * size + 1,)).to(x)
    # Box-Muller; 1 - u is never 0, so the logarithm is finite.
    normal = torch.sqrt(-2 * torch.log(1 - numbers[:, :size])) * torch.cos(2 * math.pi * numbers[:, size:-1])
    direction = normal.view_as(x)
    length = eps * numbers[:, -1:].view(-1, 1, 1, 1) ** (1 / size)
    return (x + direction * (length / l2_norm(direction).clamp_(min=1e-12))).clamp_(0, 1)


@dataclass(frozen=True)
class Ball:
    """What an attack needs of a norm.

    Attributes:
        step: One step along a gradient and back into the ball: `ops.linf_step` or `ops.l2_step`.
        project: Back into the ball.
        uniform: A random start.
    """

    step: Callable[..., Tensor]
    project: Callable[..., Tensor]
    uniform: Callable[..., Tensor]


BALLS: Mapping[Norm, Ball] = {
    "linf": Ball(linf_step, linf_project, uniform_in_linf),
    "l2": Ball(l2_step, l2_project, uniform_in_l2),
}

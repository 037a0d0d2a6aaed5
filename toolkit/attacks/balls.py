"""Random points in the budget of an image."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from edgeproof.attacks.base import Draws
from edgeproof.ops import l2_norm

START = 0  # the stream of the start; steps draw from the streams after it


def uniform_in_linf(x: Tensor, *, eps: float | Tensor, draws: Draws) -> Tensor:
    """Return points uniform in the L-infinity balls around the images (N, C, H, W), clipped to [0, 1]; eps may be one an image."""
    unit = draws.uniform(START, tuple(x.shape[1:])).to(x)
    return unit.mul_(2).sub_(1).mul_(eps).add_(x).clamp_(0, 1)


def uniform_in_l2(x: Tensor, *, eps: float, draws: Draws) -> Tensor:
    """Return points uniform in the L2 balls around the images (N, C, H, W), clipped to [0, 1]."""
    size = math.prod(x.shape[1:])
    numbers = draws.uniform(START, (2 * size + 1,)).to(x)
    # Box-Muller; 1 - u is never 0, so the logarithm is finite.
    normal = torch.sqrt(-2 * torch.log(1 - numbers[:, :size])) * torch.cos(2 * math.pi * numbers[:, size:-1])
    direction = normal.view_as(x)
    length = eps * numbers[:, -1:].view(-1, 1, 1, 1) ** (1 / size)
    return (x + direction * (length / l2_norm(direction).clamp_(min=1e-12))).clamp_(0, 1)

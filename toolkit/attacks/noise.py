"""Random noise: the control without which no robustness number means much."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from edgeproof.attacks.base import Draws, draws_of
from edgeproof.attacks.norms import START, uniform_in_linf
from edgeproof.ops import linf_step
from edgeproof.plugins.registry import register
from edgeproof.types import LogitsFn


@register("noise", norm="linf", access="none")
def noise(
    model: LogitsFn,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    kind: Literal["uniform", "sign"] = "uniform",
    draws: Draws | None = None,
) -> Tensor:
    """Random noise within the budget: the control for what an attack adds beyond perturbing at all.

    Args:
        kind: "uniform" in the ball, or "sign": every pixel moves by eps, up or down.
    """
    draws = draws_of(draws, x)
    if kind == "uniform":
        return uniform_in_linf(x, eps=eps, draws=draws)
    heads = draws.uniform(START, tuple(x.shape[1:])).to(x.device) < 0.5
    return linf_step(x, torch.where(heads, 1.0, -1.0).to(x), x, step_size=eps, eps=eps)

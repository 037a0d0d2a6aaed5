"""Gradient sign attacks without a random start: one step, or several."""

from __future__ import annotations

import torch
from torch import Tensor

from edgeproof.attacks.base import check_positive
from edgeproof.attacks.labels import followed_class
from edgeproof.attacks.losses import cross_entropy
from edgeproof.attacks.pgd import pgd_linf
from edgeproof.ops import linf_step
from edgeproof.plugins.registry import register
from edgeproof.source_model.gradients import value_and_grad
from edgeproof.types import Direction, LogitsFn


@register("fgsm", norm="linf", access="gradients", nested=True)
def fgsm(
    model: LogitsFn,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    direction: Direction = "ascent",
    label: str = "true",
) -> Tensor:
    """Fast gradient sign method (Goodfellow et al., 2015, arXiv:1412.6572)."""
    target = followed_class(model, x, y, label=label)
    grad = value_and_grad(model, x, target, loss=cross_entropy).grad
    return linf_step(x, grad, x, step_size=eps, eps=eps, direction=direction)


@register("fgsm-possas", norm="linf", access="gradients", box=False, budget="steps*eps")
def fgsm_possas(
    model: LogitsFn,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    steps: int = 1,
    direction: Direction = "ascent",
    label: str = "true",
) -> Tensor:
    """Gradient sign as Possas & Zhou (ICONIP 2017) and their code have it: no clipping, sign(0) = +1, steps of eps.

    It reproduces that paper. Its images may leave [0, 1] and lie up to steps * eps away, so it is no threat model;
    `fgsm` and `pgd-linf` are.

    Args:
        eps: Length of each step in the units of `x`; 0.01 in the paper.
        steps: Number of steps; 1 is the paper's "fast" variant.

    Returns:
        Images of the shape and dtype of `x`, within steps * eps of it, not clipped.
    """
    check_positive(steps=steps)
    target = followed_class(model, x, y, label=label)
    sign = 1 if direction == "ascent" else -1
    x_adv = x
    for _ in range(steps):
        grad = value_and_grad(model, x_adv, target, loss=cross_entropy).grad
        x_adv = x_adv + sign * eps * torch.where(grad >= 0, 1.0, -1.0).to(x)
    return x_adv


@register("ifgsm", norm="linf", access="gradients")
def ifgsm(
    model: LogitsFn,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    step_size: float | None = None,
    steps: int = 10,
    direction: Direction = "ascent",
    label: str = "true",
    stop: str = "never",
) -> Tensor:
    """Basic iterative method (Kurakin et al., 2017, arXiv:1607.02533): sign steps from the clean image, projected.

    Args:
        step_size: Length of a step (default: eps / steps).

    Returns:
        Images of the shape and dtype of `x`, within `eps` of it and in [0, 1]: the last iterate, or where `stop` lets
        images go early the worst.
    """
    check_positive(steps=steps)
    return pgd_linf(
        model,
        x,
        y,
        eps=eps,
        step_size=eps / steps if step_size is None else step_size,
        steps=steps,
        random_start=False,
        direction=direction,
        label=label,
        keep="last" if stop == "never" else "best",
        stop=stop,
    )


@register("ifgsm-unprojected", norm="linf", access="gradients", budget="steps*eps")
def ifgsm_unprojected(
    model: LogitsFn,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    steps: int = 10,
    direction: Direction = "ascent",
    label: str = "true",
) -> Tensor:
    """Iterated gradient sign that is clipped to [0, 1] but not projected: each step moves eps, all of them steps * eps.

    Args:
        eps: Length of each step in the units of `x`.

    Returns:
        Images of the shape and dtype of `x`, within steps * eps of it and in [0, 1].
    """
    check_positive(steps=steps)
    target = followed_class(model, x, y, label=label)
    x_adv = x
    for _ in range(steps):
        grad = value_and_grad(model, x_adv, target, loss=cross_entropy).grad
        x_adv = linf_step(x_adv, grad, x, step_size=eps, eps=steps * eps, direction=direction)
    return x_adv

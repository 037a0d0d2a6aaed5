"""Iterated gradient sign without a random start."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from edgeproof.attacks.base import check_positive
from edgeproof.attacks.labels import followed_class
from edgeproof.attacks.losses import cross_entropy
from edgeproof.attacks.pgd import pgd_linf
from edgeproof.ops import linf_step
from edgeproof.plugins.registry import register
from edgeproof.source_model.gradients import value_and_grad
from edgeproof.types import Direction

if TYPE_CHECKING:
    from edgeproof.types import LogitsFn


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
        model: Maps images (N, C, H, W) in [0, 1] to logits (N, K); differentiable.
        x: Clean images, (N, C, H, W) in [0, 1].
        y: True classes, (N,) int64.
        eps: L-infinity budget in the units of `x`.
        step_size: Length of a step (default: eps / steps).
        steps: Number of steps.
        direction: "ascent" moves away from the class that is followed, "descent" towards it.
        label: The class that is followed: "true", "most-likely", "least-likely" on the clean image, or an index.
        stop: "never", "first" or "margin=K": when an image has been attacked enough.

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
        model: Maps images (N, C, H, W) in [0, 1] to logits (N, K); differentiable.
        x: Clean images, (N, C, H, W) in [0, 1].
        y: True classes, (N,) int64.
        eps: Length of each step in the units of `x`.
        steps: Number of steps.
        direction: "ascent" moves away from the class that is followed, "descent" towards it.
        label: The class that is followed: "true", "most-likely", "least-likely" on the clean image, or an index.

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

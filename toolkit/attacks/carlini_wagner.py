"""Carlini & Wagner's attack: the smallest perturbation by optimisation, with a search for its trade-off."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from edgeproof.attacks.base import check_positive
from edgeproof.attacks.losses import margin
from edgeproof.errors import ConfigError
from edgeproof.ops import l2_norm, l2_project
from edgeproof.plugins.registry import register

if TYPE_CHECKING:
    from edgeproof.types import LogitsFn

_INSIDE = 0.999999  # keeps the inverse hyperbolic tangent of black and white finite


@register("cw-l2", norm="l2", access="gradients", nested=True)
def cw_l2(
    model: LogitsFn,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    steps: int = 200,
    searches: int = 6,
    step_size: float = 0.01,
    confidence: float = 0.0,
    constant: float = 0.01,
) -> Tensor:
    """Carlini & Wagner's attack under L2 (2017, arXiv:1608.04644): minimises |delta|^2 + c max(0, margin + confidence).

    It looks for the smallest perturbation, whatever the budget; an image that needs more than `eps` is moved by `eps` towards
    its adversary and mostly remains what it was. So a large `eps` gives the minimal perturbations themselves.

    Args:
        model: Maps images (N, C, H, W) in [0, 1] to logits (N, K); differentiable.
        x: Clean images, (N, C, H, W) in [0, 1].
        y: True classes, (N,) int64.
        eps: L2 budget of a whole image in the units of `x`.
        steps: Number of steps of Adam for each c, each one gradient.
        searches: Number of values of c tried for each image, by bisection once one has worked.
        step_size: Of Adam, in the space of the inverse hyperbolic tangent.
        confidence: Margin by which the logit of another class has to exceed that of y.
        constant: The first c.

    Returns:
        Images of the shape and dtype of `x`, within `eps` of it and in [0, 1]; the clean image where none was found.
    """
    check_positive(steps=steps, searches=searches, step_size=step_size, constant=constant)
    if confidence < 0:
        raise ConfigError(f"confidence = {confidence:g}; expected 0 or more")
    found = _Nearest(images=x.clone(), distance=torch.full_like(x[:, 0, 0, 0], torch.inf))
    c = _Bisection(
        value=torch.full_like(found.distance, constant),
        low=torch.zeros_like(found.distance),
        high=torch.full_like(found.distance, torch.inf),
    )
    for _ in range(searches):
        found, worked = _minimise(model, x, y, c.value, found, steps=steps, step_size=step_size, confidence=confidence)
        c = c.after(worked)
    return l2_project(found.images, x, eps=eps)


@dataclasses.dataclass(frozen=True)
class _Nearest:
    """The nearest adversaries so far and how far each is, infinite where there is none."""

    images: Tensor
    distance: Tensor

    def offered(self, images: Tensor, distance: Tensor, fooled: Tensor) -> _Nearest:
        nearer = fooled & (distance < self.distance)
        return _Nearest(
            torch.where(nearer.view(-1, 1, 1, 1), images, self.images), torch.where(nearer, distance, self.distance)
        )


@dataclasses.dataclass(frozen=True)
class _Bisection:
    """The weight c of each image, with the largest that failed and the smallest that worked."""

    value: Tensor
    low: Tensor
    high: Tensor

    def after(self, worked: Tensor) -> _Bisection:
        high = torch.where(worked, self.value, self.high)
        low = torch.where(worked, self.low, self.value)
        return _Bisection(torch.where(torch.isinf(high), self.value * 10, (low + high) / 2), low, high)


def _minimise(
    model: LogitsFn,
    x: Tensor,
    y: Tensor,
    c: Tensor,
    found: _Nearest,
    *,
    steps: int,
    step_size: float,
    confidence: float,
) -> tuple[_Nearest, Tensor]:
    """Run Adam from the clean images; return the nearest adversaries and where one was found at this c."""
    centre = torch.atanh((2 * x - 1) * _INSIDE)
    clean = _image(centre)
    offset = torch.zeros_like(x)
    first, second = torch.zeros_like(x), torch.zeros_like(x)
    worked = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    for step in range(1, steps + 1):
        with torch.enable_grad():
            offset = offset.detach().requires_grad_()
            images = _image(centre + offset)
            ahead = margin(model(images), y) - confidence
            loss = c * (-ahead).clamp(min=0) + (images - clean).square().sum((1, 2, 3))
            (grad,) = torch.autograd.grad(loss.sum(), offset)
        fooled, images = ahead.detach() > 0, images.detach()
        found = found.offered(images, l2_norm(images - x).flatten(), fooled)
        worked |= fooled
        first = 0.9 * first + 0.1 * grad
        second = 0.999 * second + 0.001 * grad.square()
        scale = (second / (1 - 0.999**step)).sqrt_().add_(1e-8)
        offset = offset.detach() - step_size / (1 - 0.9**step) * first / scale
    return found, worked


def _image(space: Tensor) -> Tensor:
    """Return the images (N, C, H, W) in [0, 1] of points of the unbounded space."""
    return (torch.tanh(space) + 1) / 2

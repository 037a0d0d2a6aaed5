"""Carlini & Wagner's attack: the smallest perturbation by optimisation, with a search for its trade-off."""

from __future__ import annotations

import torch
from torch import Tensor

from edgeproof.attacks.base import check_positive
from edgeproof.attacks.losses import margin
from edgeproof.errors import ConfigError
from edgeproof.ops import l2_norm, l2_project
from edgeproof.plugins.registry import register
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
    centre = torch.atanh((2 * x - 1) * _INSIDE)
    clean = _image(centre)
    nearest, distance = x.clone(), torch.full_like(x[:, 0, 0, 0], torch.inf)  # infinite where nothing is found yet
    # For each image the weight c, with the largest that failed and the smallest that worked.
    c, low, high = torch.full_like(distance, constant), torch.zeros_like(distance), torch.full_like(distance, torch.inf)
    for _ in range(searches):
        offset, first, second = torch.zeros_like(x), torch.zeros_like(x), torch.zeros_like(x)
        worked = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        for step in range(1, steps + 1):
            with torch.enable_grad():
                offset = offset.detach().requires_grad_()
                images = _image(centre + offset)
                ahead = margin(model(images), y) - confidence
                loss = c * (-ahead).clamp(min=0) + (images - clean).square().sum((1, 2, 3))
                (grad,) = torch.autograd.grad(loss.sum(), offset)
            fooled, images = ahead.detach() > 0, images.detach()
            moved = l2_norm(images - x).flatten()
            nearer = fooled & (moved < distance)
            nearest = torch.where(nearer.view(-1, 1, 1, 1), images, nearest)
            distance = torch.where(nearer, moved, distance)
            worked |= fooled
            first = 0.9 * first + 0.1 * grad  # Adam
            second = 0.999 * second + 0.001 * grad.square()
            scale = (second / (1 - 0.999**step)).sqrt_().add_(1e-8)
            offset = offset.detach() - step_size / (1 - 0.9**step) * first / scale
        high, low = torch.where(worked, c, high), torch.where(worked, low, c)
        c = torch.where(torch.isinf(high), c * 10, (low + high) / 2)
    return l2_project(nearest, x, eps=eps)


def _image(space: Tensor) -> Tensor:
    """Return the images (N, C, H, W) in [0, 1] of points of the unbounded space."""
    return (torch.tanh(space) + 1) / 2

"""DeepFool: the nearest boundary of a linearised model, again and again."""

from __future__ import annotations

import torch
from torch import Tensor

from edgeproof.attacks.base import check_positive
from edgeproof.errors import ConfigError
from edgeproof.ops import l2_norm, l2_project
from edgeproof.plugins.registry import register
from edgeproof.types import LogitsFn


@register("deepfool", norm="l2", access="gradients", nested=True)
def deepfool(
    model: LogitsFn,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    steps: int = 50,
    candidates: int = 10,
    overshoot: float = 0.02,
) -> Tensor:
    """DeepFool under L2 (Moosavi-Dezfooli et al., 2016, arXiv:1511.04599): small perturbations, found quickly.

    It looks for the smallest perturbation, whatever the budget; an image that needs more than `eps` is moved by `eps` towards
    its adversary and mostly remains what it was. So a large `eps` gives the minimal perturbations themselves.

    Args:
        y: True classes, (N,) int64. An image that is not classified as its own stays as it is.
        steps: Most linearisations of an image; it leaves the batch once it is misclassified.
        candidates: Number of classes considered, the likeliest on the clean image and the true one among them.
        overshoot: Factor beyond the boundary, as a fraction.
    """
    check_positive(steps=steps)
    if candidates < 2 or overshoot < 0:
        raise ConfigError(f"candidates = {candidates}, overshoot = {overshoot:g}; expected 2 and 0 or more")
    x_adv, rows = x.clone(), torch.arange(len(x), device=x.device)
    offset = torch.zeros_like(x)
    others = likeliest_others(model, x, y, count=candidates - 1)
    for _ in range(steps):
        wrong, step = to_nearest_boundary(model, x_adv[rows], y[rows], others[rows])
        rows, step = rows[~wrong], step[~wrong]
        if not len(rows):
            break
        offset[rows] += step
        x_adv[rows] = (x[rows] + (1 + overshoot) * offset[rows]).clamp_(0, 1)
    return l2_project(x_adv, x, eps=eps)


def likeliest_others(model: LogitsFn, x: Tensor, y: Tensor, *, count: int) -> Tensor:
    """Return the likeliest classes other than y, (N, count) or fewer."""
    with torch.no_grad():
        logits = model(x)
    return logits.scatter(1, y[:, None], -torch.inf).topk(min(count, logits.shape[1] - 1), dim=1).indices


def to_nearest_boundary(model: LogitsFn, x: Tensor, y: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Return which images are misclassified already, and the step to the nearest boundary of the linearised model."""
    with torch.enable_grad():
        images = x.detach().requires_grad_()
        logits = model(images)
        gaps = logits.gather(1, others) - logits.gather(1, y[:, None])
        slopes = [
            torch.autograd.grad(gaps[:, k].sum(), images, retain_graph=k + 1 < others.shape[1])[0]
            for k in range(others.shape[1])
        ]
    lengths = torch.cat([l2_norm(slope).flatten(1) for slope in slopes], dim=1)
    distances = gaps.detach().abs() / (lengths + 1e-8)
    nearest = distances.argmin(1)
    pick = torch.arange(len(x), device=x.device)
    # A little further than the boundary, since a step of length zero would never cross it.
    scale = (distances[pick, nearest] + 1e-4) / (lengths[pick, nearest] + 1e-8)
    step = torch.stack(slopes, dim=1)[pick, nearest] * scale.view(-1, 1, 1, 1)
    return logits.detach().argmax(1) != y, step

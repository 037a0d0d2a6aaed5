"""TRADES: accuracy on clean images, and the same answer all around them."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from edgeproof.attacks.base import Draws
from edgeproof.attacks.norms import uniform_in_linf
from edgeproof.attacks.options import IterativeOptions
from edgeproof.attacks.pgd import pgd
from edgeproof.config import check_eps
from edgeproof.models.base import Classifier
from edgeproof.plugins.registry import register
from edgeproof.source_model.gradients import Loss
from edgeproof.training.objectives.base import attacking

_START = 1e-3  # the divergence has no gradient at the clean image itself


@register("trades")
def trades(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    steps: int = 10,
    step_size: float | None = None,
    beta: float = 6.0,
    draws: Draws,
) -> Tensor:
    """TRADES (Zhang et al., 2019, arXiv:1901.08573): cross-entropy of clean images + beta * KL(clean || attacked).

    The attack climbs the same divergence. Differing from the authors' code, it starts at a uniform point within 0.001
    instead of a normal one of that spread.

    Args:
        model: The classifier in training.
        x: Images, (N, C, H, W) in [0, 1].
        y: Classes, (N,) int64.
        eps: L-infinity budget in pixel units.
        steps: Gradients an image.
        step_size: Length of a step (default: 2.5 * eps / steps).
        beta: Weight of the divergence, 1 / lambda in the paper.
        draws: Random numbers of the starts.

    Raises:
        ConfigError: For a budget that cannot be meant.
    """
    check_eps(eps, norm="linf")
    with attacking(model):
        with torch.no_grad():
            near = divergence_from(model(x))
        start = partial(uniform_in_linf, eps=min(_START, eps))
        options = IterativeOptions(eps, steps, step_size, keep="last", draws=draws)
        x_adv = pgd(model, x, y, options, loss=near, start=start)
    logits, clean_logits = model(torch.cat([x_adv, x])).chunk(2)
    return functional.cross_entropy(clean_logits, y) + beta * divergence_from(clean_logits)(logits, y).mean()


def divergence_from(clean_logits: Tensor) -> Loss:
    """Return KL(p || q) of an image's clean answer p, from these logits (N, K), to the answer q that is given."""
    clean = clean_logits.log_softmax(1)

    def loss(logits: Tensor, y: Tensor) -> Tensor:
        return functional.kl_div(logits.log_softmax(1), clean, reduction="none", log_target=True).sum(1)

    return loss

"""Mixup: cross-entropy on images that are mixed in pairs."""

from __future__ import annotations

import numpy as np
from torch import Tensor
from torch.nn import functional

from edgeproof.attacks.base import Draws
from edgeproof.errors import ConfigError
from edgeproof.models.base import Classifier
from edgeproof.plugins.registry import register


@register("mixup")
def mixup(model: Classifier, x: Tensor, y: Tensor, *, alpha: float = 1.0, draws: Draws) -> Tensor:
    """Mixup (Zhang et al., 2018, arXiv:1710.09412): l * x + (1 - l) * x' of pairs, their losses weighted alike.

    As in the authors' code, one l ~ Beta(alpha, alpha) is drawn for a batch. An image's partner is the one before it in the
    batch, whose order is random.

    Args:
        model: The classifier in training.
        x: Images, (N, C, H, W) in [0, 1].
        y: Classes, (N,) int64.
        alpha: Of the Beta distribution; the smaller, the nearer the mixtures are to one of the two images.
        draws: Their seed and their first index make l.

    Raises:
        ConfigError: When alpha is not above 0.
    """
    if not alpha > 0:
        raise ConfigError(f"alpha = {alpha:g}; expected a number above 0, such as 1")
    share = float(np.random.default_rng([draws.seed, int(draws.index[0])]).beta(alpha, alpha))
    logits = model(share * x + (1 - share) * x.roll(1, 0))
    return share * functional.cross_entropy(logits, y) + (1 - share) * functional.cross_entropy(logits, y.roll(1))

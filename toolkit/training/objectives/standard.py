"""Cross-entropy on the images as they are."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from edgeproof.attacks.base import Draws
from edgeproof.models.base import Classifier
from edgeproof.plugins.registry import register


@register("standard")
def standard(model: Classifier, x: Tensor, y: Tensor, *, label_smoothing: float = 0.0, draws: Draws) -> Tensor:
    """Cross-entropy on clean images.

    Args:
        model: The classifier in training.
        x: Images, (N, C, H, W) in [0, 1].
        y: Classes, (N,) int64.
        label_smoothing: Share of the target that is spread over all classes.
        draws: Unused: this objective is not random.
    """
    return functional.cross_entropy(model(x), y, label_smoothing=label_smoothing)

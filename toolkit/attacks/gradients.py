"""One gradient of a loss with respect to the images, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from toolkit.attacks.losses import Loss
from toolkit.errors import ModelError

if TYPE_CHECKING:
    from toolkit.types import LogitsFn


@dataclass(frozen=True)
class Observed:
    """What one pass through the model says of a batch.

    Attributes:
        logits: (N, K).
        losses: (N,), the loss that was followed.
        grad: Gradient of each image's loss, (N, C, H, W).
    """

    logits: Tensor
    losses: Tensor
    grad: Tensor

    def take(self, kept: Tensor) -> Observed:
        """Return the rows at these positions."""
        return Observed(self.logits[kept], self.losses[kept], self.grad[kept])


def observe(model: LogitsFn, x: Tensor, y: Tensor, *, loss: Loss) -> Observed:
    """Run the model forwards and backwards once.

    Args:
        model: Maps images to logits; it must treat each image by itself (eval mode).
        x: Images, (N, C, H, W).
        y: The class whose loss is followed, (N,).
        loss: Of the logits and `y`, one number an image.

    Raises:
        ModelError: When the logits do not depend differentiably on the images.
    """
    with torch.enable_grad():
        images = x.detach().requires_grad_()
        logits = model(images)
        if not logits.requires_grad:
            raise ModelError(
                "the source model gives no gradient with respect to its images; "
                "use an attack that needs none: `list attacks` says access = queries"
            )
        losses = loss(logits, y)
        (grad,) = torch.autograd.grad(losses.sum(), images)
    return Observed(logits.detach(), losses.detach(), grad)

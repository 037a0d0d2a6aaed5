"""One gradient of a loss with respect to the images, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from edgeproof.attacks.losses import Loss
from edgeproof.errors import ModelError

if TYPE_CHECKING:
    from edgeproof.types import LogitsFn


class Observed:
    """What one pass through the model says of a batch; it is run backwards only when the gradient is asked for.

    Attributes:
        logits: (N, K).
        losses: (N,), the loss that is followed.
    """

    def __init__(self, logits: Tensor, losses: Tensor, backwards: Callable[[], Tensor]) -> None:
        self.logits = logits
        self.losses = losses
        self._backwards = backwards

    @cached_property
    def grad(self) -> Tensor:
        """Gradient of each image's loss, (N, C, H, W)."""
        return self._backwards()

    def take(self, kept: Tensor) -> Observed:
        """Return the rows at these positions."""
        return Observed(self.logits[kept], self.losses[kept], lambda: self.grad[kept])

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Observed:
        """Return the same with another gradient in the place of this one."""
        return Observed(self.logits, self.losses, lambda: change(self.grad))


class Builds:
    """Several builds of one network as one source: what is followed is the mean of their losses, so of their gradients.

    As a function it gives the mean of their logits, which is also what attacks follow that change the image first (`di-fgsm`).
    """

    def __init__(self, members: Sequence[LogitsFn]) -> None:
        self.members = tuple(members)

    def __call__(self, x: Tensor) -> Tensor:
        return torch.stack(self.each(x)).mean(0)

    def each(self, x: Tensor) -> list[Tensor]:
        """Return the logits (N, K) of each build."""
        return [member(x) for member in self.members]


def observe(model: LogitsFn, x: Tensor, y: Tensor, *, loss: Loss) -> Observed:
    """Run the model forwards, ready to run it backwards.

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
        each = model.each(images) if isinstance(model, Builds) else [model(images)]
        logits = torch.stack(each).mean(0) if len(each) > 1 else each[0]
        if not logits.requires_grad:
            raise ModelError(
                "the source model gives no gradient with respect to its images; "
                "use an attack that needs none: `list attacks` says access = queries"
            )
        losses = torch.stack([loss(one, y) for one in each]).mean(0) if len(each) > 1 else loss(logits, y)
        total = losses.sum()
    return Observed(logits.detach(), losses.detach(), lambda: torch.autograd.grad(total, images)[0])

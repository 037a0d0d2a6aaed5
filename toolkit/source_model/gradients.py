"""One gradient of a loss with respect to the images, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TypeAlias

import torch
from torch import Tensor

from edgeproof.errors import ModelError
from edgeproof.types import LogitsFn

#: Logits (N, K) and the label that is followed (N,) to one number per image, (N,).
Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]


class ForwardPass:
    """What one pass through the model gives for a batch; it is run backwards only when the gradient is asked for.

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

    def take(self, kept: Tensor) -> ForwardPass:
        """Return the rows at these positions."""
        return ForwardPass(self.logits[kept], self.losses[kept], lambda: self.grad[kept])

    def mapped(self, change: Callable[[Tensor], Tensor]) -> ForwardPass:
        """Return the same with another gradient in the place of this one."""
        return ForwardPass(self.logits, self.losses, lambda: change(self.grad))


class Averaged:
    """One or several models as one: what is followed is the mean of their losses, so of their gradients.

    As a function it gives the mean of their logits, which is also what attacks follow that change the image first (`di-fgsm`).
    """

    def __init__(self, members: Sequence[LogitsFn]) -> None:
        self.members = tuple(members)

    def __call__(self, x: Tensor) -> Tensor:
        return _mean([member(x) for member in self.members])

    def value_and_grad(self, x: Tensor, y: Tensor, *, loss: Loss) -> ForwardPass:
        """Return the mean logits and the mean of the losses, ready to be run backwards."""
        with torch.enable_grad():
            images = x.detach().requires_grad_()
            each = [member(images) for member in self.members]
            logits, losses = _mean(each), _mean([loss(one, y) for one in each])
            if not logits.requires_grad:
                raise ModelError(
                    "the source model gives no gradient with respect to its images; "
                    "use an attack that needs none: `list attacks` says access = queries"
                )
            total = losses.sum()
        return ForwardPass(logits.detach(), losses.detach(), lambda: torch.autograd.grad(total, images)[0])

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Averaged:
        """Return the same with something done to the logits of each member."""

        def changed(member: LogitsFn) -> LogitsFn:
            return lambda x: change(member(x))

        return Averaged([changed(member) for member in self.members])


def value_and_grad(model: LogitsFn, x: Tensor, y: Tensor, *, loss: Loss) -> ForwardPass:
    """Run a model forwards, ready to run it backwards.

    Args:
        model: Maps images to logits, each image by itself (eval mode). One that brings its own `value_and_grad` is asked for that.
        x: Images, (N, C, H, W).
        y: The class whose loss is followed, (N,).
        loss: Of the logits and `y`, one number per image.

    Raises:
        ModelError: When the logits do not depend differentiably on the images.
    """
    own = getattr(model, "value_and_grad", None)
    found: ForwardPass = (own or Averaged([model]).value_and_grad)(x, y, loss=loss)
    return found


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(tensors)).mean(0) if len(tensors) > 1 else tensors[0]

"""Training objectives: the losses that training minimises.

An objective without memory is a plain function `(model, x, y, *, draws, **params) -> loss`. One with memory (a universal
perturbation, a pool, a running histogram) is registered with `stateful=True` and is a factory `(task, **params)` of an
`Objective`; what it remembers stands in its buffers, which are saved and resumed with the training.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from edgeproof.attacks.base import Draws
from edgeproof.models.base import Classifier
from edgeproof.plugins.parameters import read_params
from edgeproof.plugins.registry import CALLERS, find


@dataclass(frozen=True)
class Task:
    """The training that a stateful objective is made for.

    Attributes:
        images: All training images, (N, C, H, W) in [0, 1], on the device.
        labels: (N,) int64.
        num_classes: K.
        batch_size: Images a step.
        epochs: Passes over the images.
        seed: Of the training.
        classes: The class names; () where only their numbers are known.
    """

    images: Tensor
    labels: Tensor
    num_classes: int
    batch_size: int
    epochs: int
    seed: int
    classes: tuple[str, ...] = ()


class Objective(nn.Module):
    """A loss, and whatever it remembers from batch to batch as buffers."""

    def begin_epoch(self, model: Classifier, *, epoch: int) -> None:
        """Prepare an epoch, counted from 1; the model is in training mode before and after."""

    def forward(self, model: Classifier, x: Tensor, y: Tensor, *, draws: Draws) -> Tensor:
        """Return the loss of a batch, a scalar that is followed down.

        Args:
            model: In training mode before and after; an objective that attacks it does so in eval mode (`attacking`).
            x: Images, (N, C, H, W) in [0, 1], augmented.
            y: Classes, (N,) int64.
            draws: Random numbers of this epoch, sample by sample; `draws.index` are positions in `task.images`.
        """
        raise NotImplementedError


class PlainObjective(Objective):
    """A loss function without memory."""

    def __init__(self, function: Callable[..., Tensor], params: Mapping[str, Any]) -> None:
        super().__init__()
        self._function = function
        self._params = dict(params)

    def forward(self, model: Classifier, x: Tensor, y: Tensor, *, draws: Draws) -> Tensor:
        """Return the function's loss."""
        return self._function(model, x, y, draws=draws, **self._params)


@contextlib.contextmanager
def attacking(model: Classifier) -> Iterator[None]:
    """Put the model into eval mode while it is attacked, and back into training mode."""
    model.eval()
    try:
        yield
    finally:
        model.train()


def build_objective(name: str, params: Mapping[str, Any], *, task: Task) -> Objective:
    """Build an objective from its registry name and its parameters, given as text or values.

    Raises:
        ConfigError: For an unknown name or parameter, or a value that does not fit.
    """
    entry = find("objective", name)
    values = read_params(entry, params, skip=CALLERS["objective"])
    if not entry.options.get("stateful"):
        return PlainObjective(entry.load(), values)
    objective: Objective = entry.load()(task, **values)
    return objective

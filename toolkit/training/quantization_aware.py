"""Quantisation-aware training of the very graph that is deployed.

The INT8 graph is imported with straight-through gradients (Bengio et al., 2013, arXiv:1308.3432; Jacob et al., 2018,
arXiv:1712.05877) and its weights are trained as real numbers that are rounded to their grids at every step. Scales stay as
calibrated, batch norms are folded already, so what is trained is what is stored afterwards: there is no second export.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from edgeproof.attacks.base import Draws
from edgeproof.attacks.pgd import pgd_linf
from edgeproof.config import QatConfig
from edgeproof.data.base import LabelledImages
from edgeproof.errors import ModelError
from edgeproof.models.imported import ImportedClassifier
from edgeproof.ops import fake_quantize
from edgeproof.training.augment import augment
from edgeproof.types import Array

if TYPE_CHECKING:
    from edgeproof.types import LogitsFn


@dataclass(frozen=True)
class Rounding:
    """The grid of one stored tensor, see `edgeproof.export.requantize.Grid`."""

    scale: Tensor
    axis: int
    low: int
    high: int

    def __call__(self, real: Tensor) -> Tensor:
        """Return the nearest numbers on the grid, with the gradient passed straight through."""
        return fake_quantize(real, self.scale, low=self.low, high=self.high, axis=self.axis)


class TrainableGraph:
    """An imported INT8 graph whose stored weights and biases are real parameters, rounded whenever it runs."""

    def __init__(self, model: ImportedClassifier, roundings: Mapping[str, Rounding | None]) -> None:
        keys = {name: f"graph.{key}" for key, name in model.graph.names.items()}
        buffers = dict(model.named_buffers())
        self._model = model
        self._roundings = {name: rounding for name, rounding in roundings.items() if name in keys}
        self._keys = keys
        self.parameters = {name: nn.Parameter(buffers[keys[name]].clone()) for name in self._roundings}

    def rounded(self) -> dict[str, Tensor]:
        """Return the numbers that would be stored, by the buffer that holds them."""
        return {
            self._keys[name]: rounding(self.parameters[name])
            if (rounding := self._roundings[name])
            else self.parameters[name]
            for name in self.parameters
        }

    def frozen(self) -> LogitsFn:
        """Return the graph with the numbers of this moment, for an attack."""
        weights = {key: value.detach() for key, value in self.rounded().items()}
        return lambda x: functional_call(self._model, weights, (x,))

    def __call__(self, x: Tensor) -> Tensor:
        """Return logits (N, K) for images (N, C, H, W) in [0, 1]."""
        logits: Tensor = functional_call(self._model, self.rounded(), (x,))
        return logits


def fine_tune(
    graph: TrainableGraph,
    data: LabelledImages,
    config: QatConfig,
    *,
    advance: Callable[..., None] = lambda *_, **__: None,
) -> dict[str, Array]:
    """Train a graph's weights and biases by Adam, with a learning rate that falls to 0 along a cosine.

    Args:
        graph: Trained in place.
        data: Training images, never those that judge.
        config: How long, how fast, and against which budget if any.
        advance: Called after each step with the number of images.

    Returns:
        Name of each stored tensor to its real numbers, float32.

    Raises:
        ModelError: When the loss is no longer finite.
    """
    optimizer = torch.optim.Adam(graph.parameters.values(), lr=config.lr)
    steps = config.epochs * math.ceil(len(data) / config.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for x, y, draws in _batches(data, config):
        if config.eps is not None:
            x = pgd_linf(graph.frozen(), x, y, eps=config.eps, steps=config.steps, keep="last", draws=draws)
        loss = functional.cross_entropy(graph(x), y)
        if not math.isfinite(value := loss.item()):
            raise ModelError(f"the loss of the INT8 graph is {value}; lower qat.lr = {config.lr:g}")
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        advance(len(x), note=f"loss {value:.3f}")
    return {name: parameter.detach().numpy() for name, parameter in graph.parameters.items()}


def _batches(data: LabelledImages, config: QatConfig) -> Iterator[tuple[Tensor, Tensor, Draws]]:
    for epoch in range(config.epochs):
        order = np.random.default_rng([config.seed, epoch]).permutation(len(data))
        generator = torch.Generator().manual_seed(config.seed * 100_003 + epoch)
        for start in range(0, len(order), config.batch_size):
            rows = order[start : start + config.batch_size]
            x = augment(torch.from_numpy(data.images[rows]), how=config.augment, generator=generator)
            yield x, torch.from_numpy(data.labels[rows]), Draws(seed=config.seed + epoch, index=data.index[rows])

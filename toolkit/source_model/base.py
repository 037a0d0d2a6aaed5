"""What every source model can do, whatever it was opened from."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from edgeproof.config import DataConfig
from edgeproof.data.base import LabelledImages
from edgeproof.data.classes import fit_classes
from edgeproof.errors import ConfigError, DataError
from edgeproof.source_model.folding import fast_form
from edgeproof.source_model.gradients import Averaged, ForwardPass, Loss, value_and_grad
from edgeproof.source_model.probabilities import are_probabilities, count_certain, log_probabilities
from edgeproof.types import GradientMode, Images, Logits

LOG = logging.getLogger(__name__)

S = TypeVar("S", bound="SourceModel")


@dataclass(frozen=True)
class SourceModel:
    """A model that is attacked: as a function images (N, C, H, W) in [0, 1] on its device to logits (N, K).

    Attributes:
        network: The model itself, in eval mode on `device`.
        name: For people.
        input_shape: (C, H, W).
        num_classes: K.
        classes: The name of each class, or () where the model does not say.
        device: Where it computes.
        sha256: Of what was opened: a checkpoint's weights or a graph; one for each member of an ensemble.
        trained_on: The data that it was trained on, where a run says so.
        checkpoint: The train run that a graph was exported from, where its run says so.
        fast: The same network in the form that attacks ask, after `prepared`.
        probabilities: Whether the network gives probabilities, which stand as their logarithms in all that is asked of the source.
        has_gradients: False where the model can only be asked.
    """

    network: Any  # a function from images to logits that need not be of torch
    name: str
    input_shape: tuple[int, ...]
    num_classes: int
    device: str = "cpu"
    sha256: tuple[str, ...] = ()
    trained_on: DataConfig | None = None
    checkpoint: Path | None = None
    classes: tuple[str, ...] = ()
    fast: Averaged | None = None
    probabilities: bool = False

    has_gradients: ClassVar[bool] = True

    def __call__(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.network(x)
        return log_probabilities(outputs) if self.probabilities else outputs

    def logits(self, x: Tensor) -> Tensor:
        """Return logits (N, K), without a graph for gradients."""
        with torch.no_grad():
            return self(x)

    def value_and_grad(self, x: Tensor, y: Tensor, *, loss: Loss) -> ForwardPass:
        """Run the model itself forwards on images (N, C, H, W), ready to be run backwards; see `gradients.value_and_grad`."""
        network = Averaged([self.network]).mapped(log_probabilities) if self.probabilities else self.network
        return value_and_grad(network, x, y, loss=loss)

    @property
    def follow(self) -> Averaged:
        """The form that attacks ask: the faster one, or the model itself where none was prepared."""
        asked = self.fast or Averaged([self.network])
        return asked.mapped(log_probabilities) if self.probabilities else asked

    def as_logits(self: S, x: Tensor) -> S:
        """Return the same source with the logarithms of its probabilities as logits, where its outputs for a few images are such.

        In float32 the probability of most images is 1 to the last place: margins between probabilities and the gradients through
        them say nothing, those between their logarithms do.
        """
        with torch.no_grad():
            outputs = self.network(x)
        if not are_probabilities(outputs):
            return self
        certain = count_certain(outputs)
        flat = (
            f"; on {certain} of {len(x)} images all but one are exactly 0, where scores say nothing" if certain else ""
        )
        LOG.info(f"{self.name} ends in a softmax: the attack works on the logarithms of its probabilities{flat}")
        return replace(self, probabilities=True)

    def prepared(self: S, x: Tensor, *, mode: GradientMode) -> S:
        """Return the same source with a faster form for the attack to ask, checked on a few images.

        Raises:
            ModelError: When the faster form does not give the model's logits.
        """
        return replace(self, fast=Averaged([fast_form(self.network, x, mode=mode)]))

    def self_check(self, data: LabelledImages, *, batch_size: int) -> dict[str, float]:
        """Compare what is attacked with what runs, on images of `data`; return what was measured, nothing for a checkpoint.

        Raises:
            ModelError: When the two are different models.
        """
        return {}

    @property
    def builds(self) -> Mapping[str, SourceModel]:
        """What runs in another form than the one that is attacked, by name: the last word is theirs. None for a checkpoint."""
        return {}

    def served_logits(self, images: Images, *, batch_size: int) -> Logits:
        """Return the logits (N, K) of what really runs: of a graph its engine's, of a checkpoint its own."""
        parts = [
            self.logits(part.to(self.device)).float() for part in torch.split(torch.from_numpy(images), batch_size)
        ]
        logits: Logits = torch.cat(parts).cpu().numpy()
        return logits

    def fitted(self, data: LabelledImages, *, quiet: bool = False) -> LabelledImages:
        """Return the images with their labels in the model's order of classes; see `fit_classes`.

        Raises:
            DataError: For images of another shape, or of classes that the model does not have.
        """
        if tuple(self.input_shape) != data.input_shape:
            raise DataError(
                f"{data.name} has images {data.input_shape}; the source model {self.name!r} takes {tuple(self.input_shape)}"
            )
        return fit_classes(data, self.classes, count=self.num_classes, model=self.name, quiet=quiet)

    def data(self, name: str | None) -> DataConfig:
        """Return the data set of that name, or the one that the model was trained on.

        Raises:
            ConfigError: When neither is known.
        """
        if name is not None:
            return DataConfig(name=name)
        if self.trained_on is None:
            raise ConfigError(f"{self.name} does not say what it was trained on; name a data set with --data")
        return self.trained_on

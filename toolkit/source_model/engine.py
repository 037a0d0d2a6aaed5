"""Any engine as the source of an attack by queries: logits, no gradients."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from edgeproof.data.classes import model_classes
from edgeproof.engines.base import Engine, predict_all
from edgeproof.engines.specs import read_specs
from edgeproof.errors import ConfigError
from edgeproof.source_model.base import SourceModel
from edgeproof.source_model.graph import exported
from edgeproof.types import GradientMode


class Queries:
    """An engine as a function of images on torch, its calls counted.

    Attributes:
        calls: Batch size to the number of calls that the engine has had with it.
        seconds: That the engine has taken for them.
        engine: What is asked.
    """

    def __init__(self, engine: Engine, *, batch_size: int) -> None:
        self.calls: Counter[int] = Counter()
        self.seconds = 0.0
        self.engine = engine
        self._batch_size = batch_size

    def __call__(self, x: Tensor) -> Tensor:
        """Return logits (N, K) of images (N, C, H, W) in [0, 1], on the device and in the type of the images."""
        images = np.ascontiguousarray(x.detach().cpu().numpy(), np.float32)
        began = time.perf_counter()
        logits = predict_all(self.engine, images, batch_size=self._batch_size, advance=self._count)
        self.seconds += time.perf_counter() - began
        return torch.from_numpy(logits).to(x)

    def _count(self, size: int) -> None:
        self.calls[size] += 1


@dataclass(frozen=True)
class QueriedEngine(SourceModel):
    """An engine that is asked for logits; `network` is its `Queries`."""

    has_gradients: ClassVar[bool] = False

    def prepared(self, x: Tensor, *, mode: GradientMode) -> QueriedEngine:
        """Return the engine as it is: there is no faster form of it."""
        return self


@contextmanager
def open_engine_source(
    text: str, *, device: str, batch_size: int, output: str | None = None, classes_file: str | None = None
) -> Iterator[QueriedEngine]:
    """Open an engine, `[BACKEND:]PATH`, for an attack that asks it directly: no import, no gradients.

    Of several outputs the one called `output` holds the scores of the classes, which `classes_file` names.

    Raises:
        ConfigError: When the text stands for several graphs.
        ToolkitError: As opening an engine raises.
    """
    specs = read_specs([text])
    if len(specs) > 1:
        raise ConfigError(f"{text} stands for {len(specs)} graphs; name the one to attack, such as {specs[0].path}")
    _, name, trained_on, _ = exported(specs[0].path)
    with specs[0].open(device=device, output=output) as engine:
        info = engine.info
        yield QueriedEngine(
            Queries(engine, batch_size=batch_size),
            f"{specs[0].backend}:{name}",
            info.input_shape,
            info.num_classes,
            device,
            (info.sha256,),
            trained_on,
            classes=model_classes(info.classes, classes_file, count=info.num_classes, model=name),
        )

"""An ONNX graph as the source of an attack, by way of its import into torch.

A graph is attacked through a differentiable surrogate in torch and judged by the engine that runs it. So the surrogate is checked
against the engine before the attack, and after it an adversary counts as one only where the engine is fooled too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from edgeproof.config import DataConfig
from edgeproof.config.names import IN_MEMORY
from edgeproof.data.base import LabelledImages
from edgeproof.data.classes import model_classes
from edgeproof.data.origin import data_of
from edgeproof.engines.base import EngineOptions, open_engine, predict_all
from edgeproof.engines.specs import verified
from edgeproof.errors import ModelError
from edgeproof.evaluation.metrics import predictions
from edgeproof.evaluation.parity import max_abs_diff
from edgeproof.models.base import torch_device
from edgeproof.models.imported import import_onnx
from edgeproof.onnx_files import hash_model
from edgeproof.runs import MANIFEST, Run
from edgeproof.source_model.base import SourceModel
from edgeproof.types import Images, Logits

_CHECKED = 1000  # images to attack on which a surrogate is checked against the engine
_RANDOM = 128  # images of random pixels likewise
_FP32_TOLERANCE = 1e-3  # largest |difference| of an FP32 logit, as a share of the largest logit
_EXTRA_FLIPS = (
    0.002  # share of images that the surrogate of a coarser graph may classify otherwise, beyond the engine's own
)
_ADVICE = "use a transferred or a query attack instead, and report the file"


@dataclass(frozen=True)
class Graph(SourceModel):
    """An ONNX file; `network` is its surrogate in torch.

    Attributes:
        path: The file, whose engine has the last word.
    """

    path: Path = Path()

    @property
    def builds(self) -> Mapping[str, SourceModel]:
        """The graph itself, as ONNX Runtime runs it."""
        return {self.name: self}

    def served_logits(self, images: Images, *, batch_size: int) -> Logits:
        """Return the logits that ONNX Runtime gives, (N, K)."""
        return self._engine_logits(images, batch_size=batch_size)[0]

    def self_check(self, data: LabelledImages, *, batch_size: int) -> dict[str, float]:
        """Compare the surrogate with ONNX Runtime, on images to attack and on random ones.

        An FP32 surrogate must give the logits to rounding, so that only near-ties can change class. That of a coarser graph (FP16,
        INT8) may classify no more images otherwise than the engine itself does when it may not optimise the graph, plus 0.2 %.

        Returns:
            Indicators: the share of images that the surrogate classifies otherwise, and the largest |logit difference|.

        Raises:
            ModelError: When the surrogate is another model than the engine's; with the numbers.
        """
        random = np.random.default_rng(0).random((_RANDOM, *data.input_shape), np.float32)
        images = np.concatenate([data.head(_CHECKED).images, random])
        parts = torch.split(torch.from_numpy(images), batch_size)
        with torch.no_grad():
            surrogate = torch.cat([self.network.outputs(part.to(self.device)).float().cpu() for part in parts]).numpy()
        real, precision = self._engine_logits(images, batch_size=batch_size)
        flips, difference = _flips(real, surrogate), max_abs_diff(real, surrogate)
        if precision == "fp32":
            allowed = _FP32_TOLERANCE * float(np.abs(real).max())
            if not difference <= allowed:
                raise ModelError(
                    f"{self.name}: its import into torch differs from ONNX Runtime by {difference:.3g} in a logit; "
                    f"expected at most {allowed:.3g}; {_ADVICE}"
                )
        else:
            own = _flips(real, self._engine_logits(images, batch_size=batch_size, optimize=False)[0])
            most = own + math.ceil(_EXTRA_FLIPS * len(real))
            if flips > most:
                raise ModelError(
                    f"{self.name}: its import into torch classifies {flips} of {len(real)} images otherwise than ONNX Runtime; "
                    f"expected at most {most}, since without optimisation ONNX Runtime itself differs on {own}; {_ADVICE}"
                )
        return {"import_flips": flips / len(images), "import_max_abs_diff": difference}

    def _engine_logits(self, images: Images, *, batch_size: int, optimize: bool = True) -> tuple[Logits, str]:
        """Return ONNX Runtime's logits and the graph's precision; images go one by one where they would change each other."""
        batch_size = 1 if self.network.graph_input.batch == 1 else batch_size
        options = EngineOptions(optimize=optimize, output=self.network.output)
        with open_engine(self.path, backend="onnxruntime", options=options) as engine:
            return predict_all(engine, images, batch_size=batch_size), engine.info.precision


def open_graph(path: Path, *, device: str, output: str | None = None, classes_file: str | None = None) -> Graph:
    """Open an ONNX file, of several outputs the one of that name; `classes_file` names the classes where the file does not.

    Raises:
        RunError: For a file of a run whose hash has changed.
        ModelError: For a file that is no ONNX file or cannot be imported.
        UnavailableError: When the device is not there.
    """
    if path.suffix != ".onnx":
        raise ModelError(f"{path} cannot be attacked; expected a train run or an ONNX file")
    path, name, trained_on, checkpoint = exported(path)
    model = import_onnx(path, output=output).to(torch_device(device))
    return Graph(
        network=model,
        name=name,
        input_shape=model.input_shape,
        num_classes=model.num_classes,
        classes=model_classes(model.named, classes_file, count=model.num_classes, model=name),
        device=device,
        sha256=(hash_model(path),),
        trained_on=trained_on,
        checkpoint=checkpoint,
        path=path,
    )


def exported(path: Path) -> tuple[Path, str, DataConfig | None, Path | None]:
    """Return a graph's verified path and name, and of an export run's the data and the checkpoint that it comes from."""
    if not (path.parent / MANIFEST).is_file():
        return path, path.name, None, None
    run = Run.open(path.parent, kind="export")
    model = str(run.config.get("model") or "")
    checkpoint = Path(model) if model and not model.startswith(IN_MEMORY) else None
    trained_on = data_of(Run.open(checkpoint, kind="train")) if checkpoint else None
    return verified(run.file(path.name)), f"{run.path.name}/{path.name}", trained_on, checkpoint


def _flips(real: Logits, other: Logits) -> int:
    return int((predictions(real) != predictions(other)).sum())

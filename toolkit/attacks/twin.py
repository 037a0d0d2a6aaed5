"""The model that an attack starts from: a checkpoint, or an ONNX graph by way of a differentiable twin.

A graph is attacked through its twin in torch and judged by the engine that runs it. So the twin is held to the engine before
the attack, and after it an adversary counts as one only where the engine is fooled too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch

from edgeproof.attacks.queries import QueriedEngine
from edgeproof.config import DataConfig
from edgeproof.data.base import AdversarialSet, LabelledImages
from edgeproof.data.origin import data_of
from edgeproof.engines.base import EngineOptions, open_engine, predict_all
from edgeproof.engines.specs import read_specs
from edgeproof.errors import ConfigError, ModelError
from edgeproof.evaluation.metrics import predictions
from edgeproof.evaluation.parity import max_abs_diff
from edgeproof.models.base import Classifier, load_classifier, torch_device
from edgeproof.models.imported import ImportedClassifier, import_onnx
from edgeproof.runs import MANIFEST, Run, sha256_file
from edgeproof.types import Images, Logits

Network: TypeAlias = Classifier | ImportedClassifier | QueriedEngine

_CHECKED = 1000  # images to attack on which a twin is held to the engine
_RANDOM = 128  # images of random pixels likewise
_FP32_TOLERANCE = 1e-3  # largest |difference| of an FP32 logit, as a share of the largest logit
_EXTRA_FLIPS = 0.002  # share of images that the twin of a coarser graph may classify otherwise, beyond the engine's own
_ADVICE = "use a transferred or a query attack instead, and report the file"


@dataclass(frozen=True)
class Origin:
    """What is attacked.

    Attributes:
        model: Differentiable, in eval mode, on the attack's device.
        name: For people.
        trained_on: The data that it was trained on, where a run says so.
        graph: The ONNX file whose engine has the last word, or None for a checkpoint.
        sha256: Of the graph, or of the checkpoint's weights.
        checkpoint: The train run that a graph was exported from, where its run says so.
    """

    model: Network
    name: str
    trained_on: DataConfig | None
    graph: Path | None = None
    sha256: str = ""
    checkpoint: Path | None = None


def open_source(path: Path, *, device: str) -> Origin:
    """Open a train run or an ONNX file.

    Raises:
        RunError: For an unfinished run, or a file whose hash has changed.
        ModelError: For a file that cannot be imported.
        UnavailableError: When the device is not there.
    """
    if not path.is_file():
        run = Run.open(path, kind="train")
        weights = run.file("model.safetensors")
        model = load_classifier(weights, device=device)
        return Origin(model, run.path.name, data_of(run), sha256=sha256_file(weights))
    if path.suffix != ".onnx":
        raise ModelError(f"{path} cannot be attacked; expected a train run or an ONNX file")
    path, name, trained_on, checkpoint = _exported(path)
    twin = import_onnx(path).to(torch_device(device))
    return Origin(twin, name, trained_on, path, sha256_file(path), checkpoint)


@contextmanager
def open_queried(text: str, *, device: str, batch_size: int) -> Iterator[Origin]:
    """Open an engine, `[BACKEND:]PATH`, for an attack that asks it directly: no import, no gradients.

    Raises:
        ConfigError: When the text stands for several graphs.
        ToolkitError: As opening an engine raises.
    """
    specs = read_specs([text])
    if len(specs) > 1:
        raise ConfigError(f"{text} stands for {len(specs)} graphs; name the one to attack, such as {specs[0].path}")
    _, name, trained_on, checkpoint = _exported(specs[0].path)
    with specs[0].open(device=device) as engine:
        asked = QueriedEngine(engine, name=f"{specs[0].backend}:{name}", batch_size=batch_size)
        yield Origin(asked, asked.name, trained_on, sha256=engine.info.sha256, checkpoint=checkpoint)


def _exported(path: Path) -> tuple[Path, str, DataConfig | None, Path | None]:
    """Return a graph's verified path and name, and of an export run's the data and the checkpoint that it comes from."""
    if not (path.parent / MANIFEST).is_file():
        return path, path.name, None, None
    run = Run.open(path.parent, kind="export")
    checkpoint = Path(run.config["model"]) if run.config.get("model") else None
    trained_on = data_of(Run.open(checkpoint, kind="train")) if checkpoint else None
    return run.file(path.name), f"{run.path.name}/{path.name}", trained_on, checkpoint


def chosen_data(origin: Origin, name: str | None) -> DataConfig:
    """Return the data set of that name, or the one that the source model was trained on.

    Raises:
        ConfigError: When neither is known.
    """
    if name is not None:
        return DataConfig(name=name)
    if origin.trained_on is None:
        raise ConfigError(f"{origin.name} does not say what it was trained on; name a data set with --data")
    return origin.trained_on


def check_twin(origin: Origin, data: LabelledImages, *, batch_size: int) -> dict[str, float]:
    """Hold a graph's differentiable twin to ONNX Runtime, on images to attack and on random ones.

    An FP32 twin must give the logits to rounding, so that only near-ties can change class. A coarser one (FP16, INT8) may
    classify no more images otherwise than the engine itself does when it may not optimise the graph, plus 0.2 %.

    Returns:
        Indicators: the share of images that the twin classifies otherwise, and the largest |logit difference|; empty for a
        checkpoint.

    Raises:
        ModelError: When the twin is another model than the engine's; with the numbers.
    """
    if origin.graph is None:
        return {}
    random = np.random.default_rng(0).random((_RANDOM, *data.input_shape), np.float32)
    images = np.concatenate([data.head(_CHECKED).images, random])
    twin = _twin_logits(origin.model, images, batch_size=batch_size)
    real, precision = _engine_logits(origin.graph, origin.model, images, batch_size=batch_size)
    if precision == "fp32":
        _check_difference(origin.name, real, twin)
    else:
        plain, _ = _engine_logits(origin.graph, origin.model, images, batch_size=batch_size, optimize=False)
        _check_flips(origin.name, real, twin, plain)
    return {"import_flips": _flips(real, twin) / len(images), "import_max_abs_diff": max_abs_diff(real, twin)}


def confirm(
    adversaries: AdversarialSet, origin: Origin, *, checked: Mapping[str, float], batch_size: int
) -> AdversarialSet:
    """Put the engine's logits in the place of its twin's, and note how many adversaries the engine confirms.

    Args:
        adversaries: As the attack has made them.
        origin: What was attacked.
        checked: What `check_twin` has measured.
        batch_size: Images a call.

    Returns:
        For a checkpoint the set as it is. For a graph one whose source logits are the engine's, with the indicator
        `confirmed`: of the adversaries that fool the twin, the share that fool the engine.
    """
    if origin.graph is None or adversaries.source_logits is None:
        return adversaries
    labels = adversaries.clean.labels
    attacked = real_logits(origin, adversaries.images, batch_size=batch_size)
    clean = real_logits(origin, adversaries.clean.images, batch_size=batch_size)
    fooled = predictions(adversaries.source_logits) != labels
    confirmed = predictions(attacked)[fooled] != labels[fooled]
    share = {"confirmed": float(confirmed.mean())} if len(confirmed) else {}
    indicators = {**adversaries.indicators, **checked, **share}
    return replace(adversaries, source_logits=attacked, source_clean_logits=clean, indicators=indicators)


def real_logits(origin: Origin, images: Images, *, batch_size: int) -> Logits:
    """Return the logits of what really runs: of a graph its engine's, of a checkpoint its own."""
    if isinstance(origin.model, QueriedEngine):
        logits: Logits = origin.model(torch.from_numpy(images)).numpy()
        return logits
    if origin.graph is None:
        return _twin_logits(origin.model, images, batch_size=batch_size)
    return _engine_logits(origin.graph, origin.model, images, batch_size=batch_size)[0]


def _check_difference(name: str, real: Logits, twin: Logits) -> None:
    difference, allowed = max_abs_diff(real, twin), _FP32_TOLERANCE * float(np.abs(real).max())
    if not difference <= allowed:
        raise ModelError(
            f"{name}: its import into torch differs from ONNX Runtime by {difference:.3g} in a logit; "
            f"expected at most {allowed:.3g}; {_ADVICE}"
        )


def _check_flips(name: str, real: Logits, twin: Logits, plain: Logits) -> None:
    flips, own = _flips(real, twin), _flips(real, plain)
    allowed = own + math.ceil(_EXTRA_FLIPS * len(real))
    if flips > allowed:
        raise ModelError(
            f"{name}: its import into torch classifies {flips} of {len(real)} images otherwise than ONNX Runtime; "
            f"expected at most {allowed}, since without optimisation ONNX Runtime itself differs on {own}; {_ADVICE}"
        )


def _flips(real: Logits, other: Logits) -> int:
    return int((predictions(real) != predictions(other)).sum())


def _twin_logits(model: Network, images: Images, *, batch_size: int) -> Logits:
    device = next(model.buffers()).device
    output = model.outputs if isinstance(model, ImportedClassifier) else model
    with torch.no_grad():
        parts = [output(part.to(device)).float().cpu() for part in torch.split(torch.from_numpy(images), batch_size)]
    logits: Logits = torch.cat(parts).numpy()
    return logits


def _engine_logits(
    graph: Path, model: Network, images: Images, *, batch_size: int, optimize: bool = True
) -> tuple[Logits, str]:
    """Return ONNX Runtime's logits and the graph's precision; images go one by one where they would change each other."""
    one_by_one = isinstance(model, ImportedClassifier) and model.graph_input.batch == 1
    with open_engine(graph, backend="onnxruntime", options=EngineOptions(optimize=optimize)) as engine:
        return predict_all(engine, images, batch_size=1 if one_by_one else batch_size), engine.info.precision

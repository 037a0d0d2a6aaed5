"""From a checkpoint to the graphs that are deployed: FP32, FP16, INT8, each past a parity gate on labelled images.

The images are of the validation split, never of the test split: the gate decides what is shipped, and the test images judge it.
Calibration images come from the training side as well. `parity.json` keeps every number and every image's index.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edgeproof import __version__
from edgeproof.config import ExportConfig, ParityLimits, QatConfig, Strict
from edgeproof.data.base import LabelledImages, Splits, load_dataset
from edgeproof.data.classes import fit_classes
from edgeproof.data.origin import splits_of
from edgeproof.deployment.build import as_model_error
from edgeproof.engines.base import open_engine, predict_all
from edgeproof.errors import ConfigError, GateError, one_line
from edgeproof.evaluation.metrics import Rate, accuracy, predictions
from edgeproof.evaluation.parity import Parity, compare_logits
from edgeproof.runs import Run, atomic, sha256_file, write_json
from edgeproof.system.optional import require
from edgeproof.system.progress import progress
from edgeproof.types import Logits

if TYPE_CHECKING:
    from edgeproof.export.int8 import Int8Report
    from edgeproof.models.base import Classifier

LOG = logging.getLogger(__name__)
SCHEMA_VERSION = 1
CHECKPOINT, FP32, PARITY = "model.safetensors", "model.fp32.onnx", "parity.json"


@dataclass(frozen=True)
class Target:
    """A graph to write."""

    file: str
    precision: str
    recipe: Literal["trt", "cpu"] | None = None


class ImagesRecord(Strict):
    """Which images were used: positions in the data set's training images."""

    data: str
    split: str
    count: int
    index: tuple[int, ...]


class Int8Record(Strict):
    """What of a graph is quantised, read back from it, and with which ranges."""

    recipe: str
    method: str
    calibration_count: int
    calibration_sha256: str
    quantized: dict[str, int]
    total: dict[str, int]
    unquantized: tuple[str, ...]
    activations: int


class GraphRecord(Strict):
    """One graph beside the checkpoint that it was made from.

    sqnr_db is null when no logit differs. near_ties: images on which the checkpoint's two largest logits are at most
    2 * max_abs_diff apart; only these can change class. flips: index of the images that did. failures: limits that do not hold.
    """

    file: str
    precision: str
    sha256: str
    size: int
    export_seconds: float
    provider: str
    note: str
    max_abs_diff: float | None
    sqnr_db: float | None
    agreement: Rate
    accuracy: Rate
    accuracy_drop: float
    near_ties: Rate
    flips: tuple[int, ...]
    int8: Int8Record | None
    failures: tuple[str, ...]


class ParityReport(Strict):
    """`parity.json`."""

    schema_version: int = SCHEMA_VERSION
    checkpoint_sha256: str
    checkpoint_accuracy: Rate
    images: ImagesRecord
    calibration: ImagesRecord | None
    limits: ParityLimits
    graphs: tuple[GraphRecord, ...]


def export_model(config: ExportConfig, out: Run) -> None:
    """Write the graphs of a checkpoint and hold each to its parity limits.

    The FP32 graph is always written, since the others are made from it. When a limit does not hold, the graphs and
    `parity.json` stay, and the run is not finished.

    Raises:
        ModelError: When the model cannot be exported.
        ConfigError: When the data leave no images to validate or to calibrate with.
        GateError: When a graph is outside its limits; the message has the numbers and the key to change.
    """
    check_export(config)
    source = Run.open(config.model, kind="train")
    checkpoint = source.file(CHECKPOINT)
    splits = splits_of(source, data=config.data)
    validation, calibration = _choose_images(splits, config)
    with open_engine(checkpoint, backend="pytorch") as engine:
        info = engine.info
        names, count = info.classes, info.num_classes
        validation = fit_classes(validation, names, count=count, model=config.model)
        train = fit_classes(splits.train, names, count=count, model=config.model, quiet=True)
        reference = predict_all(engine, validation.images, batch_size=config.batch_size)
    export_graphs(
        config,
        out.path,
        write=lambda path: write_fp32(checkpoint, path, config),
        sha256=sha256_file(checkpoint),
        reference=reference,
        validation=validation,
        calibration=calibration,
        train=train,
    )


def export_graphs(
    config: ExportConfig,
    folder: Path,
    *,
    write: Callable[[Path], None],
    sha256: str,
    reference: Logits,
    validation: LabelledImages,
    calibration: LabelledImages | None,
    train: LabelledImages,
) -> ParityReport:
    """Write the graphs of a model and `parity.json` into a folder, and hold each graph to its limits.

    Args:
        config: What is written; its `model` and `calibration` have been opened.
        folder: Where it goes.
        write: Writes the FP32 graph to a path.
        sha256: Of the weights.
        reference: The model's logits on `validation`.
        validation: Labelled images for the parity gate.
        calibration: INT8 calibration images, where INT8 is asked for.
        train: What quantisation-aware training learns from, where it is asked for.

    Raises:
        ModelError: When a graph cannot be made.
        GateError: When one is outside its limits.
    """
    records = []
    targets = list_targets(config)
    with progress("export", len(targets)) as advance:
        for target in targets:
            started = time.monotonic()
            int8 = _write(target, write, config, calibration, folder)
            if int8 and config.qat:
                _fine_tune(folder / target.file, train, config.qat)
            seconds = time.monotonic() - started
            if int8 and int8.unquantized:
                LOG.warning(one_line(f"edgeproof: {target.file} leaves in float: {', '.join(int8.unquantized)}"))
            records.append(_measure(target, int8, reference, validation, config, folder, seconds=seconds))
            advance(note=target.file)
    report = ParityReport(
        checkpoint_sha256=sha256,
        checkpoint_accuracy=accuracy(predictions(reference), validation.labels),
        images=_images(validation),
        calibration=_images(calibration) if calibration else None,
        limits=config.parity,
        graphs=tuple(records),
    )
    write_json(folder / PARITY, report.model_dump(mode="json"))
    _gate(report, folder)
    return report


def check_export(config: ExportConfig) -> None:
    """Refuse, before anything is opened, what cannot be exported here.

    Raises:
        UnavailableError: When a package is missing.
        ConfigError: For options that contradict each other.
    """
    require("onnxscript", extra="train", purpose="export a checkpoint")
    require("onnxruntime", extra="cpu", purpose="check exported graphs")
    if config.qat and "int8" not in config.precisions:
        raise ConfigError("qat fine-tunes INT8 graphs, and int8 is not among the precisions; add it or leave qat out")


def list_targets(config: ExportConfig) -> list[Target]:
    """Return the graphs that a configuration asks for, the FP32 one first: it is the source of the others."""
    targets = [Target(FP32, "fp32")]
    if "fp16" in config.precisions:
        targets.append(Target("model.fp16.onnx", "fp16"))
    if "int8" in config.precisions:
        targets += [Target(f"model.int8-{recipe}.onnx", "int8", recipe) for recipe in config.recipes]
    return targets


def _choose_images(splits: Splits, config: ExportConfig) -> tuple[LabelledImages, LabelledImages | None]:
    """Return the images of the parity gate and those of the calibration, the latter only when INT8 is asked for."""
    if not len(splits.validation):
        raise ConfigError(
            f"{splits.test.name} leaves no validation images, and the parity gate needs labelled images that are not the "
            "test set; train with data.validation above 0"
        )
    calibration = _calibration_images(splits, config) if "int8" in config.precisions else None
    return splits.validation.head(config.parity_limit), calibration


def _calibration_images(splits: Splits, config: ExportConfig) -> LabelledImages:
    images = splits.calibration
    if config.calibration:
        dataset = load_dataset(config.calibration)
        images = dataset.train or dataset.test
    if not len(images):
        raise ConfigError(
            f"{splits.test.name} leaves no calibration images, and INT8 needs some; train with data.calibration above 0, "
            "256 for instance, give --calibration npz:PATH, or leave int8 out of the precisions"
        )
    return images.head(config.calibration_limit, seed=config.calibration_seed)


def _write(
    target: Target,
    write: Callable[[Path], None],
    config: ExportConfig,
    calibration: LabelledImages | None,
    folder: Path,
) -> Int8Report | None:
    """Write one graph; return what was quantised in it, if anything."""
    from edgeproof.export.fp16 import convert_fp16
    from edgeproof.export.int8 import quantize_int8

    source = folder / FP32
    with atomic(folder / target.file) as path, as_model_error():
        if target.precision == "fp32":
            write(path)
        elif target.precision == "fp16":
            convert_fp16(source, path)
        elif target.recipe and calibration:
            images = [calibration.images]
            return quantize_int8(
                source,
                path,
                calibration=images,
                recipe=target.recipe,
                method=config.calibration_method,
                keep_float=config.keep_float or (),
            )
    return None


def _fine_tune(path: Path, train: LabelledImages, config: QatConfig) -> None:
    """Train an INT8 graph's weights where it stands."""
    import torch

    from edgeproof.export.requantize import store_parameters, stored_parameters
    from edgeproof.models.imported import import_onnx
    from edgeproof.training.quantization_aware import Rounding, TrainableGraph, fine_tune

    with as_model_error():
        grids = stored_parameters(path)
    roundings = {
        name: Rounding(torch.from_numpy(grid.scale.copy()), grid.axis, grid.low, grid.high) if grid else None
        for name, grid in grids.items()
    }
    images = train.head(config.limit, seed=config.seed)
    with progress(f"train {path.name}", config.epochs * len(images)) as advance:
        trained = fine_tune(TrainableGraph(import_onnx(path), roundings), images, config, advance=advance)
    about = {f"qat_{key}": str(value) for key, value in config.model_dump(exclude_none=True).items()}
    with as_model_error():
        store_parameters(path, path, trained, metadata=about)


def write_fp32(checkpoint: Path, path: Path, config: ExportConfig) -> None:
    """Write the FP32 graph of a checkpoint, with what it is in its metadata."""
    from edgeproof.models.base import load_classifier

    write_classifier(load_classifier(checkpoint), path, config, sha256=sha256_file(checkpoint))


def write_classifier(model: Classifier, path: Path, config: ExportConfig, *, sha256: str) -> None:
    """Write the FP32 graph of a classifier whose weights have this hash, with what it is in its metadata."""
    from edgeproof.export.to_onnx import export_onnx

    metadata = {
        "edgeproof": __version__,
        "model": model.name,
        "precision": "fp32",
        "input_shape": json.dumps(model.input_shape),
        "classes": json.dumps(model.classes),
        "source_sha256": sha256,
        "checkpoint_sha256": sha256,  # source_sha256 becomes the FP32 graph's in what is made from it
    }
    export_onnx(
        model, path, input_shape=model.input_shape, opset=config.opset, exporter=config.exporter, metadata=metadata
    )


def _measure(
    target: Target,
    int8: Int8Report | None,
    reference: Logits,
    data: LabelledImages,
    config: ExportConfig,
    folder: Path,
    *,
    seconds: float,
) -> GraphRecord:
    path = folder / target.file
    with open_engine(path, backend="onnxruntime") as engine:
        parity = compare_logits(reference, predict_all(engine, data.images, batch_size=config.batch_size), data.labels)
        info = engine.info
    return GraphRecord(
        file=target.file,
        precision=target.precision,
        sha256=info.sha256,
        size=path.stat().st_size,
        export_seconds=round(seconds, 3),
        provider=info.provider,
        note=info.note,
        max_abs_diff=_finite(parity.max_abs_diff),
        sqnr_db=_finite(parity.sqnr_db),
        agreement=parity.agreement,
        accuracy=parity.accuracy,
        accuracy_drop=parity.accuracy_drop,
        near_ties=parity.near_ties,
        flips=tuple(data.index[list(parity.flips)].tolist()),
        int8=Int8Record(**asdict(int8)) if int8 else None,
        failures=tuple(failed_limits(parity, target.precision, config.parity)),
    )


def failed_limits(parity: Parity, precision: str, limits: ParityLimits) -> Iterator[str]:
    """Say which limits a graph is outside of, each with its numbers and the key that sets it."""
    total = parity.accuracy.total
    if not math.isfinite(parity.max_abs_diff):
        yield "its logits are not finite; check the model's weights"
    elif precision == "fp32" and parity.max_abs_diff > limits.fp32_max_diff:
        yield (
            f"max |logit difference| {parity.max_abs_diff:.3g} > {limits.fp32_max_diff:g} (--set parity.fp32_max_diff), "
            f"{len(parity.flips)} of {total} images change class"
        )
    allowed = {"fp16": limits.fp16_accuracy_drop, "int8": limits.int8_accuracy_drop}.get(precision, 1.0)
    if parity.accuracy_drop > allowed:
        yield (
            f"accuracy {parity.reference_accuracy.hits} -> {parity.accuracy.hits} of {total}, a drop of "
            f"{parity.accuracy_drop:.4f} > {allowed:g} (--set parity.{precision}_accuracy_drop)"
        )
    if precision == "int8" and parity.agreement.hits < limits.int8_min_agreement * total:
        yield (
            f"agreement {parity.agreement.hits} of {total} = {parity.agreement.hits / total:.4f} < "
            f"{limits.int8_min_agreement:g} (--set parity.int8_min_agreement)"
        )


def _gate(report: ParityReport, folder: Path) -> None:
    broken = [f"{graph.file}: {', '.join(graph.failures)}" for graph in report.graphs if graph.failures]
    if broken:
        raise GateError(
            f"parity on {report.images.count} {report.images.split} images does not hold: {'; '.join(broken)}. The graphs "
            f"and {PARITY} stay in {folder}; for INT8 try another --calibration-method, or set the limit that you accept"
        )


def _images(data: LabelledImages) -> ImagesRecord:
    return ImagesRecord(data=data.name, split=data.split, count=len(data), index=tuple(data.index.tolist()))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None

"""Builds as a function call: from a checkpoint or a wrapped network to FP32, FP16 and INT8 graphs, and on to a target."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from edgeproof.api.folders import run_in_folder
from edgeproof.api.images import Images, ImagesLike, as_images
from edgeproof.api.models import Folder, Model, ModelLike, classifier, load, open_model, opened
from edgeproof.config import BuildConfig, ExportConfig, build_config
from edgeproof.config.names import IN_MEMORY
from edgeproof.data.base import LabelledImages
from edgeproof.data.origin import data_of
from edgeproof.deployment.build import build_graph
from edgeproof.deployment.export import CHECKPOINT, check_export, export_graphs, list_targets, write_classifier
from edgeproof.engines.base import predict_all
from edgeproof.errors import ConfigError
from edgeproof.evaluation.inputs import hash_labelled
from edgeproof.runs import Run

Precision = Literal["fp32", "fp16", "int8"]
Recipe = Literal["trt", "cpu"]
Target = Literal["onnx", "openvino", "tensorrt"]


def build(
    model: ModelLike,
    *,
    precision: Precision | Sequence[Precision] = ("fp32", "fp16", "int8"),
    recipe: Recipe | Sequence[Recipe] = ("trt", "cpu"),
    calibration: ImagesLike | None = None,
    validation: ImagesLike | None = None,
    target: Target = "onnx",
    out: str | Path | None = None,
    fresh: bool = False,
    **options: Any,
) -> list[Model]:
    """Make the graphs that are deployed, and hold each to its parity limits on labelled images.

    Args:
        model: A train run or a wrapped network; with `target` also an ONNX graph.
        precision: Which graphs: "fp32", "fp16", "int8". The FP32 one is always made, since the others are made from it.
        recipe: INT8 recipes: "trt" for TensorRT, "cpu" for processors.
        calibration: Images for the INT8 ranges (default: the calibration part of the data that a train run learned from).
        validation: Labelled images of the parity gate, which are not those it is tested on (default: the validation part of a
            train run's data, or of the data set that `calibration` is part of).
        target: "onnx"; or "openvino" or "tensorrt", which turns each graph into what that runtime opens.
        out: Run folder: what `edgeproof export` writes (default: a temporary folder that lives as long as the builds).
        fresh: Start over in that folder.
        **options: Any other option of `edgeproof export`: calibration_method, calibration_limit, keep_float, exporter, opset,
            parity={"int8_min_agreement": 0.9}, qat={"epochs": 1}; with `target` workspace_mib and the like.

    Returns:
        A model for each graph that was asked for.

    Raises:
        ConfigError: For a model that cannot be built, options that are not known, or images that are missing.
        GateError: When a graph is outside its parity limits; the message has the numbers.
        UnavailableError: When a package is missing.
    """
    found = opened(model)
    if len(found) != 1:
        raise ConfigError(f"{len(found)} builds were given; build one model at a time")
    wanted = (precision,) if isinstance(precision, str) else tuple(precision)
    recipes = (recipe,) if isinstance(recipe, str) else tuple(recipe)
    if found[0].path is not None and found[0].path.suffix != ".safetensors":
        return _retarget(found[0], wanted, target=target, out=out, fresh=fresh, options=options)
    own = {key: options.pop(key) for key in list(options) if key in BuildConfig.model_fields and target != "onnx"}
    if target != "onnx" and out is not None:
        raise ConfigError(
            f"out holds one run and there are two to write; build to target='onnx' with out, then each graph to {target!r}"
        )
    config = build_config(
        ExportConfig,
        options={"model": _text(found[0]), "precisions": wanted, "recipes": recipes, **options},
    )
    builds = _export(found[0], config, calibration=calibration, validation=validation, out=out, fresh=fresh)
    if target == "onnx":
        return builds
    return [
        each
        for graph in builds
        for each in _retarget(graph, (graph.precision,), target=target, out=None, fresh=False, options=own)
    ]


def _export(
    model: Model,
    config: ExportConfig,
    *,
    calibration: ImagesLike | None,
    validation: ImagesLike | None,
    out: str | Path | None,
    fresh: bool,
) -> list[Model]:
    check_export(config)
    files = [target.file for target in list_targets(config) if target.precision in config.precisions]
    if out is not None and model.source is not None and calibration is None and validation is None:
        from edgeproof.stages import Place, run_stage

        run = run_stage("export", config, Place(Path(out), fresh))
        return _builds(run.path, files, None)
    parts = _choose_images(model, config, calibration=calibration, validation=validation)
    if out is None:
        folder = Folder()
        _write(model, config, parts, folder.path)
        return _builds(folder.path, files, folder)
    content = {name: hash_labelled(part) for name, part in parts.items() if part is not None}
    run = run_in_folder(
        lambda run: _write(model, config, parts, run.path),
        config,
        kind="export",
        name=model.name,
        content={"model": model.sha256, **content},
        out=out,
        fresh=fresh,
    )
    return _builds(run.path, files, None)


def _choose_images(
    model: Model, config: ExportConfig, *, calibration: ImagesLike | None, validation: ImagesLike | None
) -> dict[str, LabelledImages | None]:
    """Return the images of the parity gate, of the calibration and of quantisation-aware training."""
    trained = (
        None
        if model.source is None
        else Images(data_of(Run.open(model.source, kind="train")), split="train", limit=None, seed=0)
    )
    given = None if calibration is None else as_images(calibration)
    home = trained or (given if given is not None and given.config else None)
    if validation is None and home is None:
        raise ConfigError(
            f"{model.name} is built past a parity gate, which needs labelled images that it is not tested on; give validation=images(...)"
        )
    if given is None and trained is None and "int8" in config.precisions:
        raise ConfigError(
            f"INT8 needs calibration images, and {model.name} names no data; give calibration=images(...), or leave int8 out of precision"
        )
    gate = (
        as_images(validation)
        if validation is not None
        else (home or Images(None, split="", limit=None, seed=0)).part("validation")
    )
    ranges = given or (trained.part("calibration") if trained else None)
    learned = trained if config.qat and trained else None
    if config.qat and learned is None:
        raise ConfigError("qat trains on the training images of a train run; build a train run, or leave qat out")
    return {
        "validation": gate.data.head(config.parity_limit),
        "calibration": ranges.data.head(config.calibration_limit, seed=config.calibration_seed)
        if ranges and "int8" in config.precisions
        else None,
        "train": learned.data if learned else None,
    }


def _write(model: Model, config: ExportConfig, parts: dict[str, LabelledImages | None], folder: Path) -> None:
    validation, calibration = parts["validation"], parts["calibration"]
    if validation is None:
        raise ConfigError("there are no validation images; give validation=images(...)")
    with ExitStack() as stack:
        engine = stack.enter_context(open_model(model, validation, device="cpu", threads=None))
        reference = predict_all(engine, validation.images, batch_size=config.batch_size)
    if model.source is None:
        network = classifier(model, validation)
    else:
        from edgeproof.models.base import load_classifier

        network = load_classifier(Run.open(model.source, kind="train").file(CHECKPOINT))
    export_graphs(
        config,
        folder,
        write=lambda path: write_classifier(network, path, config, sha256=model.sha256),
        sha256=model.sha256,
        reference=reference,
        validation=validation,
        calibration=calibration,
        train=parts["train"] or validation,
    )


def _retarget(
    graph: Model,
    precision: Sequence[str],
    *,
    target: Target,
    out: str | Path | None,
    fresh: bool,
    options: dict[str, Any],
) -> list[Model]:
    """Turn a graph into what another runtime opens."""
    if graph.path is None or graph.path.suffix != ".onnx":
        raise ConfigError(
            f"{graph.name} ({graph.path}) cannot be built from; expected an ONNX graph, a train run or a wrapped network"
        )
    if target == "onnx":
        raise ConfigError(
            f"{graph.path} is a graph already, and precisions are made from checkpoints here; build a train run or a wrapped network, "
            "or name target='openvino' or 'tensorrt'"
        )
    config = build_config(BuildConfig, options={"source": str(graph.path), "target": target, **options})
    if out is not None:
        from edgeproof.stages import Place, run_stage

        run = run_stage("build", config, Place(Path(out), fresh))
        return opened(run)
    folder = Folder()
    build_graph(graph.path, config, folder.path)
    suffix = {"openvino": ".xml", "tensorrt": ".plan"}[target]
    device = "cuda" if target == "tensorrt" else "cpu"
    return [replace(_one(load(path, device=device)), folder=folder) for path in sorted(folder.path.glob(f"*{suffix}"))]


def _builds(folder: Path, files: Sequence[str], kept: Folder | None) -> list[Model]:
    return [replace(_one(load(folder / file)), folder=kept) for file in files]


def _one(found: Model | list[Model]) -> Model:
    return found[0] if isinstance(found, list) else found


def _text(model: Model) -> str:
    if model.framework == "numpy":
        raise ConfigError(
            f"{model.name} is a function on NumPy arrays, of which no graph can be made; wrap the torch network"
        )
    if model.path is not None and model.source is None:
        raise ConfigError(
            f"{model.path} is a checkpoint outside its run folder; build the run, or wrap(network, classes=...)"
        )
    return f"{IN_MEMORY}{model.name}" if model.source is None else str(model.source)

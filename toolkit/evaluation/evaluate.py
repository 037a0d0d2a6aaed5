"""Engines x sets: run every engine on every set, save the logits, and compute everything else from what was saved."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np

from edgeproof import __version__
from edgeproof.config import EvalConfig
from edgeproof.data.arrays import write_npz
from edgeproof.data.base import LabelledImages
from edgeproof.data.classes import match_classes, model_classes
from edgeproof.data.shard import parse_shard
from edgeproof.engines.base import Engine, ShowsKernels, predict_all
from edgeproof.engines.specs import EngineSpec, read_specs
from edgeproof.errors import ConfigError, DataError, ModelError, UnavailableError, nearest
from edgeproof.evaluation.costs import choose_costs
from edgeproof.evaluation.gates import Gate, bind_gates, parse_gates
from edgeproof.evaluation.inputs import EvalInputs, load_inputs
from edgeproof.evaluation.invariance import batch_invariance, narrowest
from edgeproof.evaluation.latency import Timing, measure_throughput
from edgeproof.evaluation.logits import load_saved_logits, logits_key, logits_name, save_logits
from edgeproof.evaluation.metrics import predictions
from edgeproof.evaluation.results import (
    CostsRecord,
    Description,
    EngineRecord,
    InvarianceRecord,
    KernelsRecord,
    LeftOutRecord,
    Results,
    SetRecord,
)
from edgeproof.evaluation.samples import sample_arrays
from edgeproof.evaluation.scoring import CLEAN, Predictions
from edgeproof.evaluation.summary import AllLogits, complete
from edgeproof.onnx_files import read_onnx
from edgeproof.runs import Run, write_json, write_text
from edgeproof.system.environment import describe_environment
from edgeproof.system.out_of_memory import BatchSize
from edgeproof.system.progress import progress
from edgeproof.types import Array, Logits

LOG = logging.getLogger(__name__)

_TIMED_BATCH = 64  # larger ones are no faster on a processor, and FP16 on one takes seconds a batch


@dataclass(frozen=True)
class Candidate:
    """An open engine that is measured.

    Attributes:
        name: What tables and files call it.
        engine: The engine.
        path: Of its file; "in memory" where there is none.
        size: Bytes of its file or weights.
    """

    name: str
    engine: Engine
    path: str
    size: int


@dataclass(frozen=True)
class Measured:
    """An evaluation.

    Attributes:
        results: The record, `results.json`.
        logits: (engine, set) to (N, K), from which everything in `results` can be computed again.
        samples: The arrays of `samples.npz`.
        timings: Engine to its samples of throughput.
    """

    results: Results
    logits: AllLogits
    samples: Mapping[str, Array]
    timings: Mapping[str, Timing]


def evaluate(config: EvalConfig, out: Run) -> Results:
    """Measure engines on clean images and adversarial sets; write `results.json`, `samples.npz` and the logits.

    Logits that an interrupted run of the same configuration has saved are used again. The run is left unfinished, so
    that the reports can be written into it. An engine that cannot be opened is left out, said and recorded.

    Raises:
        ConfigError: For an unknown engine, metric, class or set, before anything runs.
        DataError: When the sets were not made from the same images, or an engine takes others.
        ModelError, UnavailableError: When no engine can be opened, or the reference that limits compare with cannot.
        ToolkitError: As opening runs raises.
    """
    specs = read_specs(config.engines)
    gates, reference = check_limits(config, [spec.name for spec in specs])
    inputs = load_inputs(config.sets, data=config.data, split=config.split)
    with ExitStack() as stack:
        candidates: list[Candidate] = []
        failed: dict[EngineSpec, ModelError | UnavailableError] = {}
        for spec in specs:
            try:
                engine = spec.open(device=config.device, threads=config.threads, output=config.output)
            except (ModelError, UnavailableError) as error:
                failed[spec] = error
            else:
                candidates.append(Candidate(spec.name, stack.enter_context(engine), str(spec.path), spec.size))
        compared = config.reference is not None or any(gate.relative for gate in gates)
        for spec, why in failed.items():
            if not candidates or (compared and spec.name == reference):
                raise why
            LOG.warning(f"edgeproof: {spec.name} cannot be opened and is left out: {why}")
        left_out = [_left_out(spec, why) for spec, why in failed.items()]
        if reference in [each.name for each in left_out]:
            LOG.warning(f"edgeproof: the reference is {candidates[0].name} in its place")
        measured = measure(config, candidates, inputs, folder=out.path, left_out=left_out)
    save_measured(measured, out)
    return measured.results


def _left_out(spec: EngineSpec, error: ModelError | UnavailableError) -> LeftOutRecord:
    try:
        precision = read_onnx(spec.path).precision if spec.path.suffix == ".onnx" else ""
    except ModelError:  # which may be why it cannot be opened
        precision = ""
    return LeftOutRecord(
        name=spec.name,
        backend=spec.backend,
        precision=precision,
        path=str(spec.path),
        reason=str(error),
        status=error.exit_code,
    )


def measure(
    config: EvalConfig,
    candidates: Sequence[Candidate],
    inputs: EvalInputs,
    *,
    folder: Path | None = None,
    left_out: Sequence[LeftOutRecord] = (),
) -> Measured:
    """Measure open engines on clean images and adversarial sets.

    Args:
        config: Limits, costs and how it is measured; its `engines`, `sets` and `data` have been opened.
        candidates: The engines, of distinct names.
        inputs: What they are measured on.
        folder: Where each cell's logits are saved once they are there, and taken from where an earlier process has; or None.
        left_out: Engines that could not be opened.

    Raises:
        ConfigError: For an unknown engine, metric, class or set, before anything runs.
        DataError: When an engine takes other images.
    """
    gates, reference = check_limits(config, [each.name for each in candidates])
    engines = {each.name: each.engine for each in candidates}
    inputs = _fitted(inputs, engines, config)
    costs = choose_costs(
        file=config.costs,
        protect=config.protect or (),
        cost=config.cost,
        side=config.side,
        classes=inputs.clean.classes,
    )
    if config.max_cost and costs is None:
        raise ConfigError(f"--max-cost {config.max_cost[0]!r} needs costs: give --costs FILE or --protect CLASS")
    sets = inputs.records()
    if config.shard is not None:
        # The hashes stay those of the whole sets, so that shards can be compared with each other.
        inputs = inputs.take(parse_shard(config.shard).rows(len(inputs.clean)))
        sets = tuple(set_.model_copy(update={"count": len(inputs.clean)}) for set_ in sets)
    gates = bind_gates(
        gates,
        engines={name: engine.info.precision for name, engine in engines.items()},
        reference=reference,
        sets=sets,
        classes=inputs.clean.classes,
        left_out=left_out,
    )
    logits = _run_all(engines, inputs, sets, config=config, folder=folder)
    size = min(config.batch_size, _TIMED_BATCH)
    timings = measure_throughput(engines, inputs.clean.images, batch_size=size) if config.throughput else {}
    records = []
    for each in candidates:
        tried = None
        if config.invariance:
            rows = narrowest(logits[each.name, CLEAN], config.invariance)
            tried = batch_invariance(each.engine, inputs.clean.images, rows=rows)
        records.append(_engine_record(each, timing=timings.get(each.name), invariance=tried))
    about = _describe(
        inputs.clean,
        reference=reference,
        engines=tuple(records),
        sets=sets,
        costs=costs,
        shard=config.shard,
        left_out=tuple(left_out),
    )
    predicted = Predictions(
        labels=inputs.clean.labels,
        cells={cell: predictions(values) for cell, values in logits.items()},
        source=inputs.source_predictions(),
    )
    results = complete(about, logits, predicted, gates)
    samples = sample_arrays(results, predicted, inputs, shown=config.gallery)
    return Measured(results, logits, samples, timings)


def save_measured(measured: Measured, out: Run) -> None:
    """Write an evaluation next to the logits that `measure` has saved."""
    write_json(out.path / "throughput.json", {name: vars(timing) for name, timing in measured.timings.items()})
    write_npz(out.path / "samples.npz", measured.samples)
    write_text(out.path / "results.json", measured.results.text())


def check_limits(config: EvalConfig, names: Sequence[str]) -> tuple[tuple[Gate, ...], str]:
    """Return the limits and the reference of a configuration, which are read before anything is opened.

    Raises:
        ConfigError: For a limit that cannot be read, no engine, or an unknown reference.
    """
    gates = parse_gates(config.fail_under, config.max_drop, config.max_cost or ())
    if not names:
        raise ConfigError(
            "no engine to evaluate: give graphs, checkpoints or run folders with --engine [NAME=][BACKEND:]PATH"
        )
    if config.reference is not None and config.reference not in names:
        raise ConfigError(
            f"unknown reference engine {config.reference!r}{nearest(config.reference, names)}; known: {', '.join(names)}"
        )
    return gates, config.reference or names[0]


def _fitted(inputs: EvalInputs, engines: Mapping[str, Engine], config: EvalConfig) -> EvalInputs:
    """Bring the labels into the engines' order of classes, and refuse engines for other images or of different orders."""
    first = ""
    infos = {name: engine.info for name, engine in engines.items()}
    for name in sorted(infos, key=lambda name: not infos[name].classes):  # those that name their classes decide
        info, count, clean = infos[name], infos[name].num_classes, inputs.clean
        if info.input_shape != clean.input_shape:
            raise DataError(
                f"{name} takes images of shape {info.input_shape}; those of {clean.name} are {clean.input_shape}"
            )
        names = info.classes
        if not names or (config.classes_file is not None and len(engines) == 1):
            names = model_classes(names, config.classes_file, count=count, model=name)
        mapping, classes = match_classes(clean, names, count=count, model=name, quiet=bool(first))
        if first and classes != clean.classes:
            raise DataError(
                f"{first} and {name} have different classes or order them differently ({count} and {clean.num_classes} "
                "classes); evaluate them apart, or export them from one run"
            )
        inputs, first = inputs.of_classes(mapping, classes), first or name
    return inputs


def _run_all(
    engines: Mapping[str, Engine],
    inputs: EvalInputs,
    sets: Sequence[SetRecord],
    *,
    config: EvalConfig,
    folder: Path | None,
) -> dict[tuple[str, str], Logits]:
    images, found = inputs.images(), {}
    sizes = {name: BatchSize(config.batch_size) for name in engines}
    with progress("evaluate", len(engines) * len(sets) * len(inputs.clean)) as advance:
        for (name, engine), set_ in product(engines.items(), sets):
            file = logits_name(name, set_.name)
            key = logits_key(engine.info, images=f"{set_.sha256}{config.shard or ''}", batch_size=config.batch_size)
            logits = load_saved_logits(folder, file, key=key) if folder else None
            if logits is None:
                step = partial(advance, note=f"{name} on {set_.name}")
                logits = predict_all(engine, images[set_.name], batch_size=sizes[name], advance=step)
                if folder:
                    save_logits(folder, file, logits, key=key)
            else:
                advance(len(logits), note="saved earlier")
            found[name, set_.name] = logits
    return found


def _engine_record(candidate: Candidate, *, timing: Timing | None, invariance: InvarianceRecord | None) -> EngineRecord:
    info, kernels = candidate.engine.info, None
    if info.precision == "int8" and isinstance(candidate.engine, ShowsKernels):
        ran = candidate.engine.kernels()
        kernels = KernelsRecord(integer=sum(kernel.integer for kernel in ran), total=len(ran))
    return EngineRecord(
        name=candidate.name,
        backend=info.backend,
        precision=info.precision,
        device=info.device,
        provider=info.provider,
        path=candidate.path,
        sha256=info.sha256,
        size=candidate.size,
        versions=dict(info.versions),
        note=info.note,
        options=dict(info.options),
        throughput=timing.record() if timing else None,
        invariance=invariance,
        kernels=kernels,
        made_from=info.made_from,
    )


def _describe(
    clean: LabelledImages,
    *,
    reference: str,
    engines: tuple[EngineRecord, ...],
    sets: tuple[SetRecord, ...],
    costs: CostsRecord | None,
    shard: str | None,
    left_out: tuple[LeftOutRecord, ...],
) -> Description:
    """Describe an evaluation, without what is computed from logits."""
    counts = np.bincount(clean.labels, minlength=clean.num_classes)
    data = {
        "name": clean.name,
        "split": clean.split,
        "count": len(clean),
        "input_shape": list(clean.input_shape),
        "class_counts": counts.tolist(),
        **({"shard": shard} if shard else {}),
    }
    return Description(
        tool={"name": "edgeproof", "version": __version__},
        data=data,
        classes=clean.classes,
        reference=reference,
        costs=costs,
        engines=engines,
        sets=sets,
        environment=describe_environment(),
        left_out=left_out,
    )

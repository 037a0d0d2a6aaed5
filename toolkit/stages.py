"""The stages in their run folders: one table of what each is called by, made from and carried out by.

The command line, the studies and the Python API run stages from here.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeproof.config import (
    AttackConfig,
    BenchAttacksConfig,
    BenchConfig,
    BuildConfig,
    EvalConfig,
    ExportConfig,
    FalsifyConfig,
    ImportConfig,
    PoisonConfig,
    QuantizeConfig,
    Strict,
    TrainConfig,
    build_config,
    format_eps,
)
from edgeproof.errors import ConfigError, ExhaustedError, first_line
from edgeproof.runs import Run
from edgeproof.runs.manifest import Manifest
from edgeproof.system.distributed import first, share
from edgeproof.system.out_of_memory import exhausted

Inputs = Mapping[str, Path]
LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stage:
    """One kind of work with a run folder.

    Attributes:
        kind: Of its run folder, as the manifest has it.
        config: What it is configured by.
        function: "module:function", called as `function(config, out)`; imported when it is run.
        name: What a person recognises the folder by, from the configuration.
        inputs: Role to path of what it reads, from the configuration; their content is part of the run's identity.
    """

    kind: str
    config: type[Strict]
    function: str
    name: Callable[[Any], str]
    inputs: Callable[[Any], Inputs]

    def load(self) -> Callable[[Any, Run], object]:
        """Import what carries it out."""
        module, _, name = self.function.partition(":")
        function: Callable[[Any, Run], object] = getattr(importlib.import_module(module), name)
        return function


@dataclass(frozen=True)
class Place:
    """The place that a run goes to.

    Attributes:
        out: The folder (default: one under EDGEPROOF_RUNS, else `runs/`, named after the run's content).
        fresh: Whether to start over in place of continuing.
    """

    out: Path | None = None
    fresh: bool = False


def _paths(**named: str | None) -> Inputs:
    return {role.replace("_", " "): Path(path) for role, path in named.items() if path is not None}


def _data(name: str | None, *, role: str = "data") -> Inputs:
    """Return the files of a data set that is named by its path."""
    from edgeproof.data.origin import data_path

    path = data_path(name)
    return {} if path is None else {role: path}


def _model_data(model: str, chosen: str | None = None) -> Inputs:
    """Return the files of the images that a stage reads for a model: those that were chosen, else those of its training."""
    from edgeproof.data.origin import training_data
    from edgeproof.engines.specs import spec_path

    return _data(chosen or training_data(spec_path(model)))


def _engine_inputs(specs: Sequence[str]) -> Inputs:
    from edgeproof.engines.specs import spec_path

    return {f"engine {number}": spec_path(text) for number, text in enumerate(specs)}


def _train_inputs(config: TrainConfig) -> Inputs:
    named = _paths(start=config.start_from, poison=config.poison, costs=config.objective_params.get("costs"))
    return {**named, **_data(config.data.name)}


def _attack_inputs(config: AttackConfig) -> Inputs:
    from edgeproof.engines.specs import spec_path

    builds = {f"build {number}": Path(path) for number, path in enumerate(config.ensemble_builds or (), start=1)}
    named = {
        "model": spec_path(config.model),
        **_paths(deployed=config.deployed, classes=config.classes_file),
        **builds,
    }
    return {**named, **_model_data(config.model, config.data)}


def _falsify_inputs(config: FalsifyConfig) -> Inputs:
    from edgeproof.attacks.properties.instances import read_instances

    found = read_instances(config)
    files = {path for instance in found for path in (instance.graph, instance.vnnlib)}
    inputs = {path.name if len(found) == 1 else str(path): path for path in sorted(files)}
    return {**inputs, **_paths(instances=config.instances)}


def _build_inputs(config: BuildConfig) -> Inputs:
    cache = config.timing_cache if config.locked else None
    return _paths(source=config.source, timing_cache=cache, prefix=config.prefix)


def _eval_inputs(config: EvalConfig) -> Inputs:
    sets = {f"adversaries {number}": Path(path) for number, path in enumerate(config.sets)}
    # Attack runs hold their clean images; a file of another tool may need those that it was made from.
    data = _data(config.data) if all(path.is_file() for path in sets.values()) else {}
    return {**_engine_inputs(config.engines), **sets, **_paths(costs=config.costs, classes=config.classes_file), **data}


def _quantize_inputs(config: QuantizeConfig) -> Inputs:
    named = {"adversaries": config.adversaries, "calibration_adversaries": config.calibration_adversaries}
    return {**_paths(model=config.model, **named), **_model_data(config.model, config.data)}


def _export_inputs(config: ExportConfig) -> Inputs:
    calibration = _data(config.calibration, role="calibration")
    return {**_paths(model=config.model), **_model_data(config.model, config.data), **calibration}


#: By name, which is the verb where there is one.
STAGES: Mapping[str, Stage] = {
    "train": Stage(
        "train",
        TrainConfig,
        "edgeproof.training.loop:train",
        lambda config: f"{slug(config.data.name)}-{config.model}",
        _train_inputs,
    ),
    "import": Stage(
        "train",
        ImportConfig,
        "edgeproof.models.own:import_model",
        lambda config: f"{slug(config.data.name)}-{slug(config.model)}",
        lambda config: {**_paths(weights=config.weights, classes=config.classes_file), **_data(config.data.name)},
    ),
    "poison": Stage(
        "poison",
        PoisonConfig,
        "edgeproof.poisoning.base:poison",
        lambda config: f"{slug(config.data.name)}-{config.method}-{slug(format_eps(config.eps))}",
        lambda config: {**_paths(generator=config.reuse), **_data(config.data.name)},
    ),
    "attack": Stage(
        "attack",
        AttackConfig,
        "edgeproof.attacks.craft:attack",
        lambda config: f"{slug(config.model)}-{config.attack}-{slug(format_eps(config.eps))}",
        _attack_inputs,
    ),
    "falsify": Stage(
        "falsify",
        FalsifyConfig,
        "edgeproof.attacks.properties.instances:answer_instances",
        lambda config: slug(Path(config.instances or config.vnnlib or "").name),
        _falsify_inputs,
    ),
    "export": Stage(
        "export",
        ExportConfig,
        "edgeproof.deployment.export:export_model",
        lambda config: slug(config.model),
        _export_inputs,
    ),
    "build": Stage(
        "export",
        BuildConfig,
        "edgeproof.deployment.build:build_graphs",
        lambda config: f"{slug(Path(config.source).name)}-{config.target}",
        _build_inputs,
    ),
    "quantize": Stage(
        "export",
        QuantizeConfig,
        "edgeproof.deployment.int8_search:choose_build",
        lambda config: f"{slug(config.model)}-{config.recipe}",
        _quantize_inputs,
    ),
    "eval": Stage(
        "eval",
        EvalConfig,
        "edgeproof.reports.write:evaluate_and_report",
        lambda config: slug(config.sets[0] if config.sets else "clean"),
        _eval_inputs,
    ),
    "bench-engines": Stage(
        "bench",
        BenchConfig,
        "edgeproof.evaluation.bench_engines:bench_engines",
        lambda config: "engines",
        lambda config: _engine_inputs(config.engines),
    ),
    "bench-attacks": Stage(
        "bench",
        BenchAttacksConfig,
        "edgeproof.attacks.bench_attacks:bench_attacks",
        lambda config: f"attacks-{slug(config.model)}",
        lambda config: {**_paths(model=config.model), **_model_data(config.model, config.data)},
    ),
}


def run_stage(name: str, config: Strict, place: Place = Place(), *, inputs: Inputs | None = None) -> Run:
    """Run one stage in its folder; a finished run of the same configuration and inputs is returned as it is.

    Args:
        name: Of the stage in `STAGES`.
        config: Of the stage's kind.
        place: Where the run goes.
        inputs: What it is made from beyond what the configuration names.

    Raises:
        ToolkitError: As the stage and `Run.start` do.
    """
    with open_runs(name, [config], place, inputs=inputs) as (out,):
        if not out.done:
            STAGES[name].load()(config, out)
    return out


def run_attacks(configs: Sequence[AttackConfig], place: Place = Place()) -> list[Run]:
    """Craft the adversarial sets of one attack, a run for each budget; they share what work can be shared."""
    if len(configs) > 1 and place.out:
        raise ConfigError(
            f"--out names one folder and there are {len(configs)} budgets; leave it out or give one --eps"
        )
    with open_runs("attack", configs, place) as outs:
        if not all(out.done for out in outs):
            from edgeproof.attacks.craft import attack_sweep

            attack_sweep(configs, outs)
    return outs


def merge_runs(paths: Sequence[Path], place: Place = Place()) -> Run:
    """Join the shards of an attack or an evaluation."""
    from edgeproof.evaluation.merge import merge, open_shards, whole_config
    from edgeproof.reports.write import write_reports

    runs, shards = open_shards(paths)
    inputs = {f"shard {shard}": run.path for run, shard in zip(runs, shards, strict=True)}
    outs: list[Run] = []
    with (
        interruptible(outs),
        Run.start(
            runs[0].kind,
            "merged",
            config=whole_config(runs[0]),
            inputs=inputs,
            seed=runs[0].config.get("seed"),
            out=place.out,
            fresh=place.fresh,
        ) as out,
    ):
        outs.append(out)
        if out.done:
            _say_done(out)
        else:
            merge(runs, shards, out)
            if out.kind == "eval":
                write_reports(out)
    return out


@contextlib.contextmanager
def open_runs(
    name: str, configs: Sequence[Strict], place: Place, *, inputs: Inputs | None = None
) -> Iterator[list[Run]]:
    """Open the folders of a stage's runs, say which are finished already, and finish the others when the block ends well.

    Of several processes the first holds the folders, and the others know what is in them.
    """
    stage, outs = STAGES[name], list[Run]()
    with interruptible(outs), contextlib.ExitStack() as held:
        for config in configs:
            outs.append(held.enter_context(_start(stage, config, place, inputs or {})))
            if outs[-1].done:
                _say_done(outs[-1])
        yield outs


def _start(stage: Stage, config: Strict, place: Place, inputs: Inputs) -> Run:
    if not first():
        path, manifest = share(("", None))
        return Run(Path(path), Manifest.model_validate(manifest) if manifest else None)
    plain = config.model_dump(mode="json")
    run = Run.start(
        stage.kind,
        stage.name(config),
        config=plain,
        inputs={**stage.inputs(config), **inputs},
        seed=plain.get("seed"),
        out=place.out,
        fresh=place.fresh,
    )
    share((str(run.path), run.manifest and run.manifest.model_dump(mode="json")))
    return run


def _say_done(out: Run) -> None:
    LOG.info(f"already done: {out.path}")


@contextlib.contextmanager
def interruptible(outs: Sequence[Run]) -> Iterator[None]:
    """Say what an interruption, a full disk or a lack of memory in the block leaves in these folders.

    Raises:
        ExhaustedError: In place of whatever a library raises when disk or memory are at their end.
    """
    try:
        yield
    except KeyboardInterrupt:
        if outs:
            LOG.warning(f"interrupted; {_kept(outs)}")
        raise
    except Exception as error:
        what = exhausted(error)
        if not what or not outs:
            raise
        advice = "free some space" if what == "disk" else "close other programs, or start over with a smaller batch"
        raise ExhaustedError(f"{what} is full ({first_line(error)}); {advice}; {_kept(outs)}") from error


def _kept(outs: Sequence[Run]) -> str:
    return f"what was saved is in {', '.join(str(out.path) for out in outs)}, and the same command continues it"


def unpack(bundle: Path, *, backends: Sequence[str], build: bool) -> dict[str, Any]:
    """Unpack a bundle and return its evaluation, of plans built here where that is asked for."""
    from edgeproof.evaluation.bundled import unpack_bundle

    config = unpack_bundle(bundle, backends=backends).model_dump()
    if build:
        folders = dict.fromkeys(config["engines"])
        plans = [run_stage("build", BuildConfig(source=folder, target="tensorrt")) for folder in folders]
        config |= {"engines": tuple(str(run.path) for run in plans), "device": "cuda"}
    return config


DEMO_TRAIN = {"data.name": "digits", "model": "small-cnn", "epochs": 8, "batch_size": 32, "lr": 0.05}
DEMO_ATTACKS = (("fgsm", "0.1"), ("pgd-linf", "0.05"), ("pgd-linf", "0.1"), ("noise", "0.1"))


def demo(place: Place = Place()) -> Run:
    """Run all stages on handwritten digits and return the evaluation."""
    here = Place(fresh=place.fresh)
    model = str(run_stage("train", build_config(TrainConfig, options=DEMO_TRAIN), here).path)
    shared = {"model": model, "pixels": "uint8"}
    configs = [build_config(AttackConfig, options={**shared, "attack": name, "eps": eps}) for name, eps in DEMO_ATTACKS]
    sets = tuple(str(run_attacks([config], here)[0].path) for config in configs)
    graphs = run_stage("export", build_config(ExportConfig, options={"model": model}), here)
    engines = {"engines": (model, str(graphs.path)), "sets": sets}
    return run_stage("eval", build_config(EvalConfig, options=engines), place)


def slug(text: str) -> str:
    """Make a part of a folder's name: `runs/train-digits-small-cnn-0123456789` becomes `digits-small-cnn`."""
    word = Path(text).name if os.sep in text and not text.endswith("/255") else text
    parts = word.split("-")
    if parts[0] in ("train", "attack", "export", "eval", "bench") and len(parts) > 2:
        parts = parts[1:-1]
    return (
        "".join(letter if letter.isalnum() or letter in "._" else "-" for letter in "-".join(parts)).strip("-") or "run"
    )

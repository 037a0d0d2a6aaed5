"""The stages in their run folders: what each is called by, what it was made from, and how it is continued."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

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

R = TypeVar("R")


def run_stage(
    config: Strict,
    stage: Callable[[Any, Run], object],
    *,
    kind: str,
    name: str,
    inputs: Mapping[str, Path],
    values: Mapping[str, Any],
) -> Run:
    """Run one stage in its folder; a finished run of the same configuration and inputs is returned as it is."""
    with start_run(config, kind=kind, name=name, inputs=inputs, values=values) as out:
        carry_out(lambda: stage(config, out), [out])
    return out


def start_run(config: Strict, *, kind: str, name: str, inputs: Mapping[str, Path], values: Mapping[str, Any]) -> Run:
    """Open the folder of a stage; of several processes the first holds it, and the others know what is in it."""
    plain = config.model_dump(mode="json")
    place = {"out": values.get("out"), "fresh": values.get("fresh", False)}
    run = Run.start(kind, name, config=plain, inputs=inputs, seed=plain.get("seed"), **place) if first() else None
    path, manifest = share(
        (str(run.path), run.manifest and run.manifest.model_dump(mode="json")) if run else ("", None)
    )
    return run or Run(Path(path), Manifest.model_validate(manifest) if manifest else None)


def carry_out(stage: Callable[[], object], outs: Sequence[Run]) -> None:
    """Run a stage unless all its folders are finished."""
    for out in outs:
        if out.done:
            click.echo(f"already done: {out.path}", err=True)
    if not all(out.done for out in outs):
        interruptible(stage, outs)


def interruptible(stage: Callable[[], R], outs: Sequence[Run]) -> R:
    """Run a stage, and say what an interruption, a full disk or a lack of memory leaves.

    Raises:
        ExhaustedError: In place of whatever a library raises when disk or memory are at their end.
    """
    kept = f"what was saved is in {', '.join(str(out.path) for out in outs)}, and the same command continues it"
    try:
        return stage()
    except KeyboardInterrupt:
        click.echo(f"interrupted; {kept}", err=True)
        raise
    except Exception as error:
        what = exhausted(error)
        if not what:
            raise
        advice = "free some space" if what == "disk" else "close other programs, or start anew with a smaller batch"
        raise ExhaustedError(f"{what} is full ({first_line(error)}); {advice}; {kept}") from error


def train_run(config: TrainConfig, values: Mapping[str, Any]) -> Run:
    """Train a classifier."""
    from edgeproof.training.loop import train

    name = f"{slug(config.data.name)}-{config.model}"
    return run_stage(config, train, kind="train", name=name, inputs=config.inputs(), values=values)


def poison_run(config: PoisonConfig, values: Mapping[str, Any]) -> Run:
    """Make training images that confuse whoever trains on them."""
    from edgeproof.poisoning.base import poison

    name = f"{slug(config.data.name)}-{config.method}-{slug(format_eps(config.eps))}"
    return run_stage(config, poison, kind="poison", name=name, inputs=config.inputs(), values=values)


def import_run(config: ImportConfig, values: Mapping[str, Any]) -> Run:
    """Take a network and weights of the user's own."""
    from edgeproof.models.own import import_model

    inputs = {"weights": Path(config.weights)}
    name = f"{slug(config.data.name)}-{slug(config.model)}"
    return run_stage(config, import_model, kind="train", name=name, inputs=inputs, values=values)


def attack_runs(configs: Sequence[AttackConfig], values: Mapping[str, Any]) -> list[Run]:
    """Craft the adversarial sets of one attack, a run for each budget; they share what work can be shared."""
    from edgeproof.attacks.craft import attack_sweep
    from edgeproof.engines.specs import spec_path

    if len(configs) > 1 and values.get("out"):
        raise ConfigError(
            f"--out names one folder and there are {len(configs)} budgets; leave it out or give one --eps"
        )
    with contextlib.ExitStack() as held:
        outs = []
        for config in configs:
            name = f"{slug(config.model)}-{config.attack}-{slug(format_eps(config.eps))}"
            inputs = {"model": spec_path(config.model)}
            inputs |= {"deployed": Path(config.deployed)} if config.deployed else {}
            inputs |= {f"build {n}": Path(path) for n, path in enumerate(config.ensemble_builds or (), start=1)}
            outs.append(held.enter_context(start_run(config, kind="attack", name=name, inputs=inputs, values=values)))
        carry_out(lambda: attack_sweep(configs, outs), outs)
    return outs


def falsify_run(config: FalsifyConfig, values: Mapping[str, Any]) -> Run:
    """Look for counterexamples to properties of graphs."""
    from edgeproof.attacks.properties.instances import answer_instances, read_instances

    found = read_instances(config)
    files = {path for instance in found for path in (instance.graph, instance.vnnlib)}
    inputs = {path.name if len(found) == 1 else str(path): path for path in sorted(files)}
    if config.instances:
        inputs["instances"] = Path(config.instances)
    name = slug(Path(config.instances or found[0].vnnlib).name)
    return run_stage(config, answer_instances, kind="falsify", name=name, inputs=inputs, values=values)


def export_run(config: ExportConfig, values: Mapping[str, Any]) -> Run:
    """Write the graphs of a checkpoint, each past its parity gate."""
    from edgeproof.deployment.export import export_model

    return run_stage(
        config,
        export_model,
        kind="export",
        name=slug(config.model),
        inputs={"model": Path(config.model)},
        values=values,
    )


def build_run(config: BuildConfig, values: Mapping[str, Any]) -> Run:
    """Turn graphs into what a device opens."""
    from edgeproof.deployment.build import build_graphs

    inputs = {"source": Path(config.source)}
    if config.locked and config.timing_cache:
        inputs["timing cache"] = Path(config.timing_cache)
    if config.prefix is not None:
        inputs["prefix"] = Path(config.prefix)
    name = f"{slug(Path(config.source).name)}-{config.target}"
    return run_stage(config, build_graphs, kind="export", name=name, inputs=inputs, values=values)


def eval_run(config: EvalConfig, values: Mapping[str, Any]) -> Run:
    """Measure engines on adversarial sets and write the report."""
    from edgeproof.engines.specs import spec_path
    from edgeproof.evaluation.evaluate import evaluate
    from edgeproof.reports.write import write_reports

    def stage(config: EvalConfig, out: Run) -> None:
        evaluate(config, out)
        write_reports(out)
        out.finish()

    inputs = {f"engine {n}": spec_path(text) for n, text in enumerate(config.engines)}
    inputs |= {f"adversaries {n}": Path(path) for n, path in enumerate(config.sets)}
    inputs |= {"bundle": values["bundle"]} if values.get("bundle") else {}
    inputs |= {"costs": Path(config.costs)} if config.costs else {}
    return run_stage(
        config, stage, kind="eval", name=slug(config.sets[0] if config.sets else "clean"), inputs=inputs, values=values
    )


def bench_run(config: BenchConfig, values: Mapping[str, Any]) -> Run:
    """Time engines."""
    from edgeproof.engines.specs import spec_path
    from edgeproof.evaluation.bench_engines import bench_engines

    def stage(config: BenchConfig, out: Run) -> None:
        bench_engines(config, out)
        out.finish()

    inputs = {f"engine {n}": spec_path(text) for n, text in enumerate(config.engines)}
    return run_stage(config, stage, kind="bench", name="engines", inputs=inputs, values=values)


def bench_attacks_run(config: BenchAttacksConfig, values: Mapping[str, Any]) -> Run:
    """Time attacks."""
    from edgeproof.attacks.bench_attacks import bench_attacks

    def stage(config: BenchAttacksConfig, out: Run) -> None:
        bench_attacks(config, out)
        out.finish()

    inputs = {"model": Path(config.model)}
    return run_stage(config, stage, kind="bench", name=f"attacks-{slug(config.model)}", inputs=inputs, values=values)


def quantize_run(config: QuantizeConfig, values: Mapping[str, Any]) -> Run:
    """Choose an INT8 build."""
    from edgeproof.deployment.int8_search import choose_build

    inputs = {"model": Path(config.model), "adversaries": Path(config.adversaries)}
    if config.calibration_adversaries:
        inputs["calibration adversaries"] = Path(config.calibration_adversaries)
    name = f"{slug(config.model)}-{config.recipe}"
    return run_stage(config, choose_build, kind="export", name=name, inputs=inputs, values=values)


def merged_run(paths: Sequence[Path], values: Mapping[str, Any]) -> Run:
    """Join the shards of an attack or an evaluation."""
    from edgeproof.evaluation.merge import merge, open_shards, whole_config
    from edgeproof.reports.write import write_reports

    runs, shards = open_shards(paths)
    place = {"out": values.get("out"), "fresh": values.get("fresh", False)}
    inputs = {f"shard {shard}": run.path for run, shard in zip(runs, shards, strict=True)}
    config, seed = whole_config(runs[0]), runs[0].config.get("seed")

    def stage() -> None:
        merge(runs, shards, out)
        if not out.done:
            write_reports(out)
            out.finish()

    with Run.start(runs[0].kind, "merged", config=config, inputs=inputs, seed=seed, **place) as out:
        carry_out(stage, [out])
    return out


def bundled(bundle: Path, *, backends: Sequence[str], build: bool) -> dict[str, Any]:
    """Unpack a bundle and return its evaluation, of plans built here where that is asked for."""
    from edgeproof.evaluation.bundled import unpack_bundle

    config = unpack_bundle(bundle, backends=backends).model_dump()
    if build:
        folders = dict.fromkeys(config["engines"])
        plans = [build_run(BuildConfig(source=folder, target="tensorrt"), {}) for folder in folders]
        config |= {"engines": tuple(str(run.path) for run in plans), "device": "cuda"}
    return config


DEMO_TRAIN = {"data.name": "digits", "model": "small-cnn", "epochs": 8, "batch_size": 32, "lr": 0.05}
DEMO_ATTACKS = (("fgsm", "0.1"), ("pgd-linf", "0.05"), ("pgd-linf", "0.1"), ("noise", "0.1"))


def demo_run(values: Mapping[str, Any]) -> Run:
    """Run all stages on handwritten digits and return the evaluation."""
    here = {"fresh": values["fresh"]}
    model = str(train_run(build_config(TrainConfig, options=DEMO_TRAIN), here).path)
    shared = {"model": model, "pixels": "uint8"}
    configs = [build_config(AttackConfig, options={**shared, "attack": name, "eps": eps}) for name, eps in DEMO_ATTACKS]
    sets = tuple(str(attack_runs([config], here)[0].path) for config in configs)
    graphs = export_run(build_config(ExportConfig, options={"model": model}), here)
    config = build_config(EvalConfig, options={"engines": (model, str(graphs.path)), "sets": sets})
    return eval_run(config, values)


def slug(text: str) -> str:
    """Make a part of a folder's name: `runs/train-digits-small-cnn-0123456789` becomes `digits-small-cnn`."""
    word = Path(text).name if os.sep in text and not text.endswith("/255") else text
    parts = word.split("-")
    if parts[0] in ("train", "attack", "export", "eval", "bench") and len(parts) > 2:
        parts = parts[1:-1]
    return (
        "".join(letter if letter.isalnum() or letter in "._" else "-" for letter in "-".join(parts)).strip("-") or "run"
    )

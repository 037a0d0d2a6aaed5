"""edgeproof on the command line: a function a verb. stdout carries the result, stderr progress and errors."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import click

from toolkit import __version__
from toolkit.config import (
    AttackConfig,
    BenchAttacksConfig,
    BenchConfig,
    BuildConfig,
    DetectConfig,
    EvalConfig,
    ExportConfig,
    FalsifyConfig,
    ImportConfig,
    PoisonConfig,
    QuantizeConfig,
    TrainConfig,
    build_config,
    parse_assignments,
)
from toolkit.distributed import joined, leave, tell
from toolkit.environment import usable_cores
from toolkit.errors import ConfigError
from toolkit.links import refuse_links
from toolkit.options import (
    PluginGroup,
    config_options,
    field_options,
    given_params,
    introduction,
    plugin_options,
    read_config,
)
from toolkit.printing import (
    emit,
    explain,
    finish_eval,
    show_answers,
    show_bench,
    show_detection,
    show_entries,
    show_search,
    show_weights,
)
from toolkit.registry import FOLDERS, Entry, entries
from toolkit.runs import Run
from toolkit.stages import (
    attack_runs,
    bench_attacks_run,
    bench_run,
    bundled,
    demo_run,
    eval_run,
    exported,
    falsify_run,
    import_run,
    interruptible,
    merged_run,
    poison_run,
    quantize_run,
    train_run,
)

#: Of an evaluation, what a bundle takes from the command line.
PACKED = {"sets", "reference", "fail_under", "max_drop", "max_cost", "protect", "cost", "side"}
RUN_OPTIONS = [
    click.Option(
        ["--out"], type=click.Path(path_type=Path), help="run folder (default: under $EDGEPROOF_RUNS, else runs/)"
    ),
    click.Option(["--fresh/--resume"], default=False, help="start over, or continue what is unfinished (default)"),
    click.Option(["--json", "as_json"], is_flag=True, help="print a JSON object instead of the path"),
]


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="edgeproof")
def cli() -> None:
    """How does a model hold up to adversarial inputs in the form in which it is deployed?"""


@cli.command(params=[*config_options(TrainConfig), *RUN_OPTIONS])
def train(**values: Any) -> None:
    """Train a classifier; the run folder holds its checkpoint and history."""
    emit(train_run(read_config(TrainConfig, values), values), values)


@cli.command(params=[*config_options(PoisonConfig), *RUN_OPTIONS])
def poison(**values: Any) -> None:
    """Make poisoned training images; `train --poison RUN` trains on them."""
    emit(poison_run(read_config(PoisonConfig, values), values), values)


@cli.command(name="import", params=[*config_options(ImportConfig), *RUN_OPTIONS])
def import_(**values: Any) -> None:
    """Take a network and weights of your own; the run folder is like that of `train`, for attack, export and eval."""
    emit(import_run(read_config(ImportConfig, values), values), values)


def attack_command(entry: Entry) -> click.Command:
    """Make the command of one attack: its own parameters first, then what all attacks share."""

    def craft(**values: Any) -> None:
        params = {f"params.{key}": value for key, value in given_params(entry, values).items()}
        budgets = dict.fromkeys(values.pop("budgets") or (None,))
        fixed = [{"attack": entry.name, **({"eps": eps} if eps else {}), **params} for eps in budgets]
        configs = [read_config(AttackConfig, dict(values), **each) for each in fixed]
        for out in attack_runs(configs, values):
            emit(out, values)

    budget = click.Option(
        ["--eps", "budgets"], multiple=True, help="budget in [0, 1] pixel units, such as 8/255; repeatable"
    )
    shared = config_options(AttackConfig, hidden=("attack", "eps", "params"))
    params: list[click.Parameter] = [
        *plugin_options(entry, skip=("eps", "deployed", "stop", "journal", "draws", "trace")),
        budget,
        *shared,
        *RUN_OPTIONS,
    ]
    return click.Command(
        entry.name, params=params, callback=craft, help=introduction(entry.help), short_help=entry.summary
    )


@cli.group(
    cls=PluginGroup,
    plugins="attack",
    make=attack_command,
    invoke_without_command=True,
    no_args_is_help=True,
    params=[*config_options(FalsifyConfig), *RUN_OPTIONS],
)
@click.pass_context
def attack(ctx: click.Context, /, **values: Any) -> None:
    """Craft adversaries of a source model: `attack NAME --model RUN --eps 8/255`.

    Without a NAME, look for a counterexample to a VNN-LIB property: `attack --vnnlib FILE --graph FILE.onnx` answers sat, with
    the counterexample, or unknown. The options below are for this; those of an attack stand behind its NAME.
    """
    if ctx.invoked_subcommand is None:
        config = read_config(FalsifyConfig, values)
        show_answers(falsify_run(config, values), values, single=config.instances is None)
    elif any(value not in (None, (), False) for value in values.values()):
        raise ConfigError(
            f"options before {ctx.invoked_subcommand!r} belong to --vnnlib; give those of an attack behind its name"
        )


@cli.command(
    params=[
        *config_options(ExportConfig),
        *field_options(BuildConfig, when="(--from) "),
        click.Option(
            ["--bundle"], type=click.Path(path_type=Path), help="zip to pack it all into, for a device's eval"
        ),
        *field_options(EvalConfig, hidden=set(EvalConfig.model_fields) - PACKED, when="(--bundle) "),
        *RUN_OPTIONS,
    ]
)
def export(**values: Any) -> None:
    """Export a checkpoint to ONNX: FP32, FP16 and INT8 graphs, each past a parity gate on labelled images.

    With --from, bring a graph to what a device opens, on that device and without PyTorch: --target tensorrt or openvino; a
    graph that takes other images (--layout, --range, --mean, --std) is first brought to float32 NCHW in [0, 1].
    """
    bundle, packed = values.pop("bundle"), {key: values.pop(f"config_{key}") for key in PACKED}
    if not bundle and any(packed.values()):
        raise ConfigError("adversaries and limits are packed for a device's eval; add --bundle FILE.zip")
    out = exported(values, pack_only=bool(bundle))
    if bundle:
        from toolkit.bundle import write_bundle

        sets = [Path(path) for path in packed.pop("sets")]
        write_bundle(bundle, models=[out.path], sets=sets, config=build_config(EvalConfig, options=packed))
        click.echo(f"bundle: {bundle}, {bundle.stat().st_size / 1e6:.1f} MB", err=True)
    emit(out, values, **({"bundle": str(bundle)} if bundle else {}))


@cli.command(params=[*config_options(QuantizeConfig), *RUN_OPTIONS])
def quantize(**values: Any) -> None:
    """Choose an INT8 build by its accuracy under attack on validation images; the run is one of `export`."""
    show_search(quantize_run(read_config(QuantizeConfig, values), values), values)


@cli.command(
    name="eval",
    params=[
        *config_options(EvalConfig),
        click.Option(
            ["--bundle"], type=click.Path(path_type=Path), help="what export --bundle has packed; needs no more"
        ),
        click.Option(
            ["--backend", "backends"], multiple=True, help="with --bundle: what opens its graphs, as openvino"
        ),
        click.Option(
            ["--build"], is_flag=True, help="with --bundle: build TensorRT plans of its graphs here and use them"
        ),
        *RUN_OPTIONS,
    ],
)
def eval_(**values: Any) -> None:
    """Measure engines on the clean images and on adversarial sets; exit status 1 when a gate fails."""
    backends, build = values.pop("backends"), values.pop("build")
    if not values["bundle"] and (backends or build):
        raise ConfigError("--backend and --build are for the graphs of a bundle; add --bundle FILE.zip")
    base = bundled(values["bundle"], backends=backends, build=build) if values["bundle"] else {}
    finish_eval(eval_run(read_config(EvalConfig, values, base=base), values), values)


@cli.group()
def bench() -> None:
    """Time engines and attacks; every sample is kept, and what is compared takes turns."""


@bench.command(name="engines", params=[*config_options(BenchConfig), *RUN_OPTIONS])
def bench_engines_(**values: Any) -> None:
    """Latency percentiles, images a second and peak memory of engines at several batch sizes."""
    show_bench(bench_run(read_config(BenchConfig, values), values), values)


@bench.command(name="attacks", params=[*config_options(BenchAttacksConfig), *RUN_OPTIONS])
def bench_attacks_(**values: Any) -> None:
    """Adversarial images a second, crafted alone and with their evaluation, for each rule to stop."""
    show_bench(bench_attacks_run(read_config(BenchAttacksConfig, values), values), values)


@cli.command(params=RUN_OPTIONS)
def demo(**values: Any) -> None:
    """Train, attack, export, evaluate and report on handwritten digits, in about a minute and without a download."""
    finish_eval(demo_run(values), values)


def study_command(entry: Entry) -> click.Command:
    """Make the command of one study: its own parameters first, then how it is run."""

    def run(**values: Any) -> None:
        from toolkit.studies.base import run_study, study_params

        given = {**parse_assignments(values.pop("overrides")), **given_params(entry, values)}
        if values["chosen_seeds"]:
            given["seeds"] = values["chosen_seeds"]
        params = study_params(entry, preset=values["preset"], given=given)
        config = {"study": entry.name, "params": params}
        place = {"out": values["out"], "fresh": values["fresh"]}
        with Run.start("study", entry.name, config=config, **place) as out:
            how = {key: values[key] for key in ("processes", "ray", "document")}
            results = interruptible(partial(run_study, entry, params, out=out, **how), [out])
        click.echo(f"report: {out.path / 'report.html'}", err=True)
        emit(out, values, verdicts=[verdict.model_dump() for verdict in results.verdicts])

    return click.Command(
        entry.name,
        params=[*plugin_options(entry), *STUDY_OPTIONS, *RUN_OPTIONS],
        callback=run,
        help=introduction(entry.help),
        short_help=entry.summary,
    )


STUDY_OPTIONS = [
    click.Option(
        ["--preset"], default="small", show_default=True, help="smoke, small, paper, or another of the study's"
    ),
    click.Option(["--seed", "chosen_seeds"], type=int, multiple=True, help="seed of the trainings; repeatable"),
    click.Option(["--set", "overrides"], multiple=True, metavar="KEY=VALUE", help="set any parameter of the study"),
    click.Option(["--processes"], type=click.IntRange(1), default=min(usable_cores(), 4), help="jobs at a time"),
    click.Option(
        ["--ray"], is_flag=True, help="run them on Ray: RAY_ADDRESS, or what runs here, else a cluster of its own"
    ),
    click.Option(
        ["--document"], type=click.Path(path_type=Path), help="write the Markdown here too, figures beside it"
    ),
]


@cli.group(cls=PluginGroup, plugins="study", make=study_command)
def study() -> None:
    """Run a study: its trainings and attacks as resumable jobs, then verdicts on its claims."""


@cli.command()
@click.argument("run", type=click.Path(path_type=Path))
def report(run: Path) -> None:
    """Write the report of an eval run again, from its files only."""
    from toolkit.reports.write import write_reports

    folder = Run.open(run, kind="eval")
    refuse_links(folder.path)
    write_reports(folder)
    folder.amend(("report.html", "report.md", "junit.xml"))
    click.echo(str(folder.path / "report.html"))


@cli.command(
    params=[click.Argument(["shards"], nargs=-1, required=True, type=click.Path(path_type=Path)), *RUN_OPTIONS]
)
def merge(shards: tuple[Path, ...], **values: Any) -> None:
    """Join the runs of `attack --shard I/N`, or of `eval --shard I/N`, into the run of the whole."""
    out = merged_run(shards, values)
    if out.kind == "eval":
        finish_eval(out, values)
    else:
        emit(out, values)


@cli.command()
@click.argument("before", type=click.Path(path_type=Path))
@click.argument("after", type=click.Path(path_type=Path))
@click.option("--fail-on-loss", is_flag=True, help="exit status 1 when accuracy was lost significantly anywhere")
@click.option("--markdown", "as_markdown", is_flag=True, help="print Markdown, for a pull request")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def diff(before: Path, after: Path, fail_on_loss: bool, as_markdown: bool, as_json: bool) -> None:
    """Compare two eval runs by engine, set and class, paired where their images are the same, with significance."""
    from toolkit.reports.diff import diff_runs
    from toolkit.reports.diff_text import diff_markdown, print_diff

    found = diff_runs(Run.open(before, kind="eval"), Run.open(after, kind="eval"))
    if as_json:
        click.echo(found.model_dump_json(indent=1))
    elif as_markdown:
        click.echo(diff_markdown(found), nl=False)
    else:
        print_diff(found, file=sys.stdout)
    if fail_on_loss and found.worse:
        sys.exit(1)


LISTED = {kind if kind == "data" else "studies" if kind == "study" else f"{kind}s": kind for kind in FOLDERS}


@cli.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def inspect(path: Path, as_json: bool) -> None:
    """Measure how weights are distributed, layer by layer: of a checkpoint, an ONNX file or a run folder that holds some."""
    from toolkit.evaluation.weights import inspect_weights

    show_weights(inspect_weights(path), as_json=as_json)


@cli.command(
    params=[*config_options(DetectConfig), click.Option(["--json", "as_json"], is_flag=True, help="print JSON")]
)
def detect(as_json: bool, **values: Any) -> None:
    """Look for noise in training images: a linear model on what a blur takes away, against trusted clean images."""
    from toolkit.evaluation.detection import detect_noise

    config = read_config(DetectConfig, values)
    show_detection(detect_noise(config), name=config.poison or config.data.name, as_json=as_json)


@cli.command(name="list")
@click.argument("kind", type=click.Choice(list(LISTED)))
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def list_(kind: str, as_json: bool) -> None:
    """Show what is registered: attacks, data sets, models, engines, objectives, studies."""
    show_entries(entries(LISTED[kind]), as_json=as_json)


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def doctor(as_json: bool) -> None:
    """Say what is installed, what each engine can do here, and the one line that installs what is missing."""
    from toolkit.doctor import diagnose, print_diagnosis

    findings = diagnose()
    if as_json:
        click.echo(json.dumps([finding.__dict__ for finding in findings], indent=1))
    else:
        print_diagnosis(findings)


def main() -> None:
    """Run the command line; the exit status is 0 done, 1 gate failed, 2 usage or input, 3 missing, 4 our bug, 130 interrupted."""
    try:
        with joined():
            cli.main(standalone_mode=False)
    except (Exception, KeyboardInterrupt) as error:
        status, said = explain(error)
        tell(said)
        leave(status)


if __name__ == "__main__":
    main()

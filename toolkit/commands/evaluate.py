"""`eval`, `demo`, `report`, `merge`, `diff`: engines measured, and what is made of eval runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from edgeproof.commands.options import RUN_OPTIONS, config_options, read_config
from edgeproof.commands.printing import emit, finish_eval
from edgeproof.config import EvalConfig
from edgeproof.errors import ConfigError, RunError
from edgeproof.runs import Run
from edgeproof.stages import Place, merge_runs, run_stage, unpack
from edgeproof.stages import demo as run_demo
from edgeproof.system.files import refuse_links
from edgeproof.system.optional import check_installed


@click.command(
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
def eval_(
    bundle: Path | None,
    backends: tuple[str, ...],
    build: bool,
    out: Path | None,
    fresh: bool,
    as_json: bool,
    **values: Any,
) -> None:
    """Measure engines on the clean images and on adversarial sets; exit status 1 when a gate fails."""
    if not bundle and (backends or build):
        raise ConfigError("--backend and --build are for the graphs of a bundle; add --bundle FILE.zip")
    base = unpack(bundle, backends=backends, build=build) if bundle else {}
    config = read_config(EvalConfig, values, base=base)
    run = run_stage("eval", config, Place(out, fresh), inputs={"bundle": bundle} if bundle else {})
    finish_eval(run, as_json=as_json)


@click.command(params=RUN_OPTIONS)
def demo(out: Path | None, fresh: bool, as_json: bool) -> None:
    """Train, attack, export, evaluate and report on handwritten digits, in about a minute and without a download."""
    check_installed("torch", "sklearn", "onnxscript", "onnxconverter_common", "onnxruntime", purpose="run the demo")
    finish_eval(run_demo(Place(out, fresh)), as_json=as_json)


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
def report(run: Path) -> None:
    """Write the report of an eval run again, from its files only."""
    from edgeproof.reports.write import write_reports

    folder = Run.open(run, kind="eval")
    refuse_links(folder.path)
    write_reports(folder)
    folder.amend(("report.html", "report.md", "junit.xml"))
    click.echo(str(folder.path / "report.html"))


@click.command(
    params=[click.Argument(["shards"], nargs=-1, required=True, type=click.Path(path_type=Path)), *RUN_OPTIONS]
)
def merge(shards: tuple[Path, ...], out: Path | None, fresh: bool, as_json: bool) -> None:
    """Join the runs of `attack --shard I/N`, or of `eval --shard I/N`, into the run of the whole."""
    run = merge_runs(shards, Place(out, fresh))
    if run.kind == "eval":
        finish_eval(run, as_json=as_json)
    else:
        emit(run, as_json=as_json)


@click.command()
@click.argument("before", type=click.Path(path_type=Path))
@click.argument("after", type=click.Path(path_type=Path))
@click.option("--fail-on-loss", is_flag=True, help="exit status 1 when accuracy was lost significantly anywhere")
@click.option("--markdown", "as_markdown", is_flag=True, help="print Markdown, for a pull request")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def diff(before: Path, after: Path, fail_on_loss: bool, as_markdown: bool, as_json: bool) -> None:
    """Compare two eval runs by engine, set and class, paired where their images are the same, with significance."""
    from edgeproof.reports.diff import diff_runs
    from edgeproof.reports.diff_text import diff_markdown, print_diff

    found = diff_runs(Run.open(before, kind="eval"), Run.open(after, kind="eval"))
    if as_json:
        click.echo(found.model_dump_json(indent=1))
    elif as_markdown:
        click.echo(diff_markdown(found), nl=False)
    else:
        print_diff(found, file=sys.stdout)
    if not fail_on_loss:
        return
    if found.worse:
        sys.exit(1)
    if found.unlike:
        change = found.unlike[0]
        raise RunError(
            f"--fail-on-loss cannot judge {change.engine} on {change.set!r} ({len(found.unlike)} of {len(found.overall)} "
            f"comparisons are not of like with like): {change.unlike}"
        )

"""`study`: a command for each registered study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeproof.commands.options import RUN_OPTIONS, PluginGroup, given_params, introduction, plugin_options
from edgeproof.commands.printing import emit
from edgeproof.config import parse_assignments
from edgeproof.plugins.registry import Entry
from edgeproof.runs import Run
from edgeproof.stages import interruptible
from edgeproof.system.environment import usable_cores
from edgeproof.system.optional import check_installed


def study_command(entry: Entry) -> click.Command:
    """Make the command of one study: its own parameters first, then how it is run."""

    def run(
        preset: str,
        chosen_seeds: tuple[int, ...],
        overrides: tuple[str, ...],
        processes: int,
        ray: bool,
        document: Path | None,
        out: Path | None,
        fresh: bool,
        as_json: bool,
        **values: Any,
    ) -> None:
        from edgeproof.studies.base import run_study, study_params

        if not ray:
            check_installed("torch", "scipy", purpose="run a study")
        given = {**parse_assignments(overrides), **given_params(entry, values)}
        if chosen_seeds:
            given["seeds"] = chosen_seeds
        params = study_params(entry, preset=preset, given=given)
        config = {"study": entry.name, "params": params}
        outs: list[Run] = []
        with interruptible(outs), Run.start("study", entry.name, config=config, out=out, fresh=fresh) as folder:
            outs.append(folder)
            results = run_study(entry, params, out=folder, processes=processes, ray=ray, document=document)
        click.echo(f"report: {folder.path / 'report.html'}", err=True)
        emit(folder, as_json=as_json, verdicts=[verdict.model_dump() for verdict in results.verdicts])

    return click.Command(
        entry.name,
        params=[*plugin_options(entry, taken=[*STUDY_OPTIONS, *RUN_OPTIONS]), *STUDY_OPTIONS, *RUN_OPTIONS],
        callback=run,
        help=introduction(entry.help),
        short_help=entry.summary,
    )


STUDY_OPTIONS = [
    click.Option(
        ["--preset"],
        default="small",
        show_default=True,
        help="smoke (seconds), small, medium where there is one, or paper",
    ),
    click.Option(["--seed", "chosen_seeds"], type=int, multiple=True, help="seed of the trainings; repeatable"),
    click.Option(["--set", "overrides"], multiple=True, metavar="KEY=VALUE", help="set any parameter of the study"),
    click.Option(["--processes"], type=click.IntRange(1), default=min(usable_cores(), 4), help="jobs at a time"),
    click.Option(
        ["--ray"], is_flag=True, help="run them on Ray: RAY_ADDRESS, or what runs here, else a cluster of its own"
    ),
    click.Option(
        ["--document"], type=click.Path(path_type=Path), help="write the Markdown here too, figures next to it"
    ),
]


@click.group(cls=PluginGroup, plugins="study", make=study_command)
def study() -> None:
    """Run a study: its trainings and attacks as resumable jobs, then verdicts on its claims."""

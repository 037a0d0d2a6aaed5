"""What a study is, and how it is run: jobs, then findings, then `study.json`, `study.md` and `report.html`.

A study is a function in a file of this folder:

    @register("name", presets={"smoke": {...}, "small": {...}, "paper": {...}})
    def name(*, seeds: tuple[int, ...] = (0,), ...) -> Study:

A preset is what it sets of the parameters; `smoke` takes seconds and is run by the tests.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeproof.config import Strict, format_eps
from edgeproof.errors import ConfigError, nearest
from edgeproof.plugins.parameters import read_params
from edgeproof.plugins.registry import Entry
from edgeproof.reports import numbers
from edgeproof.reports.document import Document, Section, write_html, write_markdown
from edgeproof.reports.tables import Cell, Column, Table, Tone
from edgeproof.runs import Run, write_text
from edgeproof.studies.jobs import Job, run_jobs
from edgeproof.studies.verdicts import OVER_SEEDS, Effect, Verdict

SCHEMA_VERSION = 1
RESULTS = "study.json"
_TONES: Mapping[str, Tone] = {"held": "good", "not held": "bad", "undecided": ""}


@dataclass(frozen=True)
class Findings:
    """What a study has found; a pure function of its jobs' folders.

    Attributes:
        verdicts: The claims.
        cells: What was measured: JSON objects that carry their counts and their seed.
        sections: Of the document, after the verdicts.
    """

    verdicts: tuple[Verdict, ...]
    cells: tuple[Mapping[str, Any], ...]
    sections: tuple[Section, ...]


@dataclass(frozen=True)
class Study:
    """A study ready to run.

    Attributes:
        jobs: What is to be done, in the order in which it is begun where it may be.
        collect: Makes the findings of the finished jobs, by name.
    """

    jobs: tuple[Job, ...]
    collect: Callable[[Mapping[str, Run]], Findings]


class StudyResults(Strict):
    """`study.json`. It holds no times and no paths, so that repeating a study gives the same bytes."""

    schema_version: int = SCHEMA_VERSION
    study: str
    params: dict[str, Any]
    verdicts: tuple[Verdict, ...]
    cells: tuple[dict[str, Any], ...]


def study_params(entry: Entry, *, preset: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a study's parameters: the preset's over the defaults, and what was given over both.

    Raises:
        ConfigError: For an unknown preset or parameter, or a value that does not fit.
    """
    presets = entry.options["presets"]
    if preset not in presets:
        raise ConfigError(
            f"study {entry.name!r} has no preset {preset!r}{nearest(preset, presets)}; known: {', '.join(presets)}"
        )
    return read_params(entry, {**presets[preset], **given})


def run_study(
    entry: Entry,
    params: Mapping[str, Any],
    *,
    out: Run,
    processes: int,
    ray: bool = False,
    document: Path | None = None,
) -> StudyResults:
    """Do what is left of a study and write what it found; of a finished study only the latter is made again.

    Args:
        entry: The study.
        params: As `study_params` gives them.
        out: Its folder.
        processes: Jobs at a time.
        ray: Do them on a Ray cluster, not in processes of this machine.
        document: Another place for the Markdown, its figures beside it.

    Raises:
        ConfigError: When the study cannot be meant, before anything runs.
        StudyError: When jobs have failed.
    """
    study: Study = entry.load()(**params)
    runs = run_jobs(study.jobs, folder=out.path, processes=processes, ray=ray, title=f"study {entry.name}")
    found = study.collect(runs)
    cells = tuple(dict(cell) for cell in found.cells)
    results = StudyResults(study=entry.name, params=dict(params), verdicts=found.verdicts, cells=cells)
    told = _document(entry, params, found)
    write_text(out.path / RESULTS, results.model_dump_json(indent=1) + "\n")
    written = write_markdown(told, out.path / "study.md")
    write_html(told, out.path / "report.html")
    if document:
        write_markdown(told, document)
    if out.done:
        out.amend((RESULTS, "report.html", *(file.name for file in written)))
    else:
        out.apart("jobs", "logs")
    return results


def _document(entry: Entry, params: Mapping[str, Any], found: Findings) -> Document:
    verdicts = Section("Verdicts", (_LEGEND, verdict_table(found.verdicts)))
    about = entry.help.split("\n\n")
    return Document(
        title=about[0].rstrip("."),
        lede=" ".join(about[1].split()) if len(about) > 2 else "",
        sections=(verdicts, *found.sections, Section("Settings", (_settings(params),))),
        command=command_line(entry, params),
    )


def _settings(params: Mapping[str, Any]) -> str:
    """Say in one line what all parameters were."""

    def told(name: str, value: Any) -> str:
        if isinstance(value, tuple):
            return ", ".join(told(name, each) for each in value) or "none"
        if isinstance(value, bool):
            return "yes" if value else "no"
        return "none" if value is None else format_eps(value) if name.endswith("eps") else str(value)

    return f"{'; '.join(f'{name} {told(name, value)}' for name, value in params.items())}."


_LEGEND = (
    "A claim is an effect above its threshold, which is 0 where none stands. Held: the whole 95 % interval lies above; not held: it lies below; undecided: it does "
    "neither, or there is no interval. The interval is Student's t on one value a seed, where nothing else is said; within "
    "one seed it is over the images of a single training, and says nothing about other trainings. Single cases in the notes are those "
    "above the threshold."
)


def verdict_table(verdicts: Sequence[Verdict]) -> Table:
    """Return the verdicts as a table; the columns behind the interval only where there is something to say."""
    columns = (
        Column("Verdict", numeric=False), Column("Claim", numeric=False), Column("Effect"), Column("95 % interval"),
        Column("Threshold"), Column("Notes", numeric=False), Column("Published", numeric=False),
    )  # fmt: skip
    rows = [
        (
            Cell(verdict.outcome, tone=_TONES[verdict.outcome]),
            Cell(verdict.claim),
            Cell(_amount(verdict.effect)),
            Cell(_interval(verdict.effect), _method(verdict.effect)),
            Cell(numbers.points(verdict.threshold) if verdict.threshold else ""),
            Cell(verdict.note),
            Cell(verdict.published),
        )
        for verdict in verdicts
    ]
    kept = [place for place in range(len(columns)) if place < 4 or any(row[place].text for row in rows)]
    return Table(
        columns=tuple(columns[place] for place in kept), rows=tuple(tuple(row[place] for place in kept) for row in rows)
    )


def command_line(entry: Entry, params: Mapping[str, Any]) -> str:
    """Return the command that runs a study with these parameters, without what is the default."""
    defaults = {param.name: param.default for param in entry.params}
    words = ["edgeproof", "study", entry.name]
    for name, value in params.items():
        if value != defaults[name]:
            text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            words += [f"--{name.replace('_', '-')}", text]
    return shlex.join(words)


def _amount(effect: Effect) -> str:
    if effect.value is None:
        return numbers.UNDEFINED
    return f"{_number(effect.value, effect)} {effect.unit}".rstrip()


def _number(value: float, effect: Effect) -> str:
    """Write percentages and points with one decimal, and what has no unit with three."""
    return numbers.points(value) if effect.unit else numbers.plain(value)


def _method(effect: Effect) -> str:
    """Say in a few words where an interval comes from, where it is not from the seeds."""
    return "" if effect.method == OVER_SEEDS else effect.method.partition(":")[0]


def _interval(effect: Effect) -> str:
    if effect.low is None or effect.high is None:
        return ""
    return f"{_number(effect.low, effect)} to {_number(effect.high, effect)}"

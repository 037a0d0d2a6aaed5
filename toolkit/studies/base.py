"""The record of a study, and its run: jobs, then findings, then `study.json`, `study.md` and `report.html`.

A study is a class in `NAME/study.py`, whose fields are the parameters of the study:

    @register("name", presets={"smoke": {...}, "small": {...}, "paper": {...}})
    @dataclass(frozen=True, kw_only=True)
    class Name:
        seeds: tuple[int, ...] = (0,)
        ...
        def jobs(self) -> Sequence[Job]: ...
        def findings(self, runs: Mapping[str, Run]) -> Findings: ...

A preset is what it sets of the parameters; `smoke` takes seconds and is run by the tests.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from edgeproof.config import Strict, format_eps
from edgeproof.errors import ConfigError, nearest
from edgeproof.plugins.parameters import read_params
from edgeproof.plugins.registry import Entry
from edgeproof.reports import numbers
from edgeproof.reports.document import Document, Section, write_html, write_markdown
from edgeproof.reports.tables import Cell, Column, Table, Tone
from edgeproof.runs import Run, write_text
from edgeproof.studies.jobs import Job
from edgeproof.studies.schedule import run_jobs
from edgeproof.studies.verdicts import OVER_SEEDS, Effect, Verdict

LOG = logging.getLogger(__name__)
SCHEMA_VERSION = 1
RESULTS = "study.json"
_TONES: Mapping[str, Tone] = {"held": "good", "not held": "bad", "undecided": ""}


@dataclass(frozen=True)
class Findings:
    """The findings of a study; a pure function of its jobs' folders.

    Attributes:
        verdicts: The claims.
        rows: What was measured: JSON objects that carry their counts and their seed.
        sections: Of the document, after the verdicts.
    """

    verdicts: tuple[Verdict, ...]
    rows: tuple[Mapping[str, Any], ...]
    sections: tuple[Section, ...]


class Study(Protocol):
    """A study with its parameters, ready to run."""

    def jobs(self) -> Sequence[Job]:
        """Return what is to be done, in the order in which it is begun where it may be."""

    def findings(self, runs: Mapping[str, Run]) -> Findings:
        """Return what the finished jobs show; they are given by name."""


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
    presets, former = entry.options["presets"], entry.options.get("former", {})
    name, more = former.get(preset, (preset, {}))
    if name not in presets:
        raise ConfigError(
            f"study {entry.name!r} has no preset {preset!r}{nearest(preset, presets)}; known: {', '.join(presets)}"
        )
    params = read_params(entry, {**presets[name], **more, **given})
    if preset in former:
        now = shlex.join(["--preset", name, *_words(more)])
        LOG.warning(f"edgeproof: preset {preset!r} is now: edgeproof study {entry.name} {now}")
    return params


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
        document: Another place for the Markdown, its figures next to it.

    Raises:
        ConfigError: When its jobs cannot be run as they are given, before any begins.
        StudyError: When jobs have failed.
    """
    study: Study = entry.load()(**params)
    runs = run_jobs(study.jobs(), folder=out.path, processes=processes, ray=ray, title=f"study {entry.name}")
    found = study.findings(runs)
    cells = tuple(dict(row) for row in found.rows)
    results = StudyResults(study=entry.name, params=dict(params), verdicts=found.verdicts, cells=cells)
    about = entry.help.split("\n\n")
    written = Document(
        title=about[0].rstrip("."),
        lede=" ".join(about[1].split()) if len(about) > 2 else "",
        sections=(verdict_section(found.verdicts), *found.sections, settings_section(params)),
        command=command_line(entry, params),
    )
    write_text(out.path / RESULTS, results.model_dump_json(indent=1) + "\n")
    files = write_markdown(written, out.path / "study.md")
    write_html(written, out.path / "report.html")
    if document:
        write_markdown(written, document)
    if out.done:
        out.amend((RESULTS, "report.html", *(file.name for file in files)))
    else:
        out.apart("jobs", "logs")
    return results


def settings_section(params: Mapping[str, Any]) -> Section:
    """Return one line with the values of all parameters."""

    def text(name: str, value: Any) -> str:
        if isinstance(value, tuple):
            return ", ".join(text(name, each) for each in value) or "none"
        if isinstance(value, bool):
            return "yes" if value else "no"
        return "none" if value is None else format_eps(value) if name.endswith("eps") else str(value)

    return Section("Settings", (f"{'; '.join(f'{name} {text(name, value)}' for name, value in params.items())}.",))


_LEGEND = (
    "Each claim says that an effect is larger than a threshold, which is 0 unless the table names another. Held: the "
    "whole 95 % interval of the effect lies above the threshold. Not held: the whole interval lies below it. Undecided: "
    "the interval contains the threshold, or there is no interval. Intervals are Student's t over seeds, one value per "
    "seed, unless the table says otherwise. An interval within one seed is over the images of a single training and "
    "says nothing about other trainings. A note such as 8 of 9 counts in how many single cases the effect is larger "
    "than the threshold."
)


def verdict_section(verdicts: Sequence[Verdict]) -> Section:
    """Return the verdicts as a table; the columns after the interval only where one of them has something there."""

    def amount(value: float | None, effect: Effect) -> str:
        """Write percentages and points with one decimal, and what has no unit with three."""
        return numbers.points(value) if effect.unit else numbers.plain(value)

    def interval(effect: Effect) -> Cell:
        method = "" if effect.method == OVER_SEEDS else effect.method.partition(":")[0]
        if effect.low is None or effect.high is None:
            return Cell("", method)
        return Cell(f"{amount(effect.low, effect)} to {amount(effect.high, effect)}", method)

    columns = (
        Column("Verdict", numeric=False),
        Column("Claim", numeric=False),
        Column("Effect"),
        Column("95 % interval"),
        Column("Threshold"),
        Column("Notes", numeric=False),
        Column("Published", numeric=False),
    )
    rows = [
        (
            Cell(verdict.outcome, tone=_TONES[verdict.outcome]),
            Cell(verdict.claim),
            Cell(
                numbers.UNDEFINED
                if verdict.effect.value is None
                else f"{amount(verdict.effect.value, verdict.effect)} {verdict.effect.unit}".rstrip()
            ),
            interval(verdict.effect),
            Cell(numbers.points(verdict.threshold) if verdict.threshold else ""),
            Cell(verdict.note),
            Cell(verdict.published),
        )
        for verdict in verdicts
    ]
    kept = [place for place in range(len(columns)) if place < 4 or any(row[place].text for row in rows)]
    shown = Table(
        columns=tuple(columns[place] for place in kept), rows=tuple(tuple(row[place] for place in kept) for row in rows)
    )
    return Section("Verdicts", (_LEGEND, shown))


def command_line(entry: Entry, params: Mapping[str, Any]) -> str:
    """Return the command that runs a study with these parameters, without what is the default."""
    defaults = {param.name: param.default for param in entry.params}
    changed = {name: value for name, value in params.items() if value != defaults[name]}
    return shlex.join(["edgeproof", "study", entry.name, *_words(changed)])


def _words(params: Mapping[str, Any]) -> Iterator[str]:
    """Write parameters as words of a command line."""
    for name, value in params.items():
        text = ",".join(map(str, value)) if isinstance(value, tuple) else "none" if value is None else str(value)
        yield from (f"--{name.replace('_', '-')}", text)

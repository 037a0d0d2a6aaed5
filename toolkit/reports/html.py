"""`report.html`: one file that needs nothing beside it, no script and no network."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from edgeproof.evaluation.results import SetRecord
from edgeproof.reports import dispersion, forms, tables, wording
from edgeproof.reports.content import EvalRun, adversarial_sets, clean_set, worst_cell
from edgeproof.reports.figures.class_bars import set_bars
from edgeproof.reports.figures.confusion import set_confusions
from edgeproof.reports.figures.curves import accuracy_over_eps, sweeps
from edgeproof.reports.figures.frontier import frontier
from edgeproof.reports.figures.gallery import Picture, pictures
from edgeproof.reports.figures.svg import Figure
from edgeproof.reports.figures.transfer import transfer_map
from edgeproof.reports.tables import Table

if TYPE_CHECKING:
    from jinja2 import Environment


@dataclass(frozen=True)
class SetSection:
    """What the page shows of one adversarial set."""

    name: str
    opened: bool
    bars: tuple[Figure, ...]
    classes: Table
    confusions: tuple[Figure, ...]
    pictures: tuple[Picture, ...]


def render_html(run: EvalRun) -> str:
    """Return the page of an eval run."""
    results = run.results
    chosen = adversarial_sets(results)
    worst = worst_cell(results, results.reference)
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            results=results,
            tables=tables,
            forms=forms,
            dispersion=dispersion,
            wording=wording,
            command=run.command,
            worst_set=worst.set if worst else clean_set(results).name,
            sections=[_section(run, set_, opened=bool(worst and set_.name == worst.set)) for set_ in chosen],
            clean_confusions=set_confusions(results, clean_set(results)),
            transfer=transfer_map(results) if chosen else None,
            sweeps=[accuracy_over_eps(results, sweep) for sweep in sweeps(results)],
            frontier=frontier(results),
        )
    )


@cache
def environment() -> Environment:
    """Return what the pages are made with: text is escaped, and a name that is missing is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("edgeproof.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _section(run: EvalRun, set_: SetRecord, *, opened: bool) -> SetSection:
    results = run.results
    return SetSection(
        name=set_.name,
        opened=opened,
        bars=set_bars(results, set_),
        classes=tables.classes(results, set_),
        confusions=set_confusions(results, set_),
        pictures=tuple(pictures(run, set_)),
    )

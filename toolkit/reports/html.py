"""`report.html`: one file that needs nothing else, no script and no network."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from edgeproof.reports import wording
from edgeproof.reports.content import EvalRun
from edgeproof.reports.sections import opening, parts_of

if TYPE_CHECKING:
    from jinja2 import Environment


def render_html(run: EvalRun) -> str:
    """Return the page of an eval run."""
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            results=run.results,
            wording=wording,
            command=run.command,
            opening=opening(run),
            parts=list(parts_of(run)),
            kind_of=lambda block: type(block).__name__,
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

"""`report.md`: the short form, for pull requests and terminals."""

from __future__ import annotations

import re

from edgeproof.reports import forms, tables, wording
from edgeproof.reports.content import EvalRun
from edgeproof.reports.dispersion import TITLE, dispersion
from edgeproof.reports.tables import Cell, Table

_SPECIAL = re.compile(r"([\\`*_\[\]<>|~#&])")


def render_markdown(run: EvalRun) -> str:
    """Return the short report: verdict, warnings, every engine on every set, the weakest classes."""
    results = run.results
    parts = [f"# {escape(wording.title(results))}", escape(wording.scope(results)), f"**{wording.verdict(results)}**"]
    if results.gates:
        parts.append(table(tables.gates(results)))
    parts.append(table(tables.headline(results)))
    if results.warnings:
        parts += ["## Read this before the numbers", "\n".join(f"- {escape(text)}" for text in results.warnings)]
    parts += ["## Every engine on every set", table(tables.accuracies(results))]
    if any(set_.kind == "adversarial" for set_ in results.sets):
        parts += ["## Weakest classes, each engine on its worst set", table(tables.weakest_classes(results))]
    if dispersion(results).rows:
        parts += [f"## {TITLE}", table(dispersion(results))]
    if results.worst:
        parts += ["## The worst attack of a budget, image by image", table(tables.worst_cases(results))]
    if results.gaps:
        parts += ["## What knowing more of an engine gains", table(tables.gaps(results))]
    if results.masking:
        parts += [f"## {wording.MASKING}", table(tables.masking(results))]
    if results.pairs and len(results.engines) > 2:
        parts += ["## Every two engines", escape(forms.verdict(results))]
        parts += [table(forms.differing(results))] if forms.differing(results).rows else []
    if forms.has_conduct(results):
        parts += ["## How the engines compute", table(forms.conduct(results))]
    if results.costs:
        parts += ["## What mistakes cost", escape(wording.costs(results)), table(tables.costs(results))]
    fence = "```"
    parts += ["## How to repeat it", f"{fence}sh\n{run.command}\n{fence}"]
    return "\n\n".join(parts) + "\n"


def table(data: Table) -> str:
    """Return a table in GitHub's Markdown."""
    heads = [escape(column.title) for column in data.columns]
    rules = ["--:" if column.numeric else ":--" for column in data.columns]
    rows = [heads, rules, *([_cell(cell) for cell in row] for row in data.rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def escape(text: str) -> str:
    """Return text that Markdown shows as it is."""
    return _SPECIAL.sub(r"\\\1", text)


def _cell(cell: Cell) -> str:
    text = escape(cell.text)
    text = f"**{text}**" if cell.tone else text
    return f"{text} ({escape(cell.detail)})" if cell.detail else text

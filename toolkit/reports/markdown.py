"""`report.md`: the short form, for pull requests and terminals."""

from __future__ import annotations

import re

from edgeproof.reports import wording
from edgeproof.reports.content import EvalRun
from edgeproof.reports.sections import Block, Bullets, Shown, opening, parts_of
from edgeproof.reports.tables import Cell, Table

_SPECIAL = re.compile(r"([\\`*_\[\]<>|~#&])")


def render_markdown(run: EvalRun) -> str:
    """Return the short report: the verdict, and the sections of the page that a pull request needs."""
    results = run.results
    blocks = [f"# {escape(wording.title(results))}", escape(wording.scope(results)), f"**{wording.verdict(results)}**"]
    blocks += map(_block, opening(run))
    for part in parts_of(run):
        if part.short:
            blocks += [f"## {escape(part.title)}", *filter(None, map(_block, part.blocks))]
    return "\n\n".join([*blocks, repeated(run.command)]) + "\n"


def repeated(command: str) -> str:
    """Return the last section of a report or document: the command that makes it again."""
    return f"## How to repeat it\n\n```sh\n{command}\n```"


def table(data: Table) -> str:
    """Return a table in GitHub's Markdown."""
    heads = [escape(column.title) for column in data.columns]
    rules = ["--:" if column.numeric else ":--" for column in data.columns]
    rows = [heads, rules, *([_cell(cell) for cell in row] for row in data.rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def escape(text: str) -> str:
    """Return text that Markdown shows as it is."""
    return _SPECIAL.sub(r"\\\1", text)


def _block(block: Block) -> str:
    """Return a block as Markdown, empty for what only the page has."""
    if isinstance(block, str):
        return escape(block)
    if isinstance(block, Bullets):
        return "\n".join(f"- {escape(text)}" for text in block.texts)
    if isinstance(block, (Table, Shown)):
        return table(block if isinstance(block, Table) else block.table)
    return ""


def _cell(cell: Cell) -> str:
    text = escape(cell.text)
    text = f"**{text}**" if cell.tone else text
    return f"{text} ({escape(cell.detail)})" if cell.detail else text

"""A document of text, tables and figures: Markdown with SVG files next to it, or one page that needs nothing next to it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from edgeproof.reports.figures.svg import Figure
from edgeproof.reports.html import environment
from edgeproof.reports.markdown import escape, repeated, table
from edgeproof.reports.tables import Table
from edgeproof.runs import write_text

#: A paragraph (plain text), a table or a figure.
Block: TypeAlias = str | Table | Figure


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Document:
    """A title, a first paragraph, sections and the command that makes it again."""

    title: str
    lede: str
    sections: tuple[Section, ...]
    command: str

    def figures(self) -> Iterator[Figure]:
        """Go through the figures in their order."""
        for section in self.sections:
            yield from (block for block in section.blocks if isinstance(block, Figure))


def write_markdown(document: Document, path: Path) -> tuple[Path, ...]:
    """Write the document as Markdown, and its figures as `<stem>-1.svg` and so on next to it; return what was written."""
    files = {path.with_name(f"{path.stem}-{n}.svg"): figure for n, figure in enumerate(document.figures(), start=1)}
    for file, figure in files.items():
        write_text(file, standalone(figure))
    names = iter(file.name for file in files)
    parts = [f"# {escape(document.title)}", escape(document.lede)]
    for section in document.sections:
        parts.append(f"## {escape(section.title)}")
        parts += [_markdown(block, names) for block in section.blocks]
    write_text(path, "\n\n".join([*parts, repeated(document.command)]) + "\n")
    return (path, *files)


def write_html(document: Document, path: Path) -> None:
    """Write the document as one page."""
    write_text(path, environment().get_template("document.html.j2").render(document=document, kind=block_kind))


def block_kind(block: Block) -> str:
    """Return "text", "table" or "figure"."""
    return "text" if isinstance(block, str) else "table" if isinstance(block, Table) else "figure"


def standalone(figure: Figure) -> str:
    """Return a figure as an SVG file with its style inside."""
    source, _, _ = environment().loader.get_source(environment(), "figures.css")  # type: ignore[union-attr]
    head, _, body = figure.svg.partition(">")
    opened = head.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg" width="720"', 1)
    return f"{opened}><style>{source}</style>{body}\n"


def _markdown(block: Block, names: Iterator[str]) -> str:
    if isinstance(block, str):
        return escape(block)
    if isinstance(block, Table):
        return table(block)
    notes = "".join(f"\n- {escape(note)}" for note in block.notes)
    return f"![{escape(block.caption)}]({next(names)})\n\n{escape(block.caption)}" + (f"\n{notes}" if notes else "")

"""Tables in the terminal."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING

from edgeproof.evaluation.results import Results
from edgeproof.reports import tables, wording
from edgeproof.reports.numbers import visible
from edgeproof.reports.tables import Cell, Table

if TYPE_CHECKING:
    from rich.text import Text

_STYLES = {"": "", "good": "green", "bad": "bold red"}
_PIPE_WIDTH = 120  # columns, where there is no terminal to ask


def print_results(results: Results, *, file: IO[str] | None = None, width: int | None = None) -> None:
    """Print accuracies, engines x sets, then limits and warnings, when there are any, on stderr by default."""
    file = file or sys.stderr
    about = f"{results.data['name']}, {results.data['split']}"
    print_table(tables.accuracies(results), title=about, file=file, width=width)
    if results.worst:
        print_table(tables.worst_cases(results), title=wording.WORST, file=file, width=width)
    if results.gaps:
        _print_lines([wording.GAPS, *map(wording.gap_line, results.gaps)], file=file, width=width)
    if results.costs:
        print_table(tables.costs(results), title=wording.costs(results), file=file, width=width)
    if results.gates:
        print_table(tables.gates(results), title="Limits", file=file, width=width)
    lines = [wording.knowledge(results), wording.masking(results) if results.masking else ""]
    lines += [f"warning: {warning}" for warning in results.warnings]
    _print_lines([line for line in lines if line], file=file, width=width)


def print_table(table: Table, *, title: str, file: IO[str], width: int | None = None) -> None:
    """Print a table with rich, as wide as the terminal or `width` columns; names are text, whatever they hold, and escape what a terminal would obey."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    console = Console(file=file, width=width or (None if file.isatty() else _PIPE_WIDTH))
    grid = RichTable(
        title=Text(visible(title)),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_edge=width is None,
        collapse_padding=width is not None,
    )
    for place, column in enumerate(table.columns):
        # Where it is narrow, names and titles are folded, numbers never: one that is cut off reads as another.
        cells = [row[place] for row in table.rows]
        texts = [*column.title.split(), *(visible(text) for cell in cells for text in (cell.text, cell.detail))]
        grid.add_column(
            Text(column.title),
            justify="right" if column.numeric else "left",
            overflow="fold",
            no_wrap=column.numeric and width is None,
            width=max(map(len, texts), default=0) if width and column.numeric else None,
        )
    for head, rows in table.groups():
        for position, row in enumerate(rows):
            grid.add_row(*map(_text, (Cell("") if position else head, *row[1:])))
        if table.grouped:
            grid.add_section()
    console.print(grid)


def _print_lines(lines: Sequence[str], *, file: IO[str], width: int | None) -> None:
    for line in map(visible, lines):
        print(textwrap.fill(line, width, break_long_words=False) if width else line, file=file)


def _text(cell: Cell) -> Text:
    from rich.text import Text

    text = Text(visible(cell.text), style=_STYLES[cell.tone])
    return text.append(f" {visible(cell.detail)}", style="dim") if cell.detail else text

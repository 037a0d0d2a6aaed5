"""The output of `diff`: its tables, its sentences, in the terminal and in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import IO

from edgeproof.reports import markdown, numbers
from edgeproof.reports.diff import LEVEL, Change, Diff
from edgeproof.reports.tables import Cell, Column, Table
from edgeproof.reports.terminal import print_table

_SHOWN = 10  # classes, next to those that changed significantly


def print_diff(diff: Diff, *, file: IO[str], width: int | None = None) -> None:
    """Print both tables and the notes."""
    print_table(overall_table(diff), title=verdict(diff), file=file, width=width)
    print_table(class_table(diff), title=class_title(diff), file=file, width=width)
    for note in (*diff.notes, method(diff)):
        print(numbers.visible(note), file=file)


def diff_markdown(diff: Diff) -> str:
    """Return the comparison in Markdown, for a pull request."""
    title = f"# {markdown.escape(numbers.visible(f'{diff.before} against {diff.after}'))}"
    parts = [title, f"**{verdict(diff)}**", markdown.table(overall_table(diff))]
    parts += [f"## {class_title(diff)}", markdown.table(class_table(diff))]
    parts += [markdown.escape(note) for note in (*diff.notes, method(diff))]
    return "\n\n".join(parts) + "\n"


def verdict(diff: Diff) -> str:
    """Say in one sentence what was lost and gained."""
    changes = (*diff.overall, *diff.classes)
    lost = sum(change.worse for change in changes)
    gained = sum(change.significant for change in changes) - lost
    left_out = sum(bool(change.unlike) for change in changes)
    count = f"{len(changes) - left_out} comparisons"
    count += f" ({left_out} more are not of like with like)" if left_out else ""
    if not lost and not gained:
        return f"No significant change in {count}."
    return f"Significantly worse: {lost}, significantly better: {gained}, of {count}."


def method(diff: Diff) -> str:
    """Say how significance was decided."""
    test = "McNemar's exact test on the same images" if diff.paired else "Fisher's exact test on different images"
    return f"{test}, corrected within each table by Holm's method; significant below {LEVEL:g}. Intervals hold 95 %, uncorrected."


def overall_table(diff: Diff) -> Table:
    """Each engine on each set, over all classes."""
    return _table(diff, diff.overall, first=())


def class_table(diff: Diff) -> Table:
    """The classes that changed significantly, then those that lost most."""
    known = [change for change in diff.classes if change.difference is not None]
    ranked = sorted(known, key=lambda change: (not change.significant, change.difference))
    significant = sum(change.significant for change in known)
    return _table(diff, ranked[: max(significant, _SHOWN)], first=(Column("Class", numeric=False),))


def class_title(diff: Diff) -> str:
    """Name the table of classes by what it leaves out."""
    shown = len(class_table(diff).rows)
    return f"Classes: {shown} of {len(diff.classes)}, significant changes first, then the largest losses"


def _table(diff: Diff, changes: Sequence[Change], *, first: tuple[Column, ...]) -> Table:
    counts = ("Lost", "Gained") if diff.paired else ()
    titles = ("Before", "After", "Change, points", *counts, "p, corrected")
    columns = (Column("Set", numeric=False), Column("Engine", numeric=False), *first, *map(Column, titles))
    rows = tuple(_row(change, named=bool(first)) for change in changes)
    return Table(columns=(*columns, Column("Verdict", numeric=False)), rows=rows, grouped=not first)


def _row(change: Change, *, named: bool) -> tuple[Cell, ...]:
    counts = [] if change.lost is None else [Cell(str(change.lost)), Cell(str(change.gained))]
    name = [Cell(change.class_name or "")] if named else []
    rates = [Cell(numbers.percent(rate.value)) for rate in (change.before, change.after)]
    p_holm = Cell("–" if change.p_holm is None else numbers.p_value(change.p_holm))
    if change.difference is None or change.low is None or change.high is None:
        difference = Cell(numbers.UNDEFINED)
    else:
        low, high = numbers.points(100 * change.low), numbers.points(100 * change.high)
        difference = Cell(numbers.points(100 * change.difference), f"{low} to {high}")
    if change.unlike:
        word = Cell("not alike")
    elif not change.significant:
        word = Cell("–")
    else:
        word = Cell("worse", tone="bad") if change.worse else Cell("better", tone="good")
    threats = dict.fromkeys(threat for threat in (change.before_threat, change.after_threat) if threat)
    set_ = Cell(
        change.set if change.set_after is None else f"{change.set}, then {change.set_after}", ", then ".join(threats)
    )
    return (set_, Cell(change.engine), *name, *rates, difference, *counts, p_holm, word)

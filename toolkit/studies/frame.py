"""The measurements of a study, as rows, and the numbers that findings and tables are made of.

A row is a plain dict: what was measured (the network, the attack, ...), at which `seed`, and its counts, `{"hits": 3, "total": 40}`
each. `study.json` holds the rows as they are, without what is marked as not to be saved.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from statistics import mean, stdev
from typing import Any, TypeAlias

from edgeproof.errors import StudyError
from edgeproof.evaluation.metrics import Rate
from edgeproof.reports.tables import Cell, Column, Table

Row: TypeAlias = Mapping[str, Any]
#: A number of a row; None where it is undefined.
Measure: TypeAlias = Callable[[Row], float | None]


def where(rows: Iterable[Row], **wanted: Any) -> list[Row]:
    """Return the rows that have all of these values."""
    return [row for row in rows if all(key in row and row[key] == value for key, value in wanted.items())]


def distinct(rows: Iterable[Row], key: str) -> list[Any]:
    """Return the different values of a column, in the order in which they come first."""
    return list(dict.fromkeys(row[key] for row in rows if key in row))


def counts(rate: Rate) -> dict[str, int]:
    """Return a rate as rows hold it."""
    return {"hits": rate.hits, "total": rate.total}


def rate(row: Row, key: str) -> Rate:
    """Return the counts of a row as a rate."""
    return Rate(row[key]["hits"], row[key]["total"])


def percent(key: str) -> Measure:
    """Return the measure that gives a rate of a row in per cent."""

    def measure(row: Row) -> float | None:
        value = rate(row, key).value
        return None if value is None else 100 * value

    return measure


def values(rows: Iterable[Row], measure: Measure) -> list[float]:
    """Return the number of each row for which it is defined."""
    return [value for row in rows if (value := measure(row)) is not None]


def seed_means(rows: Iterable[Row], measure: Measure) -> dict[int, float]:
    """Return the mean for each seed, over the rows of that seed for which the measure is defined."""
    by_seed: dict[int, list[float]] = {}
    for row in rows:
        if (value := measure(row)) is not None:
            by_seed.setdefault(row["seed"], []).append(value)
    return {seed: mean(found) for seed, found in by_seed.items()}


def across(choose: Callable[[Iterable[float]], float], columns: Sequence[Mapping[int, float]]) -> dict[int, float]:
    """Return one number for each seed, such as the `max`, of several that are all known at the same seeds.

    Raises:
        StudyError: When one of them is missing at a seed.
    """
    seeds = {seed for column in columns for seed in column}
    missing = sorted(seed for seed in seeds if not all(seed in column for column in columns))
    if missing:
        raise StudyError(
            f"seeds {', '.join(map(str, missing))} were measured on one side of a comparison only; expected both; "
            "run the study again with --fresh"
        )
    return {seed: choose([column[seed] for column in columns]) for seed in (columns[0] if columns else ())}


def gains(before: Mapping[int, float], after: Mapping[int, float]) -> list[float]:
    """Return, for each seed, how much higher a number is after than before.

    Raises:
        StudyError: When one of them is missing at a seed.
    """
    across(max, (before, after))
    return [after[seed] - value for seed, value in before.items()]


def saved(
    rows: Iterable[Row], *, without: Collection[str] = (), digits: Mapping[str, int] | None = None
) -> tuple[dict[str, Any], ...]:
    """Return the rows as `study.json` holds them.

    Args:
        rows: As they were measured.
        without: Columns that are left out, such as predictions image by image.
        digits: Decimals of the columns that are rounded.
    """
    places = digits or {}

    def rounded(value: Any, decimals: int) -> Any:
        return [round(each, decimals) for each in value] if isinstance(value, Sequence) else round(value, decimals)

    return tuple(
        {
            key: rounded(value, places[key]) if key in places else value
            for key, value in row.items()
            if key not in without
        }
        for row in rows
    )


def mean_cell(found: Sequence[float], *, digits: int = 1, missing: str = "–") -> Cell:
    """Return a mean with the standard deviation over seeds next to it, where there are several."""
    if not found:
        return Cell(missing)
    return Cell(f"{mean(found):.{digits}f}", f"± {stdev(found):.{digits}f}" if len(found) > 1 else "")


def table(
    texts: Sequence[str], titles: Sequence[str], rows: Iterable[Sequence[Cell | str]], *, grouped: bool = False
) -> Table:
    """Return a table.

    Args:
        texts: Headings of the columns of text, which come first.
        titles: Headings of the columns of numbers.
        rows: Their cells, or the texts of them.
        grouped: Whether rows with the same first cell belong together.
    """
    return Table(
        columns=(*(Column(text, numeric=False) for text in texts), *map(Column, titles)),
        rows=tuple(tuple(Cell(cell) if isinstance(cell, str) else cell for cell in row) for row in rows),
        grouped=grouped,
    )

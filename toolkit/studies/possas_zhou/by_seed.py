"""Numbers of a cell, one a seed, and how a mean of them is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import mean
from typing import TypeAlias

from edgeproof.evaluation.metrics import Rate, drop_points, relative_difference
from edgeproof.reports import numbers
from edgeproof.reports.tables import Cell as Entry
from edgeproof.studies.possas_zhou.cells import Cell, Key, Measured

Number: TypeAlias = Callable[[Cell], float | None]


def values(measured: Sequence[Measured], target: str, key: Key, number: Number) -> list[float]:
    """Return a number of a cell for each seed where it is defined; the balanced network has no different-model cell."""
    found = [number(one.cells[key]) for one in measured if one.target == target and key in one.cells]
    return [value for value in found if value is not None]


def clean(cell: Cell) -> float | None:
    """Accuracy without the attack, in per cent."""
    return percent(cell.clean_accuracy)


def attacked(cell: Cell) -> float | None:
    """Accuracy under the attack, in per cent."""
    return percent(cell.attacked_accuracy)


def relative(cell: Cell) -> float | None:
    """Relative difference, in per cent of the clean accuracy."""
    return relative_difference(cell.clean_accuracy, cell.attacked_accuracy)


def drop(cell: Cell) -> float | None:
    """Points lost."""
    return drop_points(cell.clean_accuracy, cell.attacked_accuracy)


def robust(cell: Cell) -> float | None:
    """Share of the rightly classified clean images that stay right, in per cent."""
    return percent(Rate.of((cell.attacked == cell.labels)[cell.clean == cell.labels]))


def percent(rate: Rate) -> float | None:
    """Return a rate in per cent."""
    return None if rate.value is None else 100 * rate.value


def average(found: Sequence[float]) -> float | None:
    """Return the mean, or None of nothing."""
    return mean(found) if found else None


def entry(found: Sequence[float], known: float | None = None, *, signed: bool = False) -> Entry:
    """Write the mean of one value a seed, and beside it the published one."""
    detail = "" if known is None else f"paper {known:.3g}"
    if not found:
        return Entry(numbers.UNDEFINED, detail)
    sign = "+" if signed and mean(found) > 0 else ""
    return Entry(sign + numbers.points(mean(found)), detail)

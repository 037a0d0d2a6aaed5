"""Noise in training images: figures for one set of suspected images, or a row for each of several."""

from __future__ import annotations

from collections.abc import Mapping

from edgeproof.evaluation.detection import DetectRecord
from edgeproof.reports import numbers
from edgeproof.reports.tables import Cell, Column, Table

_TITLES = (
    "Separated from clean ones (AUC)",
    "p",
    "Flagged",
    "False alarms",
    "Class from residual",
    "Clean ones' class",
)
_SHORT = ("AUC", "p", "Flagged", "False alarms", "Class told", "of clean ones")


def detection_table(found: Mapping[str, DetectRecord]) -> Table:
    """Return what a linear model finds in each set of images, by name."""
    rows = tuple((Cell(name), *_cells(each)) for name, each in found.items())
    return Table(columns=(Column("Images", numeric=False), *map(Column, _SHORT)), rows=rows)


def detection_list(found: DetectRecord) -> Table:
    """Return the same of one set of images, a row per figure."""
    looked = f"{found.flagged.total} suspected, {found.false_alarms.total} trusted"
    measured = zip(_TITLES, _cells(found), strict=True)
    rows = ((Cell("Measured on"), Cell(looked)), *((Cell(title), cell) for title, cell in measured))
    return Table(columns=(Column("", numeric=False), Column("")), rows=rows)


def _cells(found: DetectRecord) -> tuple[Cell, ...]:
    chance = f"{found.p_value:.2g}" if found.p_value >= 1e-4 else "< 0.0001"
    rates = (found.flagged, found.false_alarms, found.labels_suspected, found.labels_trusted)
    return (
        Cell(f"{found.auc:.3f}"),
        Cell(chance),
        *(Cell(numbers.percent(rate.value), numbers.interval(rate)) for rate in rates),
    )

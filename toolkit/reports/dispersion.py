"""The spread of predictions under a universal perturbation over the classes, as a table."""

from __future__ import annotations

from edgeproof.evaluation.results import CellRecord, Results
from edgeproof.reports import numbers
from edgeproof.reports.tables import Cell, Column, Table

TITLE = "How universal perturbations spread the predictions"


def dispersion(results: Results) -> Table:
    """Each universal set, engine by engine: images that change class, how few classes they end in, and the classes' errors."""
    titles = ("Fooling ratio", "Most predicted", "Top three", "Entropy / log K", "Class error, least", "most", "std")
    rows = [
        (Cell(set_.name), Cell(engine.name), *_cells(results.cell(engine.name, set_.name), results))
        for set_ in results.sets
        for engine in results.engines
        if set_.access == "data"
    ]
    heads = (Column("Set", numeric=False), Column("Engine", numeric=False), *map(Column, titles))
    return Table(columns=heads, rows=tuple(rows), grouped=True)


def _cells(cell: CellRecord, results: Results) -> tuple[Cell, ...]:
    spread, fooling = cell.dispersion, cell.fooling
    if spread is None or fooling is None:
        return (Cell("–"),) * 7
    errors = (spread.class_error_min, spread.class_error_max, spread.class_error_std)
    return (
        Cell(numbers.percent(fooling.value), numbers.interval(fooling)),
        Cell(numbers.percent(spread.top1.value), results.classes[spread.dominant]),
        Cell(numbers.percent(spread.top3.value)),
        Cell(numbers.ratio(spread.entropy)),
        *(Cell(numbers.percent(error)) for error in errors),
    )

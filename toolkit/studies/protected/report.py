"""The tables and figures of the study of protected classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from edgeproof.evaluation.weights import LayerRecord, became_min_max
from edgeproof.reports import numbers
from edgeproof.reports.document import Section
from edgeproof.reports.figures.axes import LEFT, RIGHT, Axes
from edgeproof.reports.figures.svg import Figure, colour, dash
from edgeproof.reports.tables import Cell, Column, Table
from edgeproof.reports.weights import histogram, layer_cells, layer_columns
from edgeproof.studies.frame import Row, distinct, mean_cell, seed_means, table, where
from edgeproof.studies.protected.findings import (
    FP32,
    INT8,
    INT8_ENGINE,
    TRANSFER,
    all_classes,
    protected_class,
    scored,
)
from edgeproof.studies.protected.published import published_sections
from edgeproof.studies.protected.rows import ROWS

_TITLES: Mapping[str, str] = {
    "clean": "Clean",
    "fgsm": "FGSM",
    "pgd": "PGD",
    "temperature": "PGD, temperature",
    "square": "Square",
    "deepfool": "DeepFool",
    "cw": "C&W",
    INT8: "PGD on INT8",
    TRANSFER: "PGD from normal",
}
_TOLERANCE = 2.0  # points by which an attack must be stronger before it counts as an indicator
#: Columns of the tables of accuracies, as many as fit next to each other.
_PARTS = (("clean", "fgsm", "pgd", "temperature", "square"), (TRANSFER, "deepfool", "cw"))
_ENGINES = {FP32: "FP32", "ort-fp16": "FP16", INT8_ENGINE: "INT8 (trt)", "ort-int8-cpu": "INT8 (cpu)"}

_ACCURACY = (
    "Per cent of all classes / of the protected class, FP32. Each attack is white-box on the row's own network, but for PGD from normal, "
    "whose images were made on the row of that name; DeepFool and C&W have the L2 budget, all others L-infinity. A mean "
    "over all classes gives every class the same weight."
)
_DEPLOYED = (
    "The same, of the exported graphs. PGD's images were made on the row's FP32 network, those of PGD on INT8 on its own INT8 graph "
    "(trt) with straight-through gradients."
)
_COSTS = (
    "Expected cost of an image under the published matrix (both sides), and images of other classes that are taken for the protected "
    "one, in per cent; FP32."
)
_MASKING = (
    "An attack that should not be stronger than PGD at the same budget is an indicator of masked gradients when it is "
    f"stronger by more than {_TOLERANCE:g} points of all classes. The other indicators are those that the eval runs "
    "report (docs/masking.md), with the number of trainings that have them; one is accuracy above chance at a budget of "
    "0.5, within which every image can become grey."
)
_SHAPE = (
    "Means over seeds. A row is more Min-Max than what it starts from where kurtosis and Hoyer sparsity rise and the "
    "largest weight does not "
    "fall; a fallen largest weight is shrinkage. SQNR is that of the INT8 weights (trt: one scale an output channel)."
)
_WEIGHTS = "Histograms from minus to plus the largest weight of each."


def sections(
    scores: Sequence[Row], layers: Sequence[Row], indicators: Sequence[Row], *, data: str
) -> tuple[Section, ...]:
    """Return the tables and figures.

    Args:
        scores: One row for each engine of each training on each set.
        layers: The first convolution of each training.
        indicators: Indicators of masked gradients that eval runs report, a row for each.
        data: Name of the data set.
    """
    first = {row: where(layers, row=row)[0] for row in distinct(layers, "row")}
    pictures = [
        histogram(layer["weight"], title=f"conv1 of {row}, seed {layer['seed']}", position=place)
        for place, (row, layer) in enumerate(first.items())
    ]
    return (
        Section("Accuracy under attack", (_ACCURACY, *(accuracies(scores, part) for part in _PARTS))),
        *published_sections(data),
        Section("Deployed forms", (_DEPLOYED, deployed(scores))),
        Section("What mistakes cost", (_COSTS, costs(scores))),
        Section("Indicators of masked gradients", (_MASKING, masking(scores, indicators))),
        Section("Shape of the first convolution", (_SHAPE, shapes(layers), _over_training(first))),
        Section("Its weights", (_WEIGHTS, *pictures)),
    )


def accuracies(scores: Sequence[Row], columns: Sequence[str]) -> Table:
    """Accuracy of all classes and of the protected class, FP32."""
    rows = [(row, *(_both(scores, row, column) for column in columns)) for row in distinct(scores, "row")]
    return table(("Training",), [_TITLES[column] for column in columns], rows)


def deployed(scores: Sequence[Row]) -> Table:
    """The same of each deployed form."""
    columns = ("clean", "pgd", INT8)
    rows = [
        (row, title, *(_both(scores, row, column, engine=engine) for column in columns))
        for row in distinct(scores, "row")
        for engine, title in _ENGINES.items()
    ]
    return table(("Training", "Engine"), [_TITLES[column] for column in columns], rows, grouped=True)


def costs(scores: Sequence[Row]) -> Table:
    """Expected cost of an image, and images of other classes that are taken for the protected one."""

    def cell(row: str, column: str, key: str, digits: int) -> Cell:
        found = seed_means(scored(scores, row, column), lambda score: float(score[key]))
        return mean_cell(list(found.values()), digits=digits, missing=numbers.UNDEFINED)

    measures = (("expected_cost", 2), ("false_alarm_percent", 1))
    rows = [
        (row, *(cell(row, column, key, digits) for key, digits in measures for column in ("clean", "pgd")))
        for row in distinct(scores, "row")
    ]
    return table(("Training",), ("Cost, clean", "Cost, PGD", "False alarms, clean", "False alarms, PGD"), rows)


def masking(scores: Sequence[Row], indicators: Sequence[Row]) -> Table:
    """Accuracy that a budget of 0.5 leaves, and the indicators of masked gradients of each row."""
    rows = []
    for row in distinct(scores, "row"):
        found = list(masking_indicators(scores, indicators, row))
        left = list(seed_means(scored(scores, row, "large"), all_classes).values())
        large = mean_cell(left, missing=numbers.UNDEFINED)
        rows.append((Cell(row), large, Cell("; ".join(found) or "none", tone="bad" if found else "good")))
    columns = (Column("Training", numeric=False), Column("Accuracy at 0.5"), Column("Indicators", numeric=False))
    return Table(columns=columns, rows=tuple(rows))


def masking_indicators(scores: Sequence[Row], indicators: Sequence[Row], row: str) -> Iterator[str]:
    """Say which attacks leave less than PGD though they should not, and what the eval runs of a row report."""
    by_column = {column: seed_means(scored(scores, row, column), all_classes) for column in _TITLES}
    left = {column: mean(found.values()) for column, found in by_column.items() if found}
    for column in ("fgsm", "temperature", "square", TRANSFER):
        if column in left and left[column] < left["pgd"] - _TOLERANCE:
            yield f"{_TITLES[column]} leaves {left[column]:.1f}, PGD {left['pgd']:.1f}"
    reported = [found["indicator"] for found in where(indicators, row=row)]
    for name in dict.fromkeys(reported):
        yield f"{name} ({reported.count(name)} of {len(scored(scores, row, 'clean'))})"


def shapes(layers: Sequence[Row]) -> Table:
    """How the weights of the first convolution are distributed, row by row."""
    shown = []
    for row in distinct(layers, "row"):
        mine, start = where(layers, row=row), ROWS[row].start
        became = "–"
        if start:
            before = [each["epochs"][-1] for each in where(layers, row=start)]
            after = [each["epochs"][-1] for each in mine]
            held = [became_min_max([a], [b])[0].holds for a, b in zip(before, after, strict=True)]
            became = f"{sum(held)} of {len(held)}"
        means: dict[str, Any] = {}
        for key in ("kurtosis", "hoyer", "near_zero", "max_abs", "max_over_median", "penalty"):
            found = [each["layer"][key] for each in mine]
            means[key] = None if None in found else mean(found)
        layer = LayerRecord.model_validate({**mine[0]["layer"], **means})
        noise = mean(each["int8_sqnr_db"] for each in mine)
        shown.append((Cell(row), *layer_cells(layer), Cell(became), Cell(f"{noise:.1f}")))
    first, last = Column("Training", numeric=False), Column("Min-Max", numeric=False)
    return Table(columns=(first, *layer_columns(), last, Column("INT8 SQNR, dB")), rows=tuple(shown))


def _over_training(first: Mapping[str, Row]) -> Figure:
    """Draw Hoyer sparsity over the epochs of every row, each from where the row that it starts from has ended."""
    title = "Hoyer sparsity of conv1 over training"
    axes = Axes(title=title, description="In per cent of its largest value, 1; the first seed.", names=list(first))
    ends: dict[str | None, tuple[int, float | None]] = {None: (0, None)}
    for row, layer in sorted(first.items(), key=lambda item: list(ROWS).index(item[0])):
        ends[row] = (ends[ROWS[row].start][0] + len(layer["epochs"]), layer["layer"]["hoyer"])
    longest = max(epoch for epoch, _ in ends.values())
    places = {epoch: LEFT + (RIGHT - LEFT) * epoch / longest for epoch in range(longest + 1)}
    axes.across({x: str(epoch) for epoch, x in places.items()}, name="epochs, those of the start included")
    for place, ((row, layer), (x, y)) in enumerate(zip(first.items(), axes.legend(), strict=True)):
        begun, hoyer = ends[ROWS[row].start]
        values = [hoyer, *(epoch.hoyer for epoch in layer["epochs"])]
        points = [(places[begun + step], axes.up(value)) for step, value in enumerate(values) if value is not None]
        axes.drawing.polyline(points, f"curve {colour(place)}", dash=dash(place))
        axes.drawing.polyline([(x - 10, y), (x + 10, y)], f"curve {colour(place)}", dash=dash(place))
    return Figure(title, str(axes.drawing))


def _both(scores: Sequence[Row], row: str, column: str, *, engine: str = FP32) -> Cell:
    """Write the accuracy of all classes and of the protected class, means over seeds."""
    mine = scored(scores, row, column, engine=engine)
    pairs = [list(seed_means(mine, measure).values()) for measure in (all_classes, protected_class)]
    if not mine:
        return Cell("–")
    spread = f"± {' / '.join(f'{stdev(found):.1f}' for found in pairs)}" if len(pairs[0]) > 1 else ""
    return Cell(" / ".join(f"{mean(found):.1f}" for found in pairs), spread)

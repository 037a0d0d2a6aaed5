"""The Min-Max property in the study of protected classes: how the first convolution is distributed, row by row."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from edgeproof.evaluation.weights import LayerRecord, became_min_max, read_weights
from edgeproof.reports.document import Section
from edgeproof.reports.figures.axes import LEFT, RIGHT, Axes
from edgeproof.reports.figures.svg import Figure, colour, dash
from edgeproof.reports.tables import Cell, Column, Table
from edgeproof.reports.weights import histogram, layer_cells, layer_columns
from edgeproof.runs import Run
from edgeproof.studies.protected_jobs import ROWS, Protocol
from edgeproof.studies.verdicts import Verdict, judge, over_seeds
from edgeproof.types import Array

#: What the paper compares, each followed by its equal-epoch control, and the shape against plain weight decay.
_STEPS = (
    ("normal", "adv"), ("normal-continued", "adv"), ("adv", "csa-both"), ("adv-continued", "csa-both"),
    ("adv-continued", "csa-miss"), ("l2-conv1", "cse"),
)  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """The first convolution of one training.

    Attributes:
        row: The way of training.
        seed: Of the training.
        label: The protected class.
        weight: Of the checkpoint, (out, in, H, W).
        int8: The same as the INT8 graph (trt) computes with.
        epochs: Measures of it, epoch by epoch.
    """

    row: str
    seed: int
    label: int
    weight: Array
    int8: Array
    epochs: tuple[LayerRecord, ...]

    @property
    def last(self) -> LayerRecord:
        """The measures of the checkpoint."""
        return self.epochs[-1]

    @property
    def sqnr_db(self) -> float:
        """Signal to quantisation noise of the INT8 weights, in decibels; infinite without noise."""
        noise = float(np.square(self.int8 - self.weight).sum())
        return 10 * float(np.log10(np.square(self.weight).sum() / noise)) if noise else float("inf")

    def record(self) -> dict[str, Any]:
        """Return what `study.json` holds of it."""
        about = {"row": self.row, "seed": self.seed, "protected": self.label, "int8_sqnr_db": round(self.sqnr_db, 4)}
        return {**about, "layer": self.last.model_dump()}


@dataclass(frozen=True)
class Shapes:
    """Every row's first convolution; `std` is what images are divided by, the mean over channels and seeds."""

    found: tuple[Shape, ...]
    std: float

    def of(self, row: str) -> list[Shape]:
        """Return those of a row, seed by seed and class by class."""
        return [each for each in self.found if each.row == row]

    def records(self) -> tuple[dict[str, Any], ...]:
        """Return what `study.json` holds of them."""
        return tuple(each.record() for each in self.found)

    def verdicts(self) -> Iterator[Verdict]:
        """Judge whether the first convolution becomes more Min-Max, and by what."""
        for first, second in _STEPS:
            if self.of(first) and self.of(second):
                for name, measure in (("Hoyer sparsity", _hoyer), ("Kurtosis", _kurtosis)):
                    effect = over_seeds(self._rise(first, second, measure), unit="")
                    yield judge(f"{name} of conv1 is higher in {second} than in {first}.", effect)

    def _rise(self, first: str, second: str, measure: Callable[[LayerRecord], float]) -> list[float]:
        pairs = [
            (a.seed, measure(b.last) - measure(a.last)) for a, b in zip(self.of(first), self.of(second), strict=True)
        ]
        return [mean(value for at, value in pairs if at == seed) for seed in dict.fromkeys(seed for seed, _ in pairs)]


def read_shapes(runs: Mapping[str, Run], protocol: Protocol) -> Shapes:
    """Read the first convolution of every training."""
    found = tuple(
        _shape(runs, protocol, row=row, seed=seed, label=label)
        for seed in protocol.seeds
        for label in protocol.protect
        for row in protocol.rows
    )
    checkpoints = [runs[protocol.trained("normal", seed=seed, label=protocol.protect[0])] for seed in protocol.seeds]
    return Shapes(found, mean(_std(run.file("model.safetensors")) for run in checkpoints))


def _shape(runs: Mapping[str, Run], protocol: Protocol, *, row: str, seed: int, label: int) -> Shape:
    name = protocol.trained(row, seed=seed, label=label)
    history = json.loads(runs[name].file("history.json").read_text(encoding="utf-8"))
    return Shape(
        row=row,
        seed=seed,
        label=label,
        weight=_first(runs[name].file("model.safetensors")),
        int8=_first(runs[f"{name}--export"].file("model.int8-trt.onnx")),
        epochs=tuple(LayerRecord.model_validate(epoch["layers"][0]) for epoch in history["epochs"]),
    )


def _first(path: Path) -> Array:
    return next(weight for weight in read_weights(path).values() if weight.ndim == 4)


def _std(checkpoint: Path) -> float:
    from edgeproof.models.base import load_classifier

    return float(load_classifier(checkpoint).std.mean())


def shape_sections(shapes: Shapes, protocol: Protocol) -> tuple[Section, ...]:
    """Return the tables and figures of the first convolution."""
    first = {row: shapes.of(row)[0] for row in protocol.rows}
    pictures = [
        histogram(shape.weight, title=f"conv1 of {row}, seed {shape.seed}", position=place)
        for place, (row, shape) in enumerate(first.items())
    ]
    return (
        Section("Shape of the first convolution", (_SHAPE, _table(shapes, protocol), _over_training(first))),
        Section("Its weights", (_WEIGHTS, *pictures)),
    )


_SHAPE = (
    "Means over seeds. A row is more Min-Max than what it starts from where kurtosis and Hoyer sparsity rise and the largest weight does not "
    "fall; a fallen largest weight is shrinkage. SQNR is that of the INT8 weights (trt: one scale an output channel)."
)
_WEIGHTS = "Histograms from minus to plus the largest weight of each."


def _table(shapes: Shapes, protocol: Protocol) -> Table:
    columns = (
        Column("Training", numeric=False),
        *layer_columns(),
        Column("Min-Max", numeric=False),
        Column("INT8 SQNR, dB"),
    )
    return Table(columns=columns, rows=tuple(_row(shapes, row) for row in protocol.rows))


def _row(shapes: Shapes, row: str) -> tuple[Cell, ...]:
    mine, start = shapes.of(row), ROWS[row].start
    held = "–"
    if start:
        became = [became_min_max([a.last], [b.last])[0].holds for a, b in zip(shapes.of(start), mine, strict=True)]
        held = f"{sum(became)} of {len(became)}"
    return (
        Cell(row),
        *layer_cells(_mean_layer([each.last for each in mine])),
        Cell(held),
        Cell(f"{mean(each.sqnr_db for each in mine):.1f}"),
    )


def _mean_layer(layers: list[LayerRecord]) -> LayerRecord:
    """Return the mean of each measure, null where it is null for any."""
    means: dict[str, Any] = {}
    for name in ("kurtosis", "hoyer", "near_zero", "max_abs", "max_over_median", "penalty"):
        values = [getattr(layer, name) for layer in layers]
        means[name] = None if None in values else mean(values)
    return layers[0].model_copy(update=means)


def _over_training(first: Mapping[str, Shape]) -> Figure:
    """Draw Hoyer sparsity over the epochs of every row, each from where the row that it starts from has ended."""
    title = "Hoyer sparsity of conv1 over training"
    axes = Axes(title=title, description="In per cent of its largest value, 1; the first seed.", names=list(first))
    ends: dict[str | None, tuple[int, float | None]] = {None: (0, None)}
    for row, shape in sorted(first.items(), key=lambda item: list(ROWS).index(item[0])):
        ends[row] = (ends[ROWS[row].start][0] + len(shape.epochs), shape.last.hoyer)
    longest = max(epoch for epoch, _ in ends.values())
    places = {epoch: LEFT + (RIGHT - LEFT) * epoch / longest for epoch in range(longest + 1)}
    axes.across({x: str(epoch) for epoch, x in places.items()}, name="epochs, those of the start included")
    for place, ((row, shape), (x, y)) in enumerate(zip(first.items(), axes.legend(), strict=True)):
        begun, hoyer = ends[ROWS[row].start]
        values = [hoyer, *(layer.hoyer for layer in shape.epochs)]
        points = [(places[begun + step], axes.up(value)) for step, value in enumerate(values) if value is not None]
        axes.drawing.polyline(points, f"curve {colour(place)}", dash=dash(place))
        axes.drawing.polyline([(x - 10, y), (x + 10, y)], f"curve {colour(place)}", dash=dash(place))
    return Figure(title, str(axes.drawing))


def _hoyer(layer: LayerRecord) -> float:
    return layer.hoyer if layer.hoyer is not None else 0.0


def _kurtosis(layer: LayerRecord) -> float:
    return layer.kurtosis if layer.kurtosis is not None else 0.0

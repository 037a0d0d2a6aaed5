"""The distribution of weights: tables and histograms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeproof.evaluation.weights import LayerRecord
from edgeproof.reports import numbers
from edgeproof.reports.figures.axes import LEFT, RIGHT, Axes
from edgeproof.reports.figures.svg import Figure, colour
from edgeproof.reports.tables import Cell, Column, Table
from edgeproof.types import Array

_BINS = 41  # odd, so that zero is the middle of one
_TITLES = ("Weights", "Kurtosis", "Hoyer sparsity", "Under 1 % of max", "Largest", "Largest / median", "R = L1 − L2")


def layer_table(layers: Sequence[LayerRecord]) -> Table:
    """Return the measures of each layer."""
    rows = tuple((Cell(layer.layer, layer.tensor), *layer_cells(layer)) for layer in layers)
    return Table(columns=(Column("Layer", numeric=False), *layer_columns()), rows=rows)


def layer_columns() -> tuple[Column, ...]:
    """Return the headings of `layer_cells`."""
    return tuple(map(Column, _TITLES))


def layer_cells(layer: LayerRecord) -> tuple[Cell, ...]:
    """Return the measures of one layer."""
    return (
        Cell(str(layer.count)),
        Cell(numbers.points(layer.kurtosis)),
        Cell(numbers.ratio(layer.hoyer)),
        Cell(numbers.percent(layer.near_zero)),
        Cell(f"{layer.max_abs:.3f}"),
        Cell(numbers.ratio(layer.max_over_median)),
        Cell(f"{layer.penalty:.2f}"),
    )


def histogram(weight: Array, *, title: str, position: int = 0) -> Figure:
    """Draw the weights of a layer as a histogram from minus to plus the largest one.

    Args:
        weight: Of any shape.
        title: Names layer and checkpoint.
        position: Chooses the colour.
    """
    w = weight.astype(np.float64).ravel()
    largest = float(np.abs(w).max(initial=0.0)) or 1.0
    counts, _ = np.histogram(w, bins=_BINS, range=(-largest, largest))
    shares = counts / max(len(w), 1)
    ceiling = max(np.ceil(20 * shares.max()) / 20, 0.05)
    about = f"Share of {len(w)} weights in {_BINS} bins from {-largest:.3g} to {largest:.3g}; the fullest holds {shares.max():.0%}."
    axes = Axes(title=title, description=about, names=[f"{len(w)} weights"], ceiling=float(ceiling))
    width = (RIGHT - LEFT) / _BINS
    for place, share in enumerate(shares):
        top = axes.up(float(share))
        axes.drawing.rect(
            LEFT + place * width, top, 0.9 * width, axes.up(0.0) - top, colour(position), tip=f"{share:.1%}"
        )
    middle = (LEFT + RIGHT) / 2
    axes.across({LEFT: f"{-largest:.2g}", middle: "0", RIGHT: f"{largest:.2g}"}, name="weight")
    for x, y in axes.legend():
        axes.drawing.rect(x - 8, y - 5, 16, 10, colour(position))
    return Figure(title, str(axes.drawing))

"""Confusion matrices: the classes that the images of each class are predicted as."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeproof.evaluation.results import EngineRecord, Results, SetRecord
from edgeproof.reports.content import shown_classes
from edgeproof.reports.figures.svg import WIDTH, Drawing, Figure, png_uri, shorten, text_width
from edgeproof.types import Array

_RIGHT = np.array([47, 111, 176], np.uint8)  # the diagonal; both colours are legible on light and on dark
_WRONG = np.array([200, 84, 27], np.uint8)
_MAX_NAME = 80.0  # units
_MAX_CELL = 56.0  # two classes need no larger cells
_MIN_NAMED = 9.0  # units of height under which a row gets no name of its own, but every tenth its number
_MIN_COUNTED = 19.0  # units of width under which a cell gets no number


@dataclass(frozen=True)
class _Grid:
    """The place of a matrix of `count` cells of `side` units; `edge` units on the left and above are for names."""

    count: int
    edge: float
    side: float

    @property
    def length(self) -> float:
        return self.side * self.count

    def middle(self, position: int) -> float:
        return self.edge + self.side * (position + 0.5)


def confusion(results: Results, engine: EngineRecord, set_: SetRecord) -> Figure:
    """The confusion matrix of a cell among the classes that are shown: rows are true classes, columns predictions."""
    cell, shown = results.cell(engine.name, set_.name), shown_classes(results, set_)
    place = {label: position for position, label in enumerate(shown)}
    counts = np.zeros((len(shown), len(shown)), np.int64)
    for true, predicted, images in cell.confusion:
        if true in place and predicted in place:
            counts[place[true], place[predicted]] = images
    return confusion_matrix(
        counts,
        tuple(results.classes[label] for label in shown),
        title=f"{engine.name} on {set_.name}",
        totals=np.array([max(cell.rate(label).total, 1) for label in shown]),
    )


def confusion_matrix(counts: Array, classes: tuple[str, ...], *, title: str, totals: Array | None = None) -> Figure:
    """Draw counts (K, K): rows are true classes, columns predictions, shades the shares of a row.

    Args:
        counts: Whole numbers.
        classes: The name of each class.
        title: What is confused.
        totals: (K,) images of each class, where some have no prediction (default: the sums of the rows).
    """
    sizes = np.maximum(counts.sum(axis=1), 1) if totals is None else totals
    grid, notes = _fit(classes), _mistakes(counts, sizes, classes)
    drawing = Drawing(
        grid.edge + grid.length + 4,
        title=f"{title}: confusion matrix",
        description=f"Rows are true classes, columns predictions. Most frequent mistakes: {'; '.join(notes) or 'none'}.",
    )
    shares = counts / sizes[:, None]
    drawing.rect(grid.edge, grid.edge, grid.length, grid.length, "frame")
    drawing.image(grid.edge, grid.edge, grid.length, grid.length, png_uri(_tinted(shares)))
    _names(drawing, grid, classes)
    if grid.side >= _MIN_COUNTED:
        for i, j in np.argwhere(counts):
            style = "count inverse" if shares[i, j] > 0.5 else "count"
            drawing.text(grid.middle(j), grid.middle(i) + 3.5, str(counts[i, j]), style)
    return Figure(title, str(drawing), notes)


def set_confusions(results: Results, set_: SetRecord) -> tuple[Figure, ...]:
    """The confusion matrices of every engine on one set."""
    return tuple(confusion(results, engine, set_) for engine in results.engines)


def _mistakes(counts: Array, totals: Array, names: tuple[str, ...], *, count: int = 3) -> tuple[str, ...]:
    wrong = counts - np.diag(np.diag(counts))
    order = np.argsort(-wrong, axis=None, kind="stable")[:count]
    places = [divmod(int(flat), len(counts)) for flat in order]
    return tuple(f"{names[i]} as {names[j]}: {wrong[i, j]} of {totals[i]}" for i, j in places if wrong[i, j])


def _fit(names: tuple[str, ...]) -> _Grid:
    edge = min(max(map(text_width, names)), _MAX_NAME) + 8
    if (WIDTH - edge) / len(names) < _MIN_NAMED:
        edge = 30.0
    return _Grid(len(names), edge, min((WIDTH - edge - 4) / len(names), _MAX_CELL))


def _tinted(shares: Array) -> Array:
    """Colour a matrix of shares (K, K): hue by right or wrong, opacity by share, so that it suits any background."""
    pixels = np.empty((*shares.shape, 4), np.uint8)
    pixels[..., :3] = _WRONG
    pixels[np.eye(len(shares), dtype=bool), :3] = _RIGHT
    # The square root keeps a few images in a hundred visible.
    pixels[..., 3] = np.rint(255 * np.sqrt(shares))
    return pixels


def _names(drawing: Drawing, grid: _Grid, names: tuple[str, ...]) -> None:
    named = grid.side >= _MIN_NAMED
    for position in range(0, len(names), 1 if named else 10):
        name = shorten(names[position], grid.edge - 8) if named else str(position)
        drawing.text(grid.edge - 5, grid.middle(position) + 3.5, name, "end")
        drawing.text(grid.middle(position) + 3.5, grid.edge - 5, name, tilt=-90)

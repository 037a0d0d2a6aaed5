"""The frame that figures with two axes share: accuracy upwards, something else across, a legend under it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from edgeproof.reports.figures.svg import WIDTH, Drawing, text_width

LEFT, RIGHT = 46.0, WIDTH - 12
_TOP, _HEIGHT = 12.0, 190.0
_LEGEND_TOP, _LEGEND_ROW, _SYMBOL = _TOP + _HEIGHT + 52, 18.0, 26.0


class Axes:
    """A drawing with an accuracy axis from 0 to `ceiling` (a fraction) and room for a legend of `names`."""

    def __init__(self, *, title: str, description: str, names: Sequence[str], ceiling: float = 1.0) -> None:
        self._places = _legend_places(names)
        self._names = names
        self._ceiling = ceiling
        height = _LEGEND_TOP + max(y for _, y in self._places) + _LEGEND_ROW / 2
        self.drawing = Drawing(height, title=title, description=description)
        for share in (0.0, 0.25, 0.5, 0.75, 1.0):
            y = self.up(share * ceiling)
            self.drawing.line(LEFT, y, RIGHT, y, "grid")
            self.drawing.text(LEFT - 6, y + 4, f"{100 * share * ceiling:g} %", "muted end")

    def up(self, share: float) -> float:
        """Return the height of an accuracy."""
        return _TOP + _HEIGHT * (1 - share / self._ceiling)

    def across(self, marks: Mapping[float, str], *, name: str) -> None:
        """Draw the other axis: its marks (units from the left to text), as many as fit, and its name."""
        end = -math.inf
        for x, label in sorted(marks.items()):
            self.drawing.line(x, _TOP + _HEIGHT, x, _TOP + _HEIGHT + 4, "axis")
            half = text_width(label) / 2
            if x - half >= end + 4:
                self.drawing.text(min(x, WIDTH - half), _TOP + _HEIGHT + 16, label, "muted middle")
                end = x + half
        self.drawing.text((LEFT + RIGHT) / 2, _TOP + _HEIGHT + 33, name, "muted middle")

    def legend(self) -> list[tuple[float, float]]:
        """Write the names and return where the symbol of each belongs: its middle."""
        for name, (x, y) in zip(self._names, self._places, strict=True):
            self.drawing.text(x + _SYMBOL, _LEGEND_TOP + y + 4, name)
        return [(x + _SYMBOL / 2 - 3, _LEGEND_TOP + y) for x, y in self._places]


def _legend_places(names: Sequence[str]) -> list[tuple[float, float]]:
    """Return where each name goes, left to right and then down."""
    places: list[tuple[float, float]] = []
    x, y = LEFT, 0.0
    for name in names:
        width = text_width(name) + _SYMBOL + 12
        if x + width > WIDTH and x > LEFT:
            x, y = LEFT, y + _LEGEND_ROW
        places.append((x, y))
        x += width
    return places

"""Two measures against each other: series of points, the dominated ones pale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgeproof.reports import numbers
from edgeproof.reports.figures.axes import LEFT, RIGHT, Axes
from edgeproof.reports.figures.svg import Figure, colour, dash

_CEILINGS = (0.1, 0.2, 0.4, 0.6, 1.0)


@dataclass(frozen=True)
class Place:
    """A point of a series: what it is, where it lies (fractions), and whether it is drawn pale."""

    name: str
    up: float
    across: float
    faint: bool = False


def tradeoff(caption: str, series: Mapping[str, Sequence[Place]], *, up: str, across: str, description: str) -> Figure:
    """Draw each series as a curve through its points, which are named.

    Args:
        caption: Over the figure.
        series: Name to its points, in the order of the curve.
        up: What the upward axis shows.
        across: What the other one shows.
        description: For those who do not see it.
    """
    places = [place for points in series.values() for place in points]
    ceiling = next(top for top in _CEILINGS if top >= max(place.up for place in places) or top == 1)
    low, high = min(place.across for place in places), max(place.across for place in places)
    reach = max(high - low, 0.01)
    axes = Axes(title=caption, description=description, names=list(series), ceiling=ceiling)

    def right(value: float) -> float:
        return LEFT + 10 + (RIGHT - LEFT - 20) * (value - low) / reach

    marks = {right(low + reach * share): f"{low + reach * share:.2f}" for share in (0.0, 0.25, 0.5, 0.75, 1.0)}
    axes.across(marks, name=f"{across}; upwards: {up}")
    for position, ((name, points), key) in enumerate(zip(series.items(), axes.legend(), strict=True)):
        line = [(right(place.across), axes.up(place.up)) for place in points]
        axes.drawing.polyline(line, f"curve {colour(position)}", dash=dash(position))
        axes.drawing.polyline(
            [(key[0] - 10, key[1]), (key[0] + 10, key[1])], f"curve {colour(position)}", dash=dash(position)
        )
        for place, (x, y) in zip(points, line, strict=True):
            tip = f"{name} {place.name}: {numbers.percent(place.up)}, {place.across:.3f}"
            axes.drawing.circle(x, y, 3.2, f"{colour(position)}{' pale' if place.faint else ''}", tip=tip)
            axes.drawing.text(x + 5, y - 4, place.name, "muted")
    return Figure(caption, str(axes.drawing))

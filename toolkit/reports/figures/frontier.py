"""Robustness against throughput: which engine gives how much of both."""

from __future__ import annotations

import math

from edgeproof.evaluation.metrics import Rate
from edgeproof.evaluation.results import Results
from edgeproof.reports import numbers
from edgeproof.reports.content import worst_cell
from edgeproof.reports.figures.axes import LEFT, RIGHT, Axes
from edgeproof.reports.figures.svg import Drawing, Figure, colour

_CEILINGS = (0.1, 0.2, 0.4, 1.0)  # of the accuracy axis: what INT8 costs is seen where little accuracy is left, too
_RADIUS = 7.0


def frontier(results: Results) -> Figure | None:
    """Worst robust accuracy against images per second, one point per engine; None when fewer than two were timed."""
    timed = [
        (position, worst.accuracy, engine.throughput.images_per_s)
        for position, engine in enumerate(results.engines)
        if engine.throughput and (worst := worst_cell(results, engine.name)) and worst.accuracy.value is not None
    ]
    if len(timed) < 2:
        return None
    title = "Worst robust accuracy against throughput"
    axes = Axes(
        title=title,
        description="One point per engine; up and to the right is better; bars are 95 % intervals.",
        names=[results.engines[position].name for position, *_ in timed],
        ceiling=min(ceiling for ceiling in _CEILINGS if ceiling >= max(rate.high or 0.0 for _, rate, _ in timed)),
    )
    places = _across(axes, [speed for *_, speed in timed])
    for (position, rate, speed), x, key in zip(timed, places, axes.legend(), strict=True):
        tip = f"{results.engines[position].name}: {numbers.percent(rate.value)}, {numbers.per_second(speed)} images/s"
        _whisker(axes, rate, x)
        _disc(axes.drawing, x, axes.up(rate.value or 0.0), position, tip=tip)
        _disc(axes.drawing, *key, position)
    return Figure(title, str(axes.drawing))


def _across(axes: Axes, speeds: list[float]) -> list[float]:
    """Draw the axis of images/s, logarithmic with the marks 1, 2, 5, and return where each speed lies on it."""
    low, high = math.log10(min(speeds) / 1.6), math.log10(max(speeds) * 1.6)

    def place(speed: float) -> float:
        return LEFT + (RIGHT - LEFT) * (math.log10(speed) - low) / (high - low)

    powers = range(math.floor(low), math.ceil(high) + 1)
    marks = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    shown = {place(mark): f"{mark:,g}" for mark in marks if low <= math.log10(mark) <= high}
    axes.across(shown, name="images/s")
    return [place(speed) for speed in speeds]


def _whisker(axes: Axes, rate: Rate, x: float) -> None:
    if rate.low is not None and rate.high is not None:
        axes.drawing.line(x, axes.up(rate.low), x, axes.up(rate.high), "whisker")


def _disc(drawing: Drawing, x: float, y: float, position: int, *, tip: str = "") -> None:
    """Draw a numbered disc, so that colour is not the only key."""
    drawing.circle(x, y, _RADIUS, colour(position), tip=tip)
    drawing.text(x, y + 3.2, str(position + 1), "count paper")

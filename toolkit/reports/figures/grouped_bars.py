"""Bars in groups: the same few series for each of several things."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgeproof.reports import numbers
from edgeproof.reports.figures.svg import WIDTH, Drawing, Figure, colour, shorten, text_width

_TOP, _ROW, _GAP, _KEY = 24.0, 15.0, 9.0, 12.0
_MAX_NAME = 110.0  # units
_VALUE = 46.0  # units that the number at the end of a row takes


@dataclass(frozen=True)
class Bar:
    """A value in per cent, None where it is undefined; a range that is drawn as a whisker; and a paler value behind it."""

    value: float | None
    low: float | None = None
    high: float | None = None
    behind: float | None = None


def grouped_bars(
    caption: str,
    *,
    series: Sequence[str],
    groups: Mapping[str, Sequence[Bar]],
    description: str,
    notes: tuple[str, ...] = (),
) -> Figure:
    """Draw one group of bars per name, from 0 to 100 %, one bar per series in its colour.

    Args:
        caption: Over the figure.
        series: The name of each series.
        groups: Name to one bar per series.
        description: For those who do not see it.
        notes: Under the figure.
    """
    left = min(max(map(text_width, groups)), _MAX_NAME) + 6
    height = _ROW * len(series) + _GAP
    bottom = _TOP + height * len(groups)
    drawing = Drawing(bottom + 18, title=caption, description=description)
    _legend(drawing, series)
    for share in (0.0, 0.5, 1.0):
        x = left + share * (WIDTH - _VALUE - left)
        drawing.line(x, _TOP, x, bottom, "grid")
        drawing.text(x, bottom + 13, f"{100 * share:.0f} %", "muted middle")
    for place, (name, bars) in enumerate(groups.items()):
        top = _TOP + height * place + _GAP / 2
        drawing.text(left - 6, top + height / 2, shorten(name, left - 6), "end")
        for position, bar in enumerate(bars):
            tip = f"{name}, {series[position]}: {_written(bar.value)}"
            _draw(drawing, bar, left=left, top=top + _ROW * position, style=colour(position), tip=tip)
    return Figure(caption, str(drawing), notes)


def _legend(drawing: Drawing, series: Sequence[str]) -> None:
    x = 0.0
    for position, name in enumerate(series):
        drawing.rect(x, 4, _KEY, _KEY - 2, colour(position))
        drawing.text(x + _KEY + 4, 13, name)
        x += _KEY + 14 + text_width(name)


def _draw(drawing: Drawing, bar: Bar, *, left: float, top: float, style: str, tip: str) -> None:
    unit, thick = (WIDTH - _VALUE - left) / 100, _ROW - 4
    if bar.behind is not None:
        drawing.rect(left, top, unit * bar.behind, thick, f"{style} pale")
    if bar.value is not None:
        drawing.rect(left, top, unit * max(bar.value, 0.0), thick, style, tip=tip)
    if bar.low is not None and bar.high is not None:
        y = top + thick / 2
        drawing.line(left + unit * max(bar.low, 0.0), y, left + unit * max(bar.high, 0.0), y, "whisker")
    drawing.text(WIDTH, top + thick - 2, _written(bar.value), "end")


def _written(value: float | None) -> str:
    return numbers.UNDEFINED if value is None else f"{numbers.points(value)} %"

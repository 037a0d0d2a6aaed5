"""Accuracy class by class."""

from __future__ import annotations

from edgeproof.evaluation.metrics import Rate
from edgeproof.evaluation.results import EngineRecord, Results, SetRecord
from edgeproof.reports import numbers
from edgeproof.reports.content import clean_set, shown_classes
from edgeproof.reports.figures.svg import WIDTH, Drawing, Figure, colour, shorten, text_width

_TOP = 2.0
_MAX_NAME = 110.0  # units
_VALUE = 46.0  # units that the number at the end of a row takes


def class_bars(results: Results, engine: EngineRecord, set_: SetRecord) -> Figure:
    """Clean and adversarial accuracy of one engine, class by class, the latter with its interval."""
    clean = results.cell(engine.name, clean_set(results).name)
    attacked = results.cell(engine.name, set_.name)
    overall = f"{numbers.percent(clean.accuracy.value)} clean, {numbers.percent(attacked.accuracy.value)} adversarial"
    shown = shown_classes(results, set_)
    row = 20.0 if len(shown) <= 20 else 14.0
    left = min(max(text_width(results.classes[label]) for label in shown), _MAX_NAME) + 6
    bottom = _TOP + row * len(shown)
    drawing = Drawing(
        bottom + 20, title=f"{engine.name}: accuracy by class, clean and {set_.name}", description=overall
    )
    _scale(drawing, left=left, bottom=bottom)
    style = colour(results.engines.index(engine))
    for place, label in enumerate(shown):
        name, rates = results.classes[label], (clean.rate(label), attacked.rate(label))
        _row(drawing, name, *rates, middle=_TOP + row * (place + 0.5), height=row, left=left, style=style)
    return Figure(f"{engine.name}: {overall}", str(drawing))


def set_bars(results: Results, set_: SetRecord) -> tuple[Figure, ...]:
    """The bars of every engine on one set."""
    return tuple(class_bars(results, engine, set_) for engine in results.engines)


def _scale(drawing: Drawing, *, left: float, bottom: float) -> None:
    for share in (0.0, 0.5, 1.0):
        x = left + share * (WIDTH - _VALUE - left)
        drawing.line(x, _TOP, x, bottom + 3, "grid")
        drawing.text(x, bottom + 16, f"{100 * share:.0f} %", "muted middle")


def _row(
    drawing: Drawing, name: str, before: Rate, after: Rate, *, middle: float, height: float, left: float, style: str
) -> None:
    drawing.text(left - 6, middle + 3.5, shorten(name, left - 6), "end")
    if before.value is None or after.value is None:
        drawing.text(left + 4, middle + 3.5, "no images", "muted")
        return
    width, thick = WIDTH - _VALUE - left, 0.34 * height
    shares = f"clean {numbers.percent(before.value)}, adversarial {numbers.percent(after.value)}"
    drawing.rect(left, middle - thick, width * before.value, thick, f"{style} pale")
    drawing.rect(left, middle, width * after.value, thick, style, tip=f"{name}: {shares}")
    if after.low is not None and after.high is not None:
        y = middle + thick / 2
        drawing.line(left + width * after.low, y, left + width * after.high, y, "whisker")
    drawing.text(WIDTH, middle + 3.5, numbers.percent(after.value), "end")

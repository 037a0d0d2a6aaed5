"""Accuracy class by class."""

from __future__ import annotations

from edgeproof.evaluation.results import ClassRecord, EngineRecord, Results, SetRecord
from edgeproof.reports import numbers
from edgeproof.reports.content import clean_set
from edgeproof.reports.figures.svg import WIDTH, Drawing, Figure, colour, shorten, text_width

_TOP = 2.0
_MAX_NAME = 110.0  # units
_VALUE = 46.0  # units that the number at the end of a row takes


def class_bars(results: Results, engine: EngineRecord, set_: SetRecord) -> Figure:
    """Clean and adversarial accuracy of one engine, class by class, the latter with its interval."""
    clean = results.cell(engine.name, clean_set(results).name)
    attacked = results.cell(engine.name, set_.name)
    overall = f"{numbers.percent(clean.accuracy.value)} clean, {numbers.percent(attacked.accuracy.value)} adversarial"
    row = 20.0 if len(results.classes) <= 20 else 14.0
    left = min(max(map(text_width, results.classes)), _MAX_NAME) + 6
    bottom = _TOP + row * len(results.classes)
    drawing = Drawing(
        bottom + 20, title=f"{engine.name}: accuracy by class, clean and {set_.name}", description=overall
    )
    _scale(drawing, left=left, bottom=bottom)
    style = colour(results.engines.index(engine))
    for place, (before, after) in enumerate(zip(clean.per_class, attacked.per_class, strict=True)):
        _row(drawing, before, after, middle=_TOP + row * (place + 0.5), height=row, left=left, style=style)
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
    drawing: Drawing, before: ClassRecord, after: ClassRecord, *, middle: float, height: float, left: float, style: str
) -> None:
    drawing.text(left - 6, middle + 3.5, shorten(after.name, left - 6), "end")
    if before.accuracy.value is None or after.accuracy.value is None:
        drawing.text(left + 4, middle + 3.5, "no images", "muted")
        return
    width, thick = WIDTH - _VALUE - left, 0.34 * height
    shares = f"clean {numbers.percent(before.accuracy.value)}, adversarial {numbers.percent(after.accuracy.value)}"
    drawing.rect(left, middle - thick, width * before.accuracy.value, thick, f"{style} pale")
    drawing.rect(left, middle, width * after.accuracy.value, thick, style, tip=f"{after.name}: {shares}")
    if after.accuracy.low is not None and after.accuracy.high is not None:
        y = middle + thick / 2
        drawing.line(left + width * after.accuracy.low, y, left + width * after.accuracy.high, y, "whisker")
    drawing.text(WIDTH, middle + 3.5, numbers.percent(after.accuracy.value), "end")

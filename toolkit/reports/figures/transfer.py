"""The share of each adversarial set that transfers to each engine."""

from __future__ import annotations

from edgeproof.evaluation.metrics import Rate
from edgeproof.evaluation.results import Results
from edgeproof.reports import numbers
from edgeproof.reports.content import adversarial_sets
from edgeproof.reports.figures.svg import WIDTH, Drawing, Figure, shorten, text_width

_ROW = 26.0
_MAX_NAME = 130.0  # units
_MAX_CELL = 60.0
_MIN_PERCENT = 44.0  # units of width under which a cell has no room for `12.3 %`
_TILT = 35  # degrees; sine 0.57


def transfer_map(results: Results) -> Figure:
    """The transfer rate of each set on each engine, or the attack success rate where no source model is known."""
    rows = [
        (set_.name, [results.cell(engine.name, set_.name) for engine in results.engines])
        for set_ in adversarial_sets(results)
    ]
    known = any(cell.transfer for _, cells in rows for cell in cells)
    measure = "Transfer rate" if known else "Attack success rate"
    left = min(max(text_width(name) for name, _ in rows), _MAX_NAME) + 8
    longest = max(text_width(engine.name) for engine in results.engines)
    side = min((WIDTH - left - 0.5 * longest) / len(results.engines), _MAX_CELL)
    top = 0.57 * longest + 14
    drawing = Drawing(
        top + _ROW * len(rows) + 2,
        title=f"{measure}, set by engine",
        description=f"Rows are adversarial sets, columns engines; the darker, the higher the {measure.lower()}.",
    )
    for j, engine in enumerate(results.engines):
        drawing.text(left + side * (j + 0.5) - 3, top - 6, engine.name, tilt=-_TILT)
    for i, (name, cells) in enumerate(rows):
        drawing.text(left - 6, top + _ROW * (i + 0.5) + 3, shorten(name, left - 6), "end")
        for j, cell in enumerate(cells):
            rate = cell.transfer if known else cell.success
            _cell(drawing, rate, x=left + side * j, y=top + _ROW * i, width=side - 2)
    return Figure(measure, str(drawing))


def _cell(drawing: Drawing, rate: Rate | None, *, x: float, y: float, width: float) -> None:
    value = rate.value if rate else None
    if rate is None or value is None:
        drawing.rect(x, y, width, _ROW - 2, "frame")
        drawing.text(x + width / 2, y + _ROW / 2 + 3, "–", "middle muted")
        return
    tip = f"{numbers.percent(value)}, {numbers.hits(rate)}"
    drawing.rect(x, y, width, _ROW - 2, "heat", tip=tip, opacity=0.05 + 0.95 * value)
    text = numbers.percent(value) if width >= _MIN_PERCENT else f"{100 * value:.0f}"
    drawing.text(x + width / 2, y + _ROW / 2 + 3, text, "middle inverse" if value > 0.6 else "middle")

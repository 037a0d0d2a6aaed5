"""Accuracy over the budget."""

from __future__ import annotations

from dataclasses import dataclass

from edgeproof.config import format_eps
from edgeproof.evaluation.metrics import Rate
from edgeproof.evaluation.results import Results, SetRecord
from edgeproof.reports import numbers
from edgeproof.reports.content import adversarial_sets, clean_set
from edgeproof.reports.figures.axes import LEFT, RIGHT, Axes
from edgeproof.reports.figures.svg import Figure, colour, dash


@dataclass(frozen=True)
class Sweep:
    """The sets that one attack on one source model made at several budgets, by rising budget."""

    attack: str
    norm: str
    source: str
    sets: tuple[SetRecord, ...]


def sweeps(results: Results) -> list[Sweep]:
    """Put the adversarial sets that differ in nothing but their budget together."""
    groups: dict[tuple[str, str, str, str], list[SetRecord]] = {}
    for set_ in adversarial_sets(results):
        if set_.eps is None:
            continue
        # A step size follows the budget, and does not make another attack of it.
        params = numbers.pairs({key: value for key, value in set_.params.items() if key not in ("eps", "step_size")})
        groups.setdefault((set_.attack or set_.name, set_.norm or "", set_.source, params), []).append(set_)
    return [
        Sweep(attack, norm, source, tuple(sorted(members, key=lambda member: member.eps or 0.0)))
        for (attack, norm, source, _), members in groups.items()
    ]


def accuracy_over_eps(results: Results, sweep: Sweep) -> Figure:
    """Accuracy of every engine from no budget to the largest, with 95 % bands."""
    largest = max((set_.eps or 0.0 for set_ in sweep.sets), default=0.0) or 1.0
    title = f"{sweep.attack}: accuracy over eps"
    axes = Axes(
        title=title,
        description=f"One curve per engine, from the clean images to {sweep.norm} {format_eps(largest)}, with 95 % bands.",
        names=[engine.name for engine in results.engines],
    )
    budgets = [0.0, *(set_.eps or 0.0 for set_ in sweep.sets)]
    places = [LEFT + (RIGHT - LEFT) * eps / largest for eps in budgets]
    axes.across(dict(zip(places, map(format_eps, budgets), strict=True)), name=f"eps ({sweep.norm})")
    names = [clean_set(results).name, *(set_.name for set_ in sweep.sets)]
    for position, (engine, (x, y)) in enumerate(zip(results.engines, axes.legend(), strict=True)):
        _curve(axes, places, [results.cell(engine.name, name).accuracy for name in names], position=position)
        axes.drawing.polyline([(x - 10, y), (x + 10, y)], f"curve {colour(position)}", dash=dash(position))
    return Figure(title, str(axes.drawing))


def _curve(axes: Axes, places: list[float], rates: list[Rate], *, position: int) -> None:
    known = [(x, rate) for x, rate in zip(places, rates, strict=True) if rate.value is not None]
    upper = [(x, axes.up(rate.high)) for x, rate in known if rate.high is not None]
    lower = [(x, axes.up(rate.low)) for x, rate in known if rate.low is not None]
    if len(upper) > 1:
        axes.drawing.polygon([*upper, *reversed(lower)], f"band {colour(position)}")
    line = [(x, axes.up(rate.value or 0.0)) for x, rate in known]
    axes.drawing.polyline(line, f"curve {colour(position)}", dash=dash(position))
    for (x, y), (_, rate) in zip(line, known, strict=True):
        tip = f"{numbers.percent(rate.value)} ({numbers.hits(rate)})"
        axes.drawing.circle(x, y, 2.6, colour(position), tip=tip)

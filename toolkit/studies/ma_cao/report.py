"""The sections of the document: perturbations, trainings, transfer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import mean, stdev
from typing import TYPE_CHECKING

from edgeproof.config import format_eps
from edgeproof.reports.document import Block, Section
from edgeproof.reports.figures.tradeoff import Place, tradeoff
from edgeproof.reports.tables import Cell, Column, Table
from edgeproof.studies.ma_cao.claims import FRESH, worst_universal
from edgeproof.studies.ma_cao.points import Point, amount, average, dominated

if TYPE_CHECKING:
    from edgeproof.studies.ma_cao.collect import Measured, Plan

_STRENGTH = (
    "Means over seeds on test images; perturbations are fitted on the training split. Fooling ratio: images predicted as another class "
    "than when clean. Entropy is that of the predicted classes, 100 % when all are predicted equally often. A perturbation is dominated when "
    "another of the table fools as many and spreads them as evenly, and is better in one; one a class is an oracle and takes no part."
)
_CURVE = (
    "The plain perturbation made smaller against the capped margin at rising tau. Up is stronger, right is more even; a pale "
    "point is dominated by another of the figure."
)
_TRAINED = (
    "Accuracy in per cent, mean and standard deviation over seeds; the worst class in brackets. Fresh perturbations are fitted to each finished "
    "network. Worst universal is the least of plain, margin and balanced at each seed; one a class needs the true class and stands apart."
)
_TRANSFER = (
    "Fooling ratio in per cent of the perturbations of the natural networks: on the checkpoint that they are fitted to, on its graphs, and on "
    "other networks that never saw them."
)


def sections(plan: Plan, measured: Measured) -> tuple[Section, ...]:
    """Return everything that stands after the verdicts."""
    found = [
        Section(
            f"Strength and balance at {format_eps(eps)}",
            (_STRENGTH, _strength(plan, measured, suffix), *_figure(plan, measured, suffix)),
        )
        for eps, suffix in ((plan.eps, ""), *((eps, f" {format_eps(eps)}") for eps in plan.more_eps))
    ]
    return (
        *found,
        Section("Training", (_TRAINED, _trainings(plan, measured))),
        Section("Transfer", (_TRANSFER, _transfer(plan, measured))),
    )


def _names(plan: Plan, suffix: str) -> list[str]:
    curve = [f"balanced {tau:g}" for tau in plan.taus]
    return [f"{name}{suffix}" for name in ("plain", "margin", *curve, "adjusted", "penalised", "deepfool", "class")]


def _strength(plan: Plan, measured: Measured, suffix: str) -> Table:
    values = ("fooling", "accuracy", "top1", "top3", "entropy", "least_class_error")
    titles = ("Fooling ratio", "Accuracy", "Top class", "Top three", "Entropy", "Least class error", "Class error, std")
    names = _names(plan, suffix)
    competing = names[:-1]
    beaten = dict(zip(competing, dominated([_place(measured.of(name)) for name in competing]), strict=True))
    rows = [
        (
            Cell(
                name.removesuffix(suffix), "dominated" if beaten.get(name) else "oracle" if name not in beaten else ""
            ),
            *(_over(measured.of(name), value) for value in values),
            _spread([_deviation(point) for point in measured.of(name)]),
        )
        for name in names
    ]
    return Table((Column("Perturbation", numeric=False), *map(Column, titles)), tuple(rows))


def _figure(plan: Plan, measured: Measured, suffix: str) -> Iterator[Block]:
    scales = sorted({point.scale for point in measured.scaled(f"plain{suffix}", seed=plan.seeds[0])})
    every = [point for seed in plan.seeds for point in measured.scaled(f"plain{suffix}", seed=seed)]
    smaller = [(f"{scale:g}", [p for p in every if p.scale == scale]) for scale in scales]
    taus = [("0", f"margin{suffix}"), *((f"{tau:g}", f"balanced {tau:g}{suffix}") for tau in plan.taus)]
    series = {
        "plain, scaled": smaller,
        "margin, tau": [(text, measured.of(name)) for text, name in taus],
    }
    places = [_place(points) for curve in series.values() for _, points in curve]
    beaten = iter(dominated(places))
    drawn = {
        name: [Place(text, *_place(points), faint=next(beaten)) for text, points in curve]
        for name, curve in series.items()
    }
    yield tradeoff("Strength against balance", drawn, up="fooling ratio", across="entropy / log K", description=_CURVE)
    yield _CURVE


def _trainings(plan: Plan, measured: Measured) -> Table:
    attacks = ("clean", *FRESH, "fresh class", "pgd")
    rows = [
        (
            Cell(name),
            *(_judged(measured.of(attack, training=name)) for attack in attacks),
            _spread(worst_universal(measured, name)),
        )
        for name in plan.trainings
    ]
    titles = (*(attack.removeprefix("fresh ") for attack in attacks), "worst universal")
    return Table((Column("Training", numeric=False), *map(Column, titles)), tuple(rows))


def _transfer(plan: Plan, measured: Measured) -> Table:
    names = ("plain", "margin", f"balanced {plan.tau:g}")
    rows = [
        (Cell(form), *(_over(measured.of(name, form=form), "fooling") for name in names)) for form in measured.forms()
    ]
    return Table((Column("Form", numeric=False), *map(Column, names)), tuple(rows))


def _place(points: Sequence[Point]) -> tuple[float, float]:
    """Return (strength, balance) as fractions, means over seeds."""
    return average(points, "fooling") / 100, average(points, "entropy") / 100


def _deviation(point: Point) -> float:
    centre = mean(point.class_errors)
    return 100 * math.sqrt(mean((error - centre) ** 2 for error in point.class_errors))


def _over(points: Sequence[Point], value: str) -> Cell:
    return _spread([amount(point, value) for point in points])


def _judged(points: Sequence[Point]) -> Cell:
    cell = _over(points, "accuracy")
    return Cell(f"{cell.text} [{mean(point.worst_class for point in points):.0f}]", cell.detail)


def _spread(values: Sequence[float]) -> Cell:
    """Return a mean in per cent, with the standard deviation over seeds beside it."""
    if not values:
        return Cell("–")
    return Cell(f"{mean(values):.1f}", f"± {stdev(values):.1f}" if len(values) > 1 else "")

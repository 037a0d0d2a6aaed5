"""The sections of the document: perturbations, trainings, transfer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, pstdev

from edgeproof.config import format_eps
from edgeproof.reports.document import Section
from edgeproof.reports.figures.svg import Figure
from edgeproof.reports.figures.tradeoff import Place, tradeoff
from edgeproof.reports.tables import Cell, Table
from edgeproof.studies.frame import Measure, Row, distinct, mean_cell, percent, table, values, where
from edgeproof.studies.universal.findings import (
    FRESH,
    accuracy,
    entropy,
    fooling,
    least_class_error,
    of,
    top1,
    worst_universal,
)
from edgeproof.studies.universal.measure import CHECKPOINT, CLEAN

_STRENGTH = (
    "Means over seeds on test images; perturbations are fitted on the training split. Fooling ratio: images predicted as another class "
    "than when clean. Entropy is that of the predicted classes, 100 % when all are predicted equally often. A "
    "perturbation is dominated when "
    "another of the table fools as many and spreads them as evenly, and is better in one; one perturbation per class is "
    "an oracle and is left out of that comparison."
)
_CURVE = (
    "The plain perturbation made smaller against the capped margin at rising tau. Up is stronger, right is more even; a pale "
    "point is dominated by another of the figure."
)
_TRAINED = (
    "Accuracy in per cent, mean and standard deviation over seeds; the worst class in brackets. Fresh perturbations are "
    "fitted to each finished "
    "network. Worst universal is the least of plain, margin and balanced at each seed; one perturbation per class needs "
    "the true class and does not count there."
)
_TRANSFER = (
    "Fooling ratio in per cent of the perturbations of the natural networks: on the checkpoint that they are fitted to, "
    "on its graphs, and on "
    "other networks that never saw them."
)


def sections(
    rows: Sequence[Row], *, budgets: Mapping[str, float], taus: Sequence[float], tau: float
) -> tuple[Section, ...]:
    """Return everything that stands after the verdicts.

    Args:
        rows: Every attack on every network.
        budgets: The budgets of the first part, by what the names of their perturbations end in.
        taus: Weights of the calibration that were measured.
        tau: The one that the claims are about.
    """
    found = [
        Section(
            f"Strength and balance at {format_eps(eps)}",
            (_STRENGTH, strength(rows, suffix, taus), _tradeoff(rows, suffix, taus), _CURVE),
        )
        for suffix, eps in budgets.items()
    ]
    return (
        *found,
        Section("Training", (_TRAINED, trainings(rows))),
        Section("Transfer", (_TRANSFER, transfer(rows, tau))),
    )


def strength(rows: Sequence[Row], suffix: str, taus: Sequence[float]) -> Table:
    """How often each perturbation fools the natural networks, and how evenly it spreads their predictions."""

    def deviation(row: Row) -> float:
        return 100 * float(pstdev(row["class_errors"]))

    columns: dict[str, Measure] = {
        "Fooling ratio": fooling,
        "Accuracy": accuracy,
        "Top class": top1,
        "Top three": percent("top3"),
        "Entropy": entropy,
        "Least class error": least_class_error,
        "Class error, std": deviation,
    }
    curve = [f"balanced {tau:g}" for tau in taus]
    competing = ["plain", "margin", *curve, "adjusted", "penalised", "deepfool"]
    beaten = dominated([_place(of(rows, f"{name}{suffix}")) for name in competing])
    remarks = {name: "dominated" if lost else "" for name, lost in zip(competing, beaten, strict=True)}
    remarks["class"] = "oracle"
    shown = [
        (
            Cell(name, remark),
            *(mean_cell(values(of(rows, f"{name}{suffix}"), measure)) for measure in columns.values()),
        )
        for name, remark in remarks.items()
    ]
    return table(("Perturbation",), list(columns), shown)


def dominated(places: Sequence[tuple[float, float]]) -> list[bool]:
    """Return which of several (strength, balance) are beaten: another is as good in both and better in one."""
    return [any(other[0] >= mine[0] and other[1] >= mine[1] and other != mine for other in places) for mine in places]


def _tradeoff(rows: Sequence[Row], suffix: str, taus: Sequence[float]) -> Figure:
    plain = where(rows, attack=f"plain{suffix}", training="natural", form=CHECKPOINT)
    taken = [("0", f"margin{suffix}"), *((f"{tau:g}", f"balanced {tau:g}{suffix}") for tau in taus)]
    series = {
        "plain, scaled": [(f"{scale:g}", where(plain, scale=scale)) for scale in sorted(distinct(plain, "scale"))],
        "margin, tau": [(text, of(rows, name)) for text, name in taken],
    }
    places = [_place(points) for curve in series.values() for _, points in curve]
    beaten = iter(dominated(places))
    drawn = {
        name: [Place(text, *_place(points), faint=next(beaten)) for text, points in curve]
        for name, curve in series.items()
    }
    return tradeoff("Strength against balance", drawn, up="fooling ratio", across="entropy / log K", description=_CURVE)


def trainings(rows: Sequence[Row]) -> Table:
    """Accuracy of each training under each attack, with that of its worst class."""

    def judged(mine: Sequence[Row]) -> Cell:
        cell = mean_cell(values(mine, accuracy))
        worst = mean(100 * (1 - max(row["class_errors"])) for row in mine)
        return Cell(f"{cell.text} [{worst:.0f}]", cell.detail)

    attacks = (CLEAN, *FRESH, "fresh class", "pgd")
    shown = [
        (
            name,
            *(judged(of(rows, attack, training=name)) for attack in attacks),
            mean_cell(list(worst_universal(rows, name).values())),
        )
        for name in distinct(rows, "training")
    ]
    titles = (*(attack.removeprefix("fresh ") for attack in attacks), "worst universal")
    return table(("Training",), titles, shown)


def transfer(rows: Sequence[Row], tau: float) -> Table:
    """How often the perturbations of the natural networks fool their graphs and other networks."""
    names = ("plain", "margin", f"balanced {tau:g}")
    shown = [
        (form, *(mean_cell(values(of(rows, name, form=form), fooling)) for name in names))
        for form in distinct(rows, "form")
    ]
    return table(("Form",), names, shown)


def _place(rows: Sequence[Row]) -> tuple[float, float]:
    """Return (strength, balance) as fractions, means over seeds."""
    return mean(values(rows, fooling)) / 100, mean(values(rows, entropy)) / 100

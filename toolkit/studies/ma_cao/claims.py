"""What the abstract claims and what a reconstruction must show, judged over seeds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from edgeproof.studies.ma_cao.points import Point, amount, at_equal_fooling, percent
from edgeproof.studies.verdicts import Effect, Verdict, judge, over_seeds

if TYPE_CHECKING:
    from edgeproof.studies.ma_cao.collect import Measured, Plan

BALANCED = "two-stage-balanced"
FRESH = ("fresh plain", "fresh margin", "fresh balanced")  # the universal attacks; one a class needs the true class
_SLACK = 1.0  # points that count as no loss
_NEIGHBOUR = "94 % of predictions in one class (SGD-UAP, ResNet-18, CIFAR-10, 10/255)"


def judge_claims(plan: Plan, measured: Measured) -> tuple[Verdict, ...]:
    """Return the verdicts: on the perturbations, on their transfer, on the trainings."""
    return (*_on_balance(plan, measured), *_on_transfer(plan, measured), *_on_training(plan, measured))


def _on_balance(plan: Plan, measured: Measured) -> Iterator[Verdict]:
    plain, clean = measured.of("plain"), measured.of("clean")
    gained = [percent(one.top1) - percent(other.top1) for one, other in zip(plain, clean, strict=True)]
    yield judge(
        "The plain perturbation gathers predictions: its most predicted class takes over 10 points more of them than on clean images.",
        over_seeds(gained),
        threshold=10.0,
        published=_NEIGHBOUR,
    )
    at = f"(tau {plan.tau:g}, against the plain one made smaller until it fools as many)"
    name = f"balanced {plan.tau:g}"
    yield judge(
        f"At an equal fooling ratio the balanced perturbation spreads predictions more evenly {at}.",
        _beyond(measured, plan, name, "entropy", unit="% of log K"),
    )
    yield judge(
        f"At an equal fooling ratio its most predicted class takes fewer of them {at}.",
        _beyond(measured, plan, name, "top1", sign=-1),
    )
    yield judge(
        f"At an equal fooling ratio the class that suffers least suffers more {at}.",
        _beyond(measured, plan, name, "least_class_error"),
    )
    yield judge(
        "Every point of the tau curve spreads predictions more evenly than the plain perturbation of its fooling ratio.",
        _worst_of_curve(measured, plan),
        note="The effect is that of the worst tau at each seed.",
    )
    curve = [measured.of(f"balanced {tau:g}") for tau in plan.taus]
    best = [max(percent(points[place].fooling) for points in curve) for place in range(len(plan.seeds))]
    yield judge(
        "At full budget some tau fools as many images as the plain perturbation, to a point.",
        over_seeds([most - percent(point.fooling) for most, point in zip(best, plain, strict=True)]),
        threshold=-_SLACK,
    )


def _beyond(measured: Measured, plan: Plan, name: str, value: str, *, sign: int = 1, unit: str = "points") -> Effect:
    """Return how much more a perturbation has of something than the plain one of the same fooling ratio, over seeds."""
    return over_seeds([sign * _excess(measured, seed, name, value) for seed in plan.seeds], unit=unit)


def _excess(measured: Measured, seed: int, name: str, value: str) -> float:
    mine = next(point for point in measured.of(name) if point.seed == seed)
    curve = [*measured.scaled("clean", seed=seed), *measured.scaled("plain", seed=seed)]
    return amount(mine, value) - at_equal_fooling(curve, value, fooling=percent(mine.fooling))


def _worst_of_curve(measured: Measured, plan: Plan) -> Effect:
    worst = [min(_excess(measured, seed, f"balanced {tau:g}", "entropy") for tau in plan.taus) for seed in plan.seeds]
    return over_seeds(worst, unit="% of log K")


def _on_transfer(plan: Plan, measured: Measured) -> Iterator[Verdict]:
    for form in measured.forms():
        if not form.startswith(("int8", "fp16")):
            continue
        for name in ("plain", f"balanced {plan.tau:g}"):
            pairs = zip(measured.of(name, form=form), measured.of(name), strict=True)
            kept = [percent(there.fooling) - percent(here.fooling) for there, here in pairs]
            yield judge(
                f"The perturbation {name!r} made on the checkpoint fools the {form} graph as often, to two points.",
                over_seeds(kept),
                threshold=-2.0,
            )


def _on_training(plan: Plan, measured: Measured) -> Iterator[Verdict]:
    others = [name for name in plan.trainings if name not in ("natural", BALANCED)]
    clean = {name: _accuracies(measured.of("clean", training=name)) for name in plan.trainings}
    rivals = [max(clean[name][place] for name in others) for place in range(len(plan.seeds))]
    yield judge(
        "Of the five robust trainings, the two-stage balanced one has the best clean accuracy.",
        over_seeds([mine - best for mine, best in zip(clean[BALANCED], rivals, strict=True)]),
        published="claimed in the abstract, without numbers here",
        note="Against the best of the other four at each seed.",
    )
    left = {name: worst_universal(measured, name) for name in plan.trainings}
    for rival in others:
        yield judge(
            f"Under its worst fresh universal perturbation the two-stage balanced network is no worse than {rival}, to a point.",
            over_seeds([mine - theirs for mine, theirs in zip(left[BALANCED], left[rival], strict=True)]),
            threshold=-_SLACK,
        )
    yield judge(
        "Under its worst fresh universal perturbation it is better than the natural network.",
        over_seeds([mine - theirs for mine, theirs in zip(left[BALANCED], left["natural"], strict=True)]),
    )


def worst_universal(measured: Measured, training: str) -> list[float]:
    """Return the least accuracy under the fresh universal perturbations, in per cent, one a seed."""
    columns = [_accuracies(measured.of(name, training=training)) for name in FRESH]
    return [min(values) for values in zip(*columns, strict=True)]


def _accuracies(points: Sequence[Point]) -> list[float]:
    return [percent(point.accuracy) for point in points]

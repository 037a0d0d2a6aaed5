"""Verdicts: a claim, whether it held, and the effect with its interval over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import mean, stdev
from typing import Literal

from edgeproof.config import Strict
from edgeproof.evaluation.metrics import Rate
from edgeproof.system.optional import require

Outcome = Literal["held", "not held", "undecided"]
OVER_SEEDS = "Student's t over seeds"


class Effect(Strict):
    """A number with its 95 % interval; low and high are null where nothing gives one.

    values: one per seed; unit: what it is counted in; method: where the interval comes from.
    """

    value: float | None
    low: float | None
    high: float | None
    values: tuple[float, ...]
    unit: str
    method: str


class Verdict(Strict):
    """A claim and what the study says of it.

    held: the whole interval lies above `threshold`; not held: it lies below; undecided: otherwise. note: in how many of
    the single cases the effect lies above, or what else a reader must know.
    """

    claim: str
    outcome: Outcome
    effect: Effect
    threshold: float = 0.0
    published: str = ""
    note: str = ""


def over_seeds(values: Sequence[float], *, unit: str = "points") -> Effect:
    """Return the mean of one value per seed with Student's 95 % interval, which needs two seeds or more."""
    if len(values) < 2:
        centre = values[0] if values else None
        return Effect(
            value=centre, low=None, high=None, values=tuple(values), unit=unit, method="one seed, no interval"
        )
    centre = mean(values)
    stats = require("scipy.stats", extra="data", purpose="give intervals over seeds")
    half = float(stats.t.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return Effect(
        value=centre, low=centre - half, high=centre + half, values=tuple(values), unit=unit, method=OVER_SEEDS
    )


def within_seed(value: float, *, low: float, high: float, method: str, unit: str = "points") -> Effect:
    """Return an effect of a single seed with an interval over its images, which says nothing about other trainings."""
    return Effect(value=value, low=low, high=high, values=(value,), unit=unit, method=f"within one seed: {method}")


def over_images(rate: Rate) -> Effect:
    """Return a rate of a single seed in per cent, with Wilson's interval over its images."""
    low, high = rate.interval or (0.0, 1.0)
    return within_seed(
        100 * (rate.value or 0.0), low=100 * low, high=100 * high, method="Wilson's over the images", unit="%"
    )


def judge(claim: str, effect: Effect, *, threshold: float = 0.0, published: str = "", note: str = "") -> Verdict:
    """Say whether an effect lies above a threshold, so that the claim is "effect > threshold".

    Args:
        claim: One sentence.
        effect: What was measured.
        threshold: In the effect's unit.
        published: The published number, as text.
        note: What else a reader must know.
    """
    outcome: Outcome = "undecided"
    if effect.low is not None and effect.low > threshold:
        outcome = "held"
    elif effect.high is not None and effect.high < threshold:
        outcome = "not held"
    return Verdict(claim=claim, outcome=outcome, effect=effect, threshold=threshold, published=published, note=note)

"""Tests of whether two rates differ: on the same images or on different ones, once or in many places."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeproof.evaluation.metrics import Rate, Z, sign_test
from edgeproof.types import Array


@dataclass(frozen=True)
class Difference:
    """A second rate minus a first one, as a fraction, with its 95 % interval and the two-sided p-value of no difference."""

    value: float
    low: float
    high: float
    p_value: float


def paired_difference(lost: int, gained: int, total: int) -> Difference:
    """Compare two rates on the same images.

    The p-value is McNemar's exact one; the interval is the adjusted Wald interval of Bonett and Price (2012,
    Statistical Methods in Medical Research 21(4)), which adds one to either count.

    Args:
        lost: Images that only the first gets right.
        gained: Images that only the second gets right.
        total: All images, at least 1.
    """
    first, second = (lost + 1) / (total + 2), (gained + 1) / (total + 2)
    half = Z * math.sqrt((first + second - (first - second) ** 2) / (total + 2))
    return _bounded((gained - lost) / total, second - first, half, sign_test(lost, gained))


def unpaired_difference(first: Rate, second: Rate) -> Difference:
    """Compare two rates on different images; neither total may be 0.

    The p-value is Fisher's exact one; the interval is the adjusted Wald interval of Agresti and Caffo (2000, The American
    Statistician 54(4)), which adds one hit and one miss to either rate.
    """
    shares = [(rate.hits + 1) / (rate.total + 2) for rate in (first, second)]
    variance = sum(p * (1 - p) / (rate.total + 2) for p, rate in zip(shares, (first, second), strict=True))
    value = second.hits / second.total - first.hits / first.total
    return _bounded(value, shares[1] - shares[0], Z * math.sqrt(variance), fisher_exact(first, second))


def fisher_exact(first: Rate, second: Rate) -> float:
    """Return the two-sided p-value that two rates share one probability (Fisher, 1922): tables no likelier than this one."""
    hits, total = first.hits + second.hits, first.total + second.total
    log = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, total + 1)))])  # log n!

    def choose(n: int, k: Array) -> Array:
        chosen: Array = log[n] - log[k] - log[n - k]
        return chosen

    of_first = np.arange(max(0, hits - second.total), min(first.total, hits) + 1)
    weights = choose(first.total, of_first) + choose(second.total, hits - of_first)
    seen = weights[first.hits - of_first[0]]
    likelihoods = np.exp(weights - weights.max())
    # Tables as likely as this one count, though their sums of logarithms differ in the last bits.
    return float(likelihoods[weights <= seen + 1e-7].sum() / likelihoods.sum())


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values so that the chance of any false alarm among them all stays below the level (Holm, 1979)."""
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for done, position in enumerate(sorted(range(len(p_values)), key=lambda position: p_values[position])):
        highest = max(highest, min(1.0, (len(p_values) - done) * p_values[position]))
        adjusted[position] = highest
    return adjusted


def _bounded(value: float, centre: float, half: float, p_value: float) -> Difference:
    return Difference(value, max(centre - half, -1.0), min(centre + half, 1.0), p_value)

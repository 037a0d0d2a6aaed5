"""Intervals over seeds, and when a claim holds."""

from __future__ import annotations

import pytest

from edgeproof.studies.verdicts import judge, over_seeds, within_seed


def test_the_interval_over_seeds_is_that_of_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    values = (3.0, 4.5, 3.6)
    effect = over_seeds(values)
    low, high = stats.t.interval(0.95, 2, loc=effect.value, scale=stats.sem(values))
    assert (effect.low, effect.high) == pytest.approx((low, high))


def test_a_claim_holds_only_with_its_whole_interval() -> None:
    assert judge("a > b", over_seeds([3.0, 3.1, 2.9])).outcome == "held"
    assert judge("a > b", over_seeds([-3.0, -3.1, -2.9])).outcome == "not held"
    assert judge("a > b", over_seeds([3.0, -1.0, 2.0])).outcome == "undecided"
    assert judge("a > b + 5", over_seeds([3.0, 3.1, 2.9]), threshold=5).outcome == "not held"


def test_one_seed_decides_nothing_unless_its_images_do() -> None:
    assert judge("a > b", over_seeds([3.0])).outcome == "undecided"
    assert judge("a > b", over_seeds([])).outcome == "undecided"
    effect = within_seed(3.0, low=1.0, high=5.0, method="bootstrap over 1,000 images")
    assert judge("a > b", effect).outcome == "held"
    assert effect.method == "within one seed: bootstrap over 1,000 images"

"""Intervals over seeds and over images, and when a claim holds."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgeproof.evaluation.metrics import Rate
from edgeproof.studies.base import verdict_section
from edgeproof.studies.verdicts import Effect, judge, over_images, over_seeds, within_seed


@pytest.mark.parametrize("seed", range(5))
def test_the_interval_over_seeds_is_that_of_scipy(seed: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    random = np.random.default_rng(seed)
    found = random.normal(random.normal(), 5, size=2 + seed).tolist()
    effect = over_seeds(found)
    low, high = stats.t.interval(0.95, len(found) - 1, loc=np.mean(found), scale=stats.sem(found))
    assert (effect.value, effect.low, effect.high) == pytest.approx((np.mean(found), low, high))
    assert effect.values == tuple(found)


def test_the_interval_of_two_seeds_is_the_closed_form_of_the_cauchy_distribution() -> None:
    pytest.importorskip("scipy")
    effect = over_seeds([10.0, 14.0])
    half = math.tan(0.475 * math.pi) * 2 * math.sqrt(2) / math.sqrt(2)  # Student's t of one degree of freedom
    assert (effect.low, effect.high) == pytest.approx((12 - half, 12 + half))


def test_seeds_that_agree_exactly_have_an_interval_of_no_width() -> None:
    pytest.importorskip("scipy")
    effect = over_seeds([3.0, 3.0, 3.0])
    assert (effect.value, effect.low, effect.high) == (3, 3, 3)
    assert judge("a > 3", effect, threshold=3.0).outcome == "undecided"
    assert judge("a > 2", effect, threshold=2.0).outcome == "held"


@pytest.mark.parametrize("hits, total", [(0, 10), (1, 10), (5, 10), (97, 100), (10, 10), (1234, 5000)])
def test_the_interval_over_images_is_scipys_of_wilson(hits: int, total: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    effect = over_images(Rate(hits, total))
    expected = stats.binomtest(hits, total).proportion_ci(confidence_level=0.95, method="wilson")
    assert effect.value == pytest.approx(100 * hits / total)
    assert (effect.low, effect.high) == pytest.approx((100 * expected.low, 100 * expected.high))
    assert effect.method == "within one seed: Wilson's over the images"


def test_of_no_images_nothing_is_known() -> None:
    effect = over_images(Rate(0, 0))
    assert (effect.low, effect.high) == (0, 100)
    assert judge("more than half", effect, threshold=50).outcome == "undecided"


def test_a_claim_holds_only_with_its_whole_interval() -> None:
    pytest.importorskip("scipy")
    assert judge("a > b", over_seeds([3.0, 3.1, 2.9])).outcome == "held"
    assert judge("a > b", over_seeds([-3.0, -3.1, -2.9])).outcome == "not held"
    assert judge("a > b", over_seeds([3.0, -1.0, 2.0])).outcome == "undecided"
    assert judge("a > b + 5", over_seeds([3.0, 3.1, 2.9]), threshold=5).outcome == "not held"


@pytest.mark.parametrize(
    "low, high, outcome",
    [
        (1.1, 2.0, "held"),
        (1.0, 2.0, "undecided"),
        (0.0, 0.9, "not held"),
        (0.0, 1.0, "undecided"),
        (0.5, 1.5, "undecided"),
    ],
)
def test_an_interval_that_touches_the_threshold_decides_nothing(low: float, high: float, outcome: str) -> None:
    effect = within_seed((low + high) / 2, low=low, high=high, method="planted")
    assert judge("a > 1", effect, threshold=1.0).outcome == outcome


def test_one_seed_decides_nothing_unless_its_images_do() -> None:
    assert judge("a > b", over_seeds([3.0])).outcome == "undecided"
    assert judge("a > b", over_seeds([])).outcome == "undecided"
    assert over_seeds([]).value is None
    effect = within_seed(3.0, low=1.0, high=5.0, method="bootstrap over 1,000 images")
    assert judge("a > b", effect).outcome == "held"
    assert effect.method == "within one seed: bootstrap over 1,000 images"


def test_of_a_true_null_effect_one_claim_in_forty_is_held() -> None:
    pytest.importorskip("scipy")
    random = np.random.default_rng(7)
    outcomes = [judge("a > b", over_seeds(random.normal(0, 1, 3).tolist())).outcome for _ in range(2000)]
    # 2.5 % on each side: 50 expected of 2,000, standard deviation 7.
    assert 25 < outcomes.count("held") < 75
    assert 25 < outcomes.count("not held") < 75


def texts(effect: Effect, **more: str | float) -> list[str]:
    table = verdict_section([judge("a > b", effect, **more)]).blocks[1]
    return [cell.text for cell in table.rows[0]]  # type: ignore[union-attr]


def test_the_table_of_verdicts_writes_points_with_one_decimal_and_plain_numbers_with_three() -> None:
    points = within_seed(-3.14159, low=-4.0, high=-2.0, method="planted: by hand")
    assert texts(points) == ["not held", "a > b", "−3.1 points", "−4.0 to −2.0"]
    plain = within_seed(0.031, low=0.019, high=0.042, method="planted", unit="")
    assert texts(plain) == ["held", "a > b", "0.031", "0.019 to 0.042"]
    assert texts(over_seeds([]))[2:] == ["undefined", ""]


def test_the_table_of_verdicts_has_a_column_for_thresholds_and_published_numbers_only_where_there_are_some() -> None:
    effect = within_seed(60.0, low=55.0, high=65.0, method="planted", unit="%")
    assert texts(effect, threshold=50.0, published="62") == ["held", "a > b", "60.0 %", "55.0 to 65.0", "50.0", "62"]
    assert texts(effect, note="3 of 3") == ["held", "a > b", "60.0 %", "55.0 to 65.0", "3 of 3"]

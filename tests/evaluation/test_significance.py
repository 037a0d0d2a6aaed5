"""Differences of two rates, against SciPy, closed forms and their own coverage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from edgeproof.evaluation.metrics import Rate
from edgeproof.evaluation.significance import fisher_exact, holm, paired_difference, unpaired_difference


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((8, 10), (1, 10)),
        ((0, 5), (5, 5)),
        ((0, 7), (0, 9)),
        ((3, 3), (4, 4)),
        ((471, 540), (440, 540)),
        ((9, 1000), (2, 37)),
    ],
)
def test_fishers_p_value_is_that_of_scipy(first: tuple[int, int], second: tuple[int, int]) -> None:
    table = [[first[0], first[1] - first[0]], [second[0], second[1] - second[0]]]
    assert fisher_exact(Rate(*first), Rate(*second)) == pytest.approx(stats.fisher_exact(table).pvalue, rel=1e-6)


def test_fishers_p_value_of_ten_thousand_images_is_that_of_scipy() -> None:
    table = [[7000, 3000], [6900, 3100]]
    found = fisher_exact(Rate(7000, 10_000), Rate(6900, 10_000))
    assert found == pytest.approx(stats.fisher_exact(table).pvalue, rel=1e-6)


def test_the_paired_p_value_is_the_binomial_test_of_the_discordant_images() -> None:
    assert paired_difference(12, 3, 100).p_value == pytest.approx(stats.binomtest(3, 15).pvalue, rel=1e-12)


def test_a_difference_is_the_second_rate_minus_the_first() -> None:
    assert paired_difference(12, 3, 100).value == pytest.approx(-0.09)
    assert unpaired_difference(Rate(40, 50), Rate(30, 60)).value == pytest.approx(-0.3)


def test_the_paired_interval_is_the_one_of_bonett_and_price() -> None:
    found = paired_difference(12, 3, 100)
    lost, gained = 13 / 102, 4 / 102
    half = 1.959964 * ((lost + gained - (gained - lost) ** 2) / 102) ** 0.5
    assert (found.low, found.high) == pytest.approx((gained - lost - half, gained - lost + half), rel=1e-6)


def test_intervals_hold_the_true_difference_about_as_often_as_they_say() -> None:
    random = np.random.default_rng(0)
    repeats, count = 600, 60
    lost, gained, _ = random.multinomial(count, (0.15, 0.05, 0.8), size=repeats).T
    paired = [paired_difference(int(a), int(b), count) for a, b in zip(lost, gained, strict=True)]
    first, second = random.binomial(count, 0.9, repeats), random.binomial(count, 0.7, repeats)
    unpaired = [
        unpaired_difference(Rate(int(a), count), Rate(int(b), count)) for a, b in zip(first, second, strict=True)
    ]
    for found, truth in ((paired, -0.1), (unpaired, -0.2)):
        assert 0.92 <= np.mean([difference.low <= truth <= difference.high for difference in found]) <= 0.98


def test_holm_multiplies_the_smallest_by_the_number_of_tests_and_never_decreases() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []

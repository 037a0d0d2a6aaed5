"""Metrics against closed forms, SciPy and scikit-learn, and on examples small enough to count by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sklearn_metrics

from edgeproof.evaluation import metrics
from edgeproof.evaluation.metrics import Rate

LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 2], np.int64)
CLEAN = np.array([0, 0, 0, 1, 1, 1, 2, 2], np.int64)  # right on 0 1 2 4 5 7
ATTACKED = np.array([0, 1, 2, 0, 1, 0, 1, 0], np.int64)  # right on 0 3 4 6


@settings(deadline=None, max_examples=40)
@given(total=st.integers(1, 5000), share=st.floats(0, 1))
def test_the_interval_is_scipys_wilson_interval(total: int, share: float) -> None:
    hits = round(share * total)
    expected = stats.binomtest(hits, total).proportion_ci(0.95, method="wilson")
    assert Rate(hits, total).interval == pytest.approx((expected.low, expected.high), abs=1e-12)


@settings(deadline=None, max_examples=40)
@given(total=st.integers(1, 10_000))
def test_the_interval_of_none_or_all_reaches_the_end_and_holds_the_value(total: int) -> None:
    assert Rate(0, total).interval[0] == 0.0  # type: ignore[index]
    assert Rate(total, total).interval[1] == 1.0  # type: ignore[index]


def test_a_rate_of_nothing_has_no_value() -> None:
    assert Rate(0, 0).value is None
    assert Rate(0, 0).interval is None


@settings(deadline=None, max_examples=40)
@given(first=st.integers(0, 400), second=st.integers(0, 400))
def test_the_sign_test_is_scipys_exact_binomial_test(first: int, second: int) -> None:
    expected = stats.binomtest(first, first + second).pvalue if first + second else 1.0
    assert metrics.sign_test(first, second) == pytest.approx(expected, rel=1e-9)


def test_the_sign_test_of_ten_thousand_pairs_is_exact_and_quick() -> None:
    assert metrics.sign_test(4900, 5100) == pytest.approx(stats.binomtest(4900, 10_000).pvalue, rel=1e-9)
    assert metrics.sign_test(0, 10_000) == 0.0  # 2^-9999 is under the smallest float


def test_mcnemar_counts_the_discordant_pairs() -> None:
    found = metrics.mcnemar(CLEAN, ATTACKED, LABELS)
    assert (found.only_reference_right, found.only_engine_right) == (4, 2)
    assert found.p_value == pytest.approx(stats.binomtest(2, 6).pvalue)


def test_success_is_counted_over_the_images_right_when_clean() -> None:
    assert metrics.attack_success(CLEAN, ATTACKED, LABELS) == Rate(4, 6)


def test_accuracy_falls_by_the_successes_less_the_images_that_the_attack_mends() -> None:
    assert metrics.accuracy(CLEAN, LABELS) == Rate(6, 8)
    assert metrics.accuracy(ATTACKED, LABELS) == Rate(4, 8)


def test_transfer_is_counted_over_the_successes_on_the_source_that_the_engine_has_right_when_clean() -> None:
    source_clean = np.array([0, 0, 0, 0, 0, 1, 1, 2], np.int64)  # wrong on 4
    source_attacked = np.array([1, 1, 0, 1, 0, 0, 0, 2], np.int64)
    # Fooled on the source: 0 1 3 5 6; of these the engine has 0 1 5 right when clean, and 1 5 wrong when attacked.
    assert metrics.transfer_rate(source_clean, source_attacked, CLEAN, ATTACKED, LABELS) == Rate(2, 3)
    # Both right when clean: 0 1 2 5 7; the engine is fooled on 1 2 5 7, the source on 0 1 5.
    assert metrics.transfer_ratio(source_clean, source_attacked, CLEAN, ATTACKED, LABELS) == pytest.approx(4 / 3)


def test_an_engine_that_equals_the_source_has_transfer_one() -> None:
    assert metrics.transfer_rate(CLEAN, ATTACKED, CLEAN, ATTACKED, LABELS).value == 1.0
    assert metrics.transfer_ratio(CLEAN, ATTACKED, CLEAN, ATTACKED, LABELS) == 1.0


def test_the_transfer_ratio_is_undefined_where_the_attack_never_succeeded_on_the_source() -> None:
    assert metrics.transfer_ratio(LABELS, LABELS, CLEAN, ATTACKED, LABELS) is None


def test_the_relative_difference_is_that_of_the_paper_and_undefined_at_zero() -> None:
    # Possas and Zhou, table 1: horse, under-sampled, 69 % clean, 18 % attacked.
    assert metrics.relative_difference(Rate(69, 100), Rate(18, 100)) == pytest.approx(73.91, abs=0.01)
    assert metrics.drop_points(Rate(69, 100), Rate(18, 100)) == pytest.approx(51.0)
    assert metrics.relative_difference(Rate(0, 10), Rate(0, 10)) is None
    assert metrics.relative_difference(Rate(0, 0), Rate(0, 0)) is None
    assert metrics.drop_points(Rate(0, 10), Rate(0, 10)) == 0
    assert metrics.drop_points(Rate(0, 0), Rate(0, 0)) is None


def test_the_relative_difference_is_negative_where_the_attack_helps() -> None:
    assert metrics.relative_difference(Rate(1, 2), Rate(3, 4)) == pytest.approx(-50)


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 6), st.integers(0, 200), st.integers(0, 2**31))
def test_confusion_and_per_class_accuracy_are_scikit_learns(classes: int, count: int, seed: int) -> None:
    labels, predicted = np.random.default_rng(seed).integers(0, classes, (2, count))
    counts = metrics.confusion(predicted, labels, num_classes=classes)
    rates = metrics.per_class_accuracy(predicted, labels, num_classes=classes)
    if count:
        expected = sklearn_metrics.confusion_matrix(labels, predicted, labels=range(classes))
        np.testing.assert_array_equal(counts, expected)
    assert [rate.hits for rate in rates] == np.diag(counts).tolist()
    assert [rate.total for rate in rates] == counts.sum(axis=1).tolist()
    assert sum(rate.hits for rate in rates) == metrics.accuracy(predicted, labels).hits


def test_the_worst_class_is_the_first_of_the_lowest_that_have_images() -> None:
    assert metrics.worst_class([Rate(0, 0), Rate(1, 2), Rate(1, 4), Rate(2, 8)]) == 2
    assert metrics.worst_class([Rate(0, 0)]) is None


def test_logits_with_nan_are_no_prediction_and_count_as_wrong() -> None:
    logits = np.array([[0, np.nan, 1], [3, 2, 3], [-np.inf, 0, 1]], np.float32)
    predicted = metrics.predictions(logits)
    assert predicted.tolist() == [-1, 0, 2]
    assert metrics.accuracy(predicted, np.array([1, 0, 2])) == Rate(2, 3)
    assert metrics.agreement(predicted, predicted) == Rate(2, 3)
    assert metrics.confusion(predicted, np.array([1, 0, 2]), num_classes=3).sum() == 2


def test_predictions_of_no_images_are_empty() -> None:
    assert metrics.predictions(np.empty((0, 3), np.float32)).shape == (0,)


def test_entropy_of_predictions_is_that_of_scipy_and_one_when_equal() -> None:
    predicted = np.array([0, 0, 0, 2, 2, 3, -1])
    expected = stats.entropy([3, 0, 2, 1]) / np.log(4)
    assert metrics.normalised_entropy(predicted, num_classes=4) == pytest.approx(expected, rel=1e-12)
    assert metrics.normalised_entropy(np.arange(4), num_classes=4) == pytest.approx(1)
    assert metrics.normalised_entropy(np.zeros(4, np.int64), num_classes=4) == 0
    assert metrics.normalised_entropy(np.full(3, -1), num_classes=4) is None


def test_top_shares_and_fooling_are_of_all_images() -> None:
    clean, attacked = np.array([0, 1, 2, 3, 1]), np.array([2, 2, 2, 3, -1])
    assert metrics.fooling_ratio(clean, attacked) == Rate(3, 5)
    assert metrics.top_share(attacked, num_classes=4, classes=1) == Rate(3, 5)
    assert metrics.top_share(attacked, num_classes=4, classes=3) == Rate(4, 5)

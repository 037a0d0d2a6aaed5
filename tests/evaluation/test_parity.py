from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from edgeproof.errors import DataError
from edgeproof.evaluation.metrics import Rate
from edgeproof.evaluation.parity import compare_logits, margins, max_abs_diff, sqnr_db

LABELS = np.array([0, 1, 1], np.int64)
REFERENCE = np.array([[2.0, 1.0, 0.0], [0.5, 0.4, 0.0], [0.0, 3.0, 1.0]], np.float32)


def test_equal_logits_agree_everywhere_without_noise() -> None:
    parity = compare_logits(REFERENCE, REFERENCE.copy(), LABELS)
    assert parity.max_abs_diff == 0.0
    assert parity.sqnr_db == math.inf
    assert parity.agreement == Rate(3, 3)
    assert parity.accuracy == parity.reference_accuracy == Rate(2, 3)
    assert parity.flips == ()


def test_numbers_are_those_worked_out_by_hand() -> None:
    candidate = REFERENCE + np.array([[0, 0, 0], [-0.1, 0.1, 0], [0, 0, -0.2]], np.float32)
    parity = compare_logits(REFERENCE, candidate, LABELS)
    assert parity.max_abs_diff == pytest.approx(0.2)
    assert parity.sqnr_db == pytest.approx(
        10 * math.log10((4 + 1 + 0.25 + 0.16 + 9 + 1) / (0.01 + 0.01 + 0.04)), abs=1e-4
    )
    assert (parity.flips, parity.agreement) == ((1,), Rate(2, 3))
    assert (parity.reference_accuracy, parity.accuracy) == (Rate(2, 3), Rate(3, 3))
    assert parity.accuracy_drop == pytest.approx(-1 / 3)
    assert parity.near_ties == Rate(1, 3)


def test_margins_are_between_the_two_largest_logits() -> None:
    np.testing.assert_allclose(margins(REFERENCE), [1.0, 0.1, 2.0], atol=1e-7)
    assert np.isinf(margins(np.ones((2, 1), np.float32))).all()


def test_halving_the_noise_gains_six_decibels() -> None:
    noise = np.random.default_rng(0).normal(size=REFERENCE.shape)
    gained = sqnr_db(REFERENCE, REFERENCE + noise / 2) - sqnr_db(REFERENCE, REFERENCE + noise)
    assert gained == pytest.approx(20 * math.log10(2))


logits = hnp.arrays(np.float32, (6, 4), elements=st.floats(-8, 8, width=32))


@given(logits, logits)
def test_only_near_ties_can_change_class(reference: NDArray[np.float32], change: NDArray[np.float32]) -> None:
    candidate = reference + change / 16
    parity = compare_logits(reference, candidate, np.zeros(6, np.int64))
    near = set(np.flatnonzero(margins(reference) <= 2 * parity.max_abs_diff).tolist())
    assert set(parity.flips) <= near
    assert parity.near_ties.hits == len(near)
    assert parity.agreement.hits + len(parity.flips) == 6


def test_logits_that_are_not_numbers_agree_with_nothing() -> None:
    candidate = REFERENCE.copy()
    candidate[0, 2] = np.nan
    parity = compare_logits(REFERENCE, candidate, LABELS)
    assert math.isnan(parity.max_abs_diff)
    assert parity.flips == (0,)
    assert parity.agreement == Rate(2, 3)
    assert parity.accuracy.hits == parity.reference_accuracy.hits - 1


def test_differences_are_taken_in_double_precision() -> None:
    large = np.array([[1e8, 0.0]], np.float32)
    assert max_abs_diff(large, np.array([[1e8 + 8, 0.0]])) == 8.0


@pytest.mark.parametrize(
    ("candidate", "labels"), [(REFERENCE[:, :2], LABELS), (REFERENCE[:2], LABELS), (REFERENCE, LABELS[:2])]
)
def test_logits_of_other_images_or_classes_cannot_be_compared(
    candidate: NDArray[np.float32], labels: NDArray[np.int64]
) -> None:
    with pytest.raises(DataError, match="cannot be compared; expected the same images, at least one"):
        compare_logits(REFERENCE, candidate, labels)


def test_no_images_cannot_be_compared() -> None:
    with pytest.raises(DataError, match=r"with 0 labels cannot be compared"):
        compare_logits(REFERENCE[:0], REFERENCE[:0], LABELS[:0])

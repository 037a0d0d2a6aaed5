from __future__ import annotations

import numpy as np
import pytest

from tests.closeness import assert_near


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_a_difference_is_held_to_a_share_of_the_largest_value(scale: float) -> None:
    expected = np.array([scale, -scale / 1000, 0])
    assert_near(expected + 0.9e-5 * scale, expected)
    for planted in (1.1e-5 * scale, np.nan):
        with pytest.raises(AssertionError, match="of the largest value; expected 1e-05"):
            assert_near(expected + np.array([0, 0, planted]), expected)


def test_zeros_and_shapes_have_to_be_equal() -> None:
    assert_near(np.zeros(3), np.zeros(3))
    assert_near(np.zeros((0, 3)), np.zeros((0, 3)))
    with pytest.raises(AssertionError):
        assert_near(np.full(3, 1e-30), np.zeros(3))
    with pytest.raises(AssertionError):
        assert_near(np.zeros((1, 3)), np.zeros(3))

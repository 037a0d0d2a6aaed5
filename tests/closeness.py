"""When two computations of the same numbers agree, on whatever processor they ran."""

from __future__ import annotations

from typing import Any

import numpy as np


def assert_near(found: Any, expected: Any, *, within: float = 1e-5) -> None:
    """Hold the largest difference to a share of the largest expected value.

    Processors, libraries and numbers of threads add in other orders. What a sum then differs in grows with its terms, not
    with what is left of them, so that neither a fixed tolerance nor one relative to each number holds everywhere.

    Args:
        found: Numbers, of the shape of `expected`.
        expected: Numbers, finite.
        within: The share, 1e-5 for sums of hundreds of float32 terms.
    """
    found, expected = np.asarray(found, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    assert found.shape == expected.shape
    largest = np.abs(expected).max(initial=0.0)
    difference = np.abs(found - expected).max(initial=0.0)
    assert difference <= within * largest, (  # NaN is in neither
        f"they differ by up to {difference:.3g}, which is {difference / (largest or 1):.2g} of the largest value; expected {within:g}"
    )

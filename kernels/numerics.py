"""NumPy arithmetic that the references share: float32 throughout, NaN kept by clipping and without a sign."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float32]
Array: TypeAlias = NDArray[Any]


def column(value: float | Array, x: Array) -> Array:
    """Return a number as an array without axes, and one value an image so that it broadcasts along images (N, ...)."""
    array = np.asarray(value)
    return array.reshape(-1, *[1] * (x.ndim - 1)) if array.ndim else array


def sign(values: Array) -> Floats:
    """Return -1, 0 or 1 in float32, 0 for NaN as torch does; NumPy's own sign of NaN is NaN."""
    return (values > 0).astype(np.float32) - (values < 0).astype(np.float32)


def clip(values: Floats, low: Floats | float, high: Floats | float) -> Floats:
    """Return min(max(values, low), high) in float32; NaN in any operand gives NaN."""
    clipped: Floats = np.minimum(np.maximum(values, np.float32(low)), np.float32(high))
    return clipped

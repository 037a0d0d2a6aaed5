"""What is asked of a graph: a box of inputs, and conditions on the outputs of which one has to hold somewhere in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Vector: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Region:
    """A box and the outputs that would break the property there.

    A counterexample is an x with lower <= x <= upper for whose outputs y all rows of one alternative hold:
    weights[a] @ y <= limits[a].

    Attributes:
        lower: (n,), in the units of the graph's input.
        upper: (n,).
        weights: (A, R, K), an alternative each, rows of zeros where it has fewer than R conditions.
        limits: (A, R), infinite for those rows.
    """

    lower: Vector
    upper: Vector
    weights: Vector
    limits: Vector

    @property
    def empty(self) -> bool:
        """Whether no input lies in the box."""
        return bool((self.lower > self.upper).any())

    def holds(self, x: Vector, y: Vector) -> bool:
        """Whether x (n,) with its outputs y (K,) is a counterexample, without any tolerance."""
        inside = bool(((self.lower <= x) & (x <= self.upper)).all())
        return inside and bool((self.weights @ y <= self.limits).all(axis=1).any())

    def representable(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the smallest and the largest float32 in each interval.

        Where an interval holds none (a fixed input such as 0.1) both are the rounded lower bound.
        """
        low, high = self.lower.astype(np.float32), self.upper.astype(np.float32)
        low = np.where(low < self.lower, np.nextafter(low, np.float32(np.inf)), low)
        high = np.where(high > self.upper, np.nextafter(high, np.float32(-np.inf)), high)
        none = low > high
        rounded = self.lower.astype(np.float32)
        return np.where(none, rounded, low), np.where(none, rounded, high)


@dataclass(frozen=True)
class Property:
    """Regions of which one with a counterexample is enough.

    Attributes:
        inputs: n, the numbers that the graph takes.
        outputs: K, the numbers that it gives.
        regions: With different boxes.
    """

    inputs: int
    outputs: int
    regions: tuple[Region, ...]

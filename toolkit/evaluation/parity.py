"""The distance of one form of a model from another on the same labelled images: pure functions of logits."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from edgeproof.errors import DataError
from edgeproof.evaluation.metrics import Rate, accuracy, agreement, predictions
from edgeproof.types import Array, Labels, Logits


@dataclass(frozen=True)
class Parity:
    """A candidate's logits next to a reference's.

    Attributes:
        max_abs_diff: Largest |logit difference|; NaN when a logit is.
        sqnr_db: Signal to quantisation noise, 10 log10(sum of reference^2 / sum of difference^2); infinite when equal.
        agreement: Images that both give the same class.
        reference_accuracy: Images that the reference classifies correctly.
        accuracy: Images that the candidate classifies correctly.
        near_ties: Images whose two largest reference logits are at most 2 * max_abs_diff apart. Only on these can the
            class change: a difference of at most d in each logit closes a margin by at most 2 d.
        flips: Positions of the images that do not get the same class, in increasing order.
    """

    max_abs_diff: float
    sqnr_db: float
    agreement: Rate
    reference_accuracy: Rate
    accuracy: Rate
    near_ties: Rate
    flips: tuple[int, ...]

    @property
    def accuracy_drop(self) -> float:
        """Accuracy that the candidate has lost, as a fraction; negative when it has gained."""
        return (self.reference_accuracy.hits - self.accuracy.hits) / self.accuracy.total


def compare_logits(reference: Logits, candidate: Logits, labels: Labels) -> Parity:
    """Compare two sets of logits (N, K) of the same images with labels (N,).

    Raises:
        DataError: When there are no images or the shapes differ.
    """
    if reference.shape != candidate.shape or len(reference) != len(labels) or not len(labels):
        raise DataError(
            f"logits of shapes {reference.shape} and {candidate.shape} with {len(labels)} labels cannot be compared; "
            "expected the same images, at least one, and the same classes"
        )
    difference = float(max_abs_diff(reference, candidate))
    before, after = predictions(reference), predictions(candidate)
    agreeing = agreement(before, after)
    return Parity(
        max_abs_diff=difference,
        sqnr_db=sqnr_db(reference, candidate),
        agreement=agreeing,
        reference_accuracy=accuracy(before, labels),
        accuracy=accuracy(after, labels),
        near_ties=Rate.of(margins(reference) <= 2 * difference),
        flips=tuple(np.flatnonzero((before != after) | (after < 0)).tolist()),
    )


def max_abs_diff(reference: Array, candidate: Array) -> float:
    """Return the largest |difference|, computed in float64; NaN when either holds one."""
    return float(np.abs(reference.astype(np.float64) - candidate.astype(np.float64)).max(initial=0.0))


def sqnr_db(reference: Array, candidate: Array) -> float:
    """Return the signal to quantisation noise ratio in decibels; infinite when nothing differs."""
    signal = float(np.square(reference.astype(np.float64)).sum())
    noise = float(np.square(reference.astype(np.float64) - candidate.astype(np.float64)).sum())
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf


def margins(logits: Logits) -> Array:
    """Return the distance between the two largest logits of each image, (N,) float64; infinite with one class."""
    if logits.shape[1] < 2:
        return np.full(len(logits), np.inf)
    top = np.partition(logits.astype(np.float64), -2, axis=1)[:, -2:]
    return np.asarray(top[:, 1] - top[:, 0])

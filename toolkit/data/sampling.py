"""How many images of each class, and which: pure functions of labels and class sizes."""

from __future__ import annotations

import numpy as np

from edgeproof.errors import DataError
from edgeproof.types import Array, Labels


def stratified_sample(labels: Labels, count: int, *, seed: int) -> Array:
    """Choose `count` positions with every class in proportion (largest remainders), in random order.

    Raises:
        DataError: When there are fewer than `count` images.
    """
    if count > len(labels):
        raise DataError(f"{count} images were asked for and there are {len(labels)}; ask for fewer")
    random = np.random.default_rng([seed, 1])
    classes, sizes = np.unique(labels, return_counts=True)
    quota, remainder = np.divmod(sizes * count, max(len(labels), 1))
    quota[np.argsort(-remainder, kind="stable")[: count - int(quota.sum())]] += 1
    chosen = [
        random.permutation(np.flatnonzero(labels == label))[:wanted]
        for label, wanted in zip(classes, quota, strict=True)
    ]
    return random.permutation(np.concatenate(chosen)) if chosen else np.empty(0, np.int64)


def held_out(sizes: Array, fraction: float) -> Array:
    """Return how many of each class to hold out: the fraction, rounded, but at least one."""
    return np.maximum(np.rint(sizes * fraction).astype(np.int64), 1)


def equal_shares(sizes: Array, total: int) -> Array:
    """Share `total` over classes as equally as their sizes allow, the first classes taking what does not divide."""
    shares = np.zeros(len(sizes), np.int64)
    while (left := min(total, int(sizes.sum())) - int(shares.sum())) > 0:
        open_ = np.flatnonzero(shares < sizes)
        each = max(left // len(open_), 1)
        shares[open_[:left]] += np.minimum(each, (sizes - shares)[open_[:left]])
    return shares

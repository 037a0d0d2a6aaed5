"""A record of what each query of an attack came to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from edgeproof.types import Array

NOT_FOUND = -1


class QueryTrace:
    """How often each image was shown to the model, and at which query it was first an adversary.

    Attributes:
        asked: (N,) int64.
        found: (N,) int64; -1 where no query has found one.
    """

    def __init__(self, count: int) -> None:
        self.asked = np.zeros(count, np.int64)
        self.found = np.full(count, NOT_FOUND, np.int64)

    def record(self, rows: Tensor, success: Tensor, *, queries: Tensor | int = 1) -> None:
        """Count queries (one, or (n,)) of these rows, and note those (n,) that succeed for the first time."""
        where, hit = rows.cpu().numpy(), success.cpu().numpy()
        self.asked[where] += queries.cpu().numpy() if isinstance(queries, Tensor) else queries
        first = where[hit & (self.found[where] == NOT_FOUND)]
        self.found[first] = self.asked[first]


def query_counts(found: Array, asked: Array, wrong_before: Array) -> Mapping[str, Any]:
    """Return the curve of success against queries, in counts.

    Args:
        found: (N,) query that first found an adversary, -1 for none.
        asked: (N,) queries spent.
        wrong_before: (N,) whether the clean image was misclassified already; no query is needed for it.

    Returns:
        images, wrong_before, found and not_found among the others, the queries spent, their median where an adversary was
        found (None without), and the curve: pairs of a number of queries and the images, of those right when clean, for
        which an adversary was found by then.
    """
    needed = found[(found != NOT_FOUND) & ~wrong_before]
    steps = [m * 10**k for k in range(9) for m in (1, 2, 5)]
    last = int(asked.max(initial=0))
    points = [step for step in steps if step < last] + ([last] if last else [])
    return {
        "images": len(found),
        "wrong_before": int(wrong_before.sum()),
        "found": len(needed),
        "not_found": len(found) - int(wrong_before.sum()) - len(needed),
        "spent": int(asked.sum()),
        "median": float(np.median(needed)) if len(needed) else None,
        "curve": [[step, int((needed <= step).sum())] for step in points],
    }

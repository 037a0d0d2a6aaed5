"""Attacks by queries: an engine as they see it, and a record of what each query came to."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgeproof.engines.base import Engine, predict_all
from edgeproof.types import Array

NOT_FOUND = -1


class QueriedEngine(nn.Module):
    """Any engine as a function of images on torch: logits, no gradients.

    Attributes:
        name: For people.
        input_shape: (C, H, W).
        num_classes: K.
        calls: Batch size to the number of calls that the engine has had with it.
        seconds: That the engine has taken for them.
        engine: What is asked.
    """

    def __init__(self, engine: Engine, *, name: str, batch_size: int) -> None:
        super().__init__()
        self.name = name
        self.input_shape = engine.info.input_shape
        self.num_classes = engine.info.num_classes
        self.calls: Counter[int] = Counter()
        self.seconds = 0.0
        self.engine = engine
        self._batch_size = batch_size

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, K) of images (N, C, H, W) in [0, 1], on the device and in the type of the images."""
        images = np.ascontiguousarray(x.detach().cpu().numpy(), np.float32)
        began = time.perf_counter()
        logits = predict_all(self.engine, images, batch_size=self._batch_size, advance=self._count)
        self.seconds += time.perf_counter() - began
        return torch.from_numpy(logits).to(x)

    def _count(self, size: int) -> None:
        self.calls[size] += 1


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

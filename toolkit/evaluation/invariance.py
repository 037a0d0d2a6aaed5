"""Batch invariance: an image must get the same class in every slot of every batch size.

Engines have broken this: kernels are chosen by shape, and rows of one batch have influenced each other (TensorRT issues 4813
and 3744, ONNX Runtime issue 10636).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeproof.engines.base import Engine
from edgeproof.evaluation.metrics import predictions
from edgeproof.evaluation.results import InvarianceRecord
from edgeproof.types import Images, Labels, Logits

BATCH_SIZES = (2, 3, 8, 32)
_MOST_SLOTS = 4


def batch_invariance(
    engine: Engine, images: Images, *, rows: Labels, batch_sizes: Sequence[int] = BATCH_SIZES
) -> InvarianceRecord:
    """Compare images alone with the same images in up to four slots of every batch size.

    Args:
        engine: The engine.
        images: (N, C, H, W) in [0, 1].
        rows: Which of them to try; `narrowest` finds those that tip first.
        batch_sizes: Sizes to try; those over the engine's largest are left out.
    """
    largest, images = engine.info.max_batch, images[rows]
    sizes = tuple(size for size in batch_sizes if largest is None or size <= largest)
    alone = _in_batches(engine, images, size=1, start=0)
    classes, flips = predictions(alone), np.zeros(len(images), bool)
    worst = 0.0
    for size in sizes:
        # The first image is spread over the slots of a batch, the first and the last included.
        slots = np.linspace(0, size - 1, min(size, _MOST_SLOTS)).round()
        for start in sorted({int(slot) for slot in slots}):
            found = _in_batches(engine, images, size=size, start=start)
            worst = max(worst, float(np.abs(found - alone).max(initial=0.0)))
            flips |= predictions(found) != classes
    return InvarianceRecord(
        images=len(images),
        batch_sizes=sizes,
        flips=int(flips.sum()),
        flipped=tuple(np.sort(rows[flips]).tolist()),
        max_abs_diff=worst,
    )


def narrowest(logits: Logits, count: int) -> Labels:
    """Return the rows of the images whose two largest logits are closest: a difference shows there first."""
    two = np.sort(logits, axis=1)[:, -2:]
    rows: Labels = np.argsort(two[:, 1] - two[:, 0], kind="stable")[:count].astype(np.int64)
    return rows


def _in_batches(engine: Engine, images: Images, *, size: int, start: int) -> Logits:
    """Predict full batches with the first image in slot `start` and the others behind it; the gaps repeat the images."""
    count = len(images)
    full = -(-(start + count) // size) * size
    rows = (np.arange(full) - start) % count
    logits = [engine.predict(np.ascontiguousarray(images[rows[at : at + size]])) for at in range(0, full, size)]
    return np.concatenate(logits)[start : start + count]

"""Batch invariance: an engine that mixes the rows of a batch is found, one that does not is not."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeproof.evaluation.invariance import BATCH_SIZES, batch_invariance, narrowest
from tests.fake_engine import FakeEngine

WEIGHTS = np.random.default_rng(0).normal(size=(3, 1, 2, 2)).astype(np.float32)
IMAGES = np.random.default_rng(1).random((40, 1, 2, 2), np.float32)
ROWS = np.arange(16)


class Odd:
    """An engine that goes wrong for one slot of one batch size."""

    def __init__(self, size: int, slot: int, max_batch: int | None = None) -> None:
        self.size, self.slot = size, slot
        self.info: Any = SimpleNamespace(max_batch=max_batch, num_classes=3)
        self.seen: set[tuple[int, int, bytes]] = set()

    def predict(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        self.seen |= {(len(images), slot, image.tobytes()) for slot, image in enumerate(images)}
        logits = np.einsum("nchw,kchw->nk", images, WEIGHTS)
        if len(images) == self.size:
            logits[self.slot] = -logits[self.slot]
        return logits


def test_an_engine_that_sums_image_by_image_is_invariant(tmp_path: Path) -> None:
    (tmp_path / "m.fake").write_text(json.dumps({"weights": WEIGHTS.tolist()}))
    found = batch_invariance(FakeEngine(tmp_path / "m.fake"), IMAGES, rows=ROWS)
    assert (found.images, found.flips, found.flipped, found.max_abs_diff) == (16, 0, (), 0.0)
    assert found.batch_sizes == BATCH_SIZES


@pytest.mark.parametrize("size", BATCH_SIZES)
@pytest.mark.parametrize("slot", ["first", "last"])
def test_an_engine_that_goes_wrong_in_one_slot_of_one_batch_size_is_found(size: int, slot: str) -> None:
    engine: Any = Odd(size, 0 if slot == "first" else size - 1)
    found = batch_invariance(engine, IMAGES, rows=ROWS)
    assert found.flips > 0
    assert found.max_abs_diff is not None
    assert found.max_abs_diff > 0.1
    assert set(found.flipped) <= set(ROWS.tolist())


def test_every_image_is_tried_in_every_batch_size() -> None:
    engine: Any = Odd(99, 0)
    batch_invariance(engine, IMAGES, rows=ROWS)
    for size in (1, *BATCH_SIZES):
        assert {image for count, _, image in engine.seen if count == size} >= {IMAGES[row].tobytes() for row in ROWS}


def test_batch_sizes_over_the_engines_largest_are_left_out() -> None:
    engine: Any = Odd(99, 0, max_batch=4)
    assert batch_invariance(engine, IMAGES, rows=ROWS).batch_sizes == (2, 3)
    assert max(count for count, _, _ in engine.seen) == 3


def test_the_images_with_the_closest_two_classes_are_tried_first() -> None:
    logits = np.array([[5, 1, 0], [3, 2.9, 0], [0, 1, 1.5], [9, 9, 0]], np.float32)
    assert narrowest(logits, 3).tolist() == [3, 1, 2]

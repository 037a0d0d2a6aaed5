"""Memory and disk at their end: batches halve, and one line says what was saved."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest

from edgeproof.engines.base import EngineInfo, predict_all
from edgeproof.errors import ExhaustedError, ModelError
from edgeproof.system.out_of_memory import BatchSize, exhausted, in_pieces
from edgeproof.types import Images, Logits


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (MemoryError(), "memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"), "memory"),
        (OSError(errno.ENOSPC, "No space left on device"), "disk"),
        (RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"), "disk"),
        (OSError(errno.EACCES, "Permission denied"), ""),
        (ValueError("a wrong shape"), ""),
    ],
)
def test_what_is_at_its_end_is_read_off_the_error(error: Exception, what: str) -> None:
    assert exhausted(error) == what
    wrapped = ModelError("the runtime failed")
    wrapped.__cause__ = error
    assert exhausted(wrapped) == what


def test_a_batch_that_does_not_fit_is_halved_for_good_and_said(caplog: pytest.LogCaptureFixture) -> None:
    asked: list[tuple[int, int]] = []

    def work(start: int, stop: int) -> range:
        asked.append((start, stop))
        if stop - start > 3:
            raise MemoryError
        return range(start, stop)

    size = BatchSize(10)
    assert [row for part in in_pieces(10, size, work) for row in part] == list(range(10))
    assert asked == [(0, 10), (0, 5), (0, 3), (3, 6), (6, 9), (9, 10)]
    assert size.images == 3
    assert caplog.messages == [
        "edgeproof: out of memory; 5 images at a time from here on",
        "edgeproof: out of memory; 3 images at a time from here on",
    ]


def test_one_image_that_does_not_fit_and_other_errors_pass() -> None:
    def fail(start: int, stop: int) -> None:
        raise MemoryError("one is too much")

    with pytest.raises(MemoryError, match="one is too much"):
        in_pieces(4, BatchSize(4), fail)
    with pytest.raises(ZeroDivisionError):
        in_pieces(4, BatchSize(4), lambda start, stop: 1 / 0)


class SmallEngine:
    """Gives the mean of each image, of at most four at a time."""

    info = EngineInfo("small", "fp32", "cpu", "numpy", (1, 2, 2), 1, None, "", {})

    def predict(self, images: Images) -> Logits:
        if len(images) > 4:
            raise ModelError("it failed: Failed to allocate memory for requested buffer of size 1")
        return images.mean(axis=(1, 2, 3)).reshape(-1, 1)

    def close(self) -> None: ...


def test_an_engine_out_of_memory_is_given_less_and_that_is_remembered() -> None:
    images = np.random.default_rng(0).random((11, 1, 2, 2), np.float32)
    size = BatchSize(11)
    for _ in range(2):
        np.testing.assert_allclose(
            predict_all(SmallEngine(), images, batch_size=size)[:, 0], images.mean(axis=(1, 2, 3)), rtol=1e-6
        )
    assert size.images == 3


def test_a_full_disk_ends_a_stage_in_one_line_that_says_what_is_kept(tmp_path_factory: pytest.TempPathFactory) -> None:
    from edgeproof.runs import Run
    from edgeproof.stages import interruptible

    def fill_up(root: Path) -> None:
        outs: list[Run] = []
        with interruptible(outs), Run.start("toy", "toy", config={}, root=root) as out:
            outs.append(out)
            raise OSError(errno.ENOSPC, "No space left on device", "x")

    message = r"disk is full \(.*No space left.*\); free some space; what was saved is in .*toy.*continues it"
    with pytest.raises(ExhaustedError, match=message):
        fill_up(tmp_path_factory.mktemp("runs"))

"""Memory or disk that run out: recognised among other errors, and batches that halve."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from typing import TypeVar

LOG = logging.getLogger(__name__)

#: How NumPy, torch on processors and on CUDA, ONNX Runtime, OpenVINO and TensorRT say it.
_MEMORY = (
    "out of memory", "out_of_memory", "can't allocate memory", "not enough memory", "cannot allocate memory", "unable to allocate",
    "failed to allocate memory", "bad_alloc", "bad allocation",
)  # fmt: skip
_FULL = (errno.ENOSPC, errno.EDQUOT)

R = TypeVar("R")


class BatchSize:
    """The number of images that are taken at once: halved for good when memory runs out.

    Attributes:
        images: The number now.
    """

    def __init__(self, images: int) -> None:
        self.images = images

    def halve(self, error: Exception) -> bool:
        """Halve the batch and say so; False where the error is another one, or one image is too much already."""
        if self.images <= 1 or exhausted(error) != "memory":
            return False
        self.images = (self.images + 1) // 2
        LOG.warning(f"edgeproof: out of memory; {self.images} images at a time from here on")
        return True


def in_pieces(count: int, size: BatchSize, work: Callable[[int, int], R]) -> list[R]:
    """Do `work(start, stop)` on all rows in order, as many at a time as memory allows, and return what each call gave.

    Raises:
        Exception: What `work` raises, but for a lack of memory as long as the batch can be halved.
    """
    done: list[R] = []
    start = 0
    while start < count:
        stop = min(start + size.images, count)
        try:
            done.append(work(start, stop))
        except Exception as error:  # the runtimes' own exceptions have no common root below Exception
            if not size.halve(error):
                raise
            continue
        start = stop
    return done


def exhausted(error: BaseException) -> str:
    """Return "memory" or "disk" where an error, or one that led to it, says that there is none left; else ""."""
    seen: BaseException | None = error
    for _ in range(10):
        if seen is None:
            return ""
        text = str(seen).lower()
        if isinstance(seen, MemoryError) or any(words in text for words in _MEMORY):
            return "memory"
        if (isinstance(seen, OSError) and seen.errno in _FULL) or "no space left on device" in text:
            return "disk"
        seen = seen.__cause__ or seen.__context__
    return ""

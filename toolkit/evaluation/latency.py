"""Throughput in images per second, measured in a way that compares engines fairly.

The engines take turns, so that what else the machine does falls on all of them alike; every sample is kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from edgeproof.engines.base import Engine
from edgeproof.evaluation.results import ThroughputRecord
from edgeproof.types import Images

WARM_UP, FEWEST, MOST = 1, 5, 30


@dataclass(frozen=True)
class Timing:
    """Seconds of every repeat of one engine on one batch, warm-up left out."""

    batch_size: int
    seconds: tuple[float, ...]

    def record(self) -> ThroughputRecord:
        """Return the median and the 5th and 95th percentile of images per second."""
        rates = self.batch_size / np.asarray(self.seconds)
        low, middle, high = np.percentile(rates, [5, 50, 95])
        return ThroughputRecord(
            batch_size=self.batch_size, repeats=len(rates), images_per_s=float(middle), p5=float(low), p95=float(high)
        )


def measure_throughput(
    engines: Mapping[str, Engine],
    images: Images,
    *,
    batch_size: int,
    seconds: float = 2.0,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Time `predict` on one batch, engines interleaved.

    Args:
        engines: Name to engine.
        images: (N, C, H, W) in [0, 1]; the batch is the first of them.
        batch_size: Images per call; fewer where there are fewer images or the engine takes fewer.
        seconds: About how long each engine is timed; between 5 and 30 repeats.
        clock: Seconds from any origin.
    """
    batches = {name: images[: min(batch_size, engine.info.max_batch or batch_size)] for name, engine in engines.items()}
    samples: dict[str, list[float]] = {name: [] for name in engines}
    for turn in range(WARM_UP + MOST):
        for name, engine in engines.items():
            if turn >= WARM_UP + FEWEST and sum(samples[name]) >= seconds:
                continue
            start = clock()
            engine.predict(batches[name])
            taken = clock() - start
            if turn >= WARM_UP:
                samples[name].append(taken)
    return {name: Timing(len(batches[name]), tuple(taken)) for name, taken in samples.items()}

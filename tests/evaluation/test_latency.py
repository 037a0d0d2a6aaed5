"""Throughput: order, warm-up and statistics, on a clock that the test turns."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgeproof.evaluation.latency import FEWEST, MOST, WARM_UP, Timing, measure_throughput


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def engine(clock: Clock, name: str, seconds: float, calls: list[tuple[str, int]], max_batch: int | None = None) -> Any:
    def predict(images: np.ndarray) -> None:
        calls.append((name, len(images)))
        # The first calls are slow, as with a runtime that prepares itself.
        clock.now += 100 if sum(call[0] == name for call in calls) <= WARM_UP else seconds

    return SimpleNamespace(predict=predict, info=SimpleNamespace(max_batch=max_batch))


def test_engines_take_turns_and_the_warm_up_is_left_out() -> None:
    clock, calls = Clock(), []  # type: tuple[Clock, list[tuple[str, int]]]
    engines = {"slow": engine(clock, "slow", 4.0, calls), "fast": engine(clock, "fast", 0.25, calls)}
    found = measure_throughput(engines, np.zeros((64, 1, 2, 2), np.float32), batch_size=32, seconds=2, clock=clock)
    assert [name for name, _ in calls[: 2 * (WARM_UP + FEWEST)]] == ["slow", "fast"] * (WARM_UP + FEWEST)
    assert found["slow"].seconds == (4.0,) * FEWEST
    assert found["fast"].seconds == (0.25,) * 8
    assert found["fast"].record().images_per_s == 128


def test_a_quick_engine_is_repeated_so_often_and_no_more() -> None:
    clock, calls = Clock(), []  # type: tuple[Clock, list[tuple[str, int]]]
    found = measure_throughput(
        {"fast": engine(clock, "fast", 1e-4, calls)}, np.zeros((8, 1, 2, 2), np.float32), batch_size=32, clock=clock
    )
    assert len(found["fast"].seconds) == MOST
    assert found["fast"].batch_size == 8


def test_an_engine_with_a_smaller_batch_gets_it() -> None:
    clock, calls = Clock(), []  # type: tuple[Clock, list[tuple[str, int]]]
    engines = {"fixed": engine(clock, "fixed", 0.5, calls, max_batch=4)}
    found = measure_throughput(engines, np.zeros((64, 1, 2, 2), np.float32), batch_size=32, clock=clock)
    assert {size for _, size in calls} == {4}
    assert found["fixed"].record().images_per_s == pytest.approx(8)


def test_the_record_has_the_median_and_the_percentiles_of_images_a_second() -> None:
    record = Timing(10, tuple(1 / rate for rate in range(1, 102))).record()
    assert (record.images_per_s, record.p5, record.p95) == pytest.approx((510, 60, 960))
    assert (record.batch_size, record.repeats) == (10, 101)

"""The record that every benchmark writes, and its sampling: the sides take turns, and every sample is kept."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from edgeproof.config import Strict
from edgeproof.system.environment import describe_environment

LOG = logging.getLogger(__name__)
BENCH_SCHEMA_VERSION = 1
T = TypeVar("T")

_BUSY = 0.1  # of the processors; an idle system's own services stay well under it
_PROC_STAT = Path("/proc/stat")
_TICKS_A_SECOND = 100  # USER_HZ, which Linux gives to programs whatever its own clock is


class BenchCase(Strict):
    """One side of a comparison.

    group: what is compared, for instance "pgd-20". name: the side. items: images (or elements) of one sample. seconds: of every
    round. rate: items a second, median with the 5th and 95th percentile. ratio: median over rounds of the baseline's seconds
    over this side's, 1 for the baseline and null where the group has none. quality: what was checked before the timing,
    for instance the share misclassified.
    """

    group: str
    name: str
    items: int
    seconds: tuple[float, ...]
    rate: float
    rate_p5: float
    rate_p95: float
    ratio: float | None
    quality: dict[str, float]


class LeftOutRecord(Strict):
    """A row that was asked for and could not be timed, and why."""

    group: str
    name: str
    reason: str


class BenchReport(Strict):
    """A benchmark's JSON file."""

    schema_version: int = BENCH_SCHEMA_VERSION
    kind: str
    settings: dict[str, int | float | str]
    cases: tuple[BenchCase, ...]
    environment: dict[str, str]
    left_out: tuple[LeftOutRecord, ...] = ()


@contextlib.contextmanager
def watch_other_programs() -> Iterator[dict[str, float]]:
    """Measure what share of the processors other programs use during the block, and say so in one line where it is much.

    Yields:
        A dictionary, which holds `other_programs_share` (0 to 1) once the block has ended; it stays empty on systems that do
        not say.
    """
    found: dict[str, float] = {}
    began, before, own = time.perf_counter(), _processor_ticks(), time.process_time()
    yield found
    wall, after = time.perf_counter() - began, _processor_ticks()
    if before is None or after is None or wall <= 0:
        return
    (busy, cores), own = ((after[0] - before[0]) / _TICKS_A_SECOND, after[1]), time.process_time() - own
    share = min(max((busy - own) / (wall * cores), 0.0), 1.0)
    found["other_programs_share"] = round(share, 3)
    if share > _BUSY:
        LOG.warning(
            f"edgeproof: other programs used {share:.0%} of the processors during the timing; the figures are of a busy "
            "machine: stop them and time again"
        )


def _processor_ticks() -> tuple[int, int] | None:
    """Return the ticks that all processors have been busy since the start, and how many processors there are."""
    try:
        lines = [line.split() for line in _PROC_STAT.read_text(encoding="ascii").splitlines() if line[:3] == "cpu"]
        # user, nice, system, idle, iowait, irq, softirq, steal; what guests use is in user already.
        user, nice, system, _, _, irq, softirq, steal = map(int, lines[0][1:9])
    except (OSError, ValueError, IndexError):
        return None
    return user + nice + system + irq + softirq + steal, max(len(lines) - 1, 1)


def take_turns(
    sides: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    warm_up: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Time every side once a round, so that a drift of the machine meets all of them.

    Args:
        sides: Name to what is timed.
        rounds: Samples of each.
        warm_up: Rounds before them that are not kept.
        clock: Seconds from any origin.
    """
    samples: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(warm_up + rounds):
        for name, run in sides.items():
            began = clock()
            run()
            if turn >= warm_up:
                samples[name].append(clock() - began)
    return samples


def take_turns_twice(
    sides: Mapping[str, Callable[[], T]],
    then: Callable[[str, T], object],
    *,
    rounds: int,
    warm_up: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Time every side once a round, alone and together with what follows it.

    Args:
        sides: Name to what is timed.
        then: Takes the side's name and what it gave.
        rounds: Samples of each.
        warm_up: Rounds before them that are not kept.
        clock: Seconds from any origin.

    Returns:
        The seconds of the sides alone, and with what follows.
    """
    alone: dict[str, list[float]] = {name: [] for name in sides}
    both: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(warm_up + rounds):
        for name, run in sides.items():
            began = clock()
            made = run()
            middle = clock()
            then(name, made)
            if turn >= warm_up:
                alone[name].append(middle - began)
                both[name].append(clock() - began)
    return alone, both


def compare_sides(
    group: str,
    samples: Mapping[str, list[float]],
    *,
    items: Mapping[str, int],
    quality: Mapping[str, Mapping[str, float]],
    baseline: str | None,
) -> list[BenchCase]:
    """Return a case for each side.

    Args:
        group: What is compared.
        samples: Seconds of every round, equally many for each side.
        items: How many images (or elements) one sample of each side handles.
        quality: What was checked of each side before it was timed.
        baseline: The side that ratios refer to, or None.
    """
    cases = []
    for name, seconds in samples.items():
        low, middle, high = np.percentile(items[name] / np.asarray(seconds), [5, 50, 95])
        against = None if baseline is None else np.asarray(samples[baseline]) / items[baseline]
        cases.append(
            BenchCase(
                group=group,
                name=name,
                items=items[name],
                seconds=tuple(seconds),
                rate=float(middle),
                rate_p5=float(low),
                rate_p95=float(high),
                ratio=None if against is None else float(np.median(against * items[name] / np.asarray(seconds))),
                quality=dict(quality.get(name, {})),
            )
        )
    return cases


def bench_report(
    kind: str,
    *,
    settings: Mapping[str, int | float | str],
    cases: list[BenchCase],
    left_out: Sequence[LeftOutRecord] = (),
) -> BenchReport:
    """Return a report of this machine."""
    return BenchReport(
        kind=kind,
        settings=dict(settings),
        cases=tuple(cases),
        environment=describe_environment(),
        left_out=tuple(left_out),
    )

"""Speed of engines: latency percentiles and images per second by batch size, and the memory that each needs."""

from __future__ import annotations

import logging
import multiprocessing
import re
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np

from edgeproof.config import BenchConfig
from edgeproof.engines.base import Engine
from edgeproof.engines.specs import EngineSpec, read_specs
from edgeproof.errors import ConfigError, DataError, ModelError, UnavailableError, first_line
from edgeproof.evaluation.bench import (
    BenchCase,
    BenchReport,
    LeftOutRecord,
    bench_report,
    compare_sides,
    take_turns,
    watch_other_programs,
)
from edgeproof.evaluation.metrics import agreement, predictions
from edgeproof.runs import Run, write_text
from edgeproof.system.progress import progress
from edgeproof.types import Images, Labels

LOG = logging.getLogger(__name__)


def bench_engines(config: BenchConfig, out: Run) -> BenchReport:
    """Time engines on the same random images, in turns, and write `bench.json`; the first engine is the baseline.

    The run is left unfinished. `quality` of each case holds the latency percentiles, the share of images on which the engine
    agrees with the first one, and its peak memory.

    Raises:
        ConfigError: When no engine is given or a batch size is not positive.
        DataError: When the engines take images of different shapes.
        ToolkitError: As opening engines raises.
    """
    if min(config.batch_sizes, default=0) < 1:
        raise ConfigError(f"batch sizes {list(config.batch_sizes)} cannot be timed; expected numbers from 1 on")
    specs = read_specs(config.engines)
    if not specs:
        raise ConfigError(
            "no engine to time: give graphs, checkpoints or run folders with --engine [NAME=][BACKEND:]PATH"
        )
    with ExitStack() as stack:
        engines = {spec.name: stack.enter_context(_open(spec, config)) for spec in specs}
        largest = {name: engine.info.max_batch or max(config.batch_sizes) for name, engine in engines.items()}
        if min(config.batch_sizes) > max(largest.values()):
            name = max(largest, key=lambda name: largest[name])
            raise ConfigError(
                f"no engine takes {min(config.batch_sizes)} images per call: {name} takes at most {largest[name]}; "
                f"add --batch-size {largest[name]}"
            )
        shape = _shared_shape(engines)
        with watch_other_programs() as others:
            cases, left_out = _time(engines, _random_images(max(config.batch_sizes), shape), config)
        if not cases:
            raise ModelError(
                f"no engine could be timed: {left_out[0].name} on {left_out[0].group}: {left_out[0].reason}"
            )
        settings = _settings(engines, config) | others
    if config.memory:
        for spec in specs:
            sizes = sorted({case.items for case in cases if case.name == spec.name})
            peaks = peak_memory(spec, shape, sizes, config)
            cases = [
                case.model_copy(update={"quality": {**case.quality, "peak_memory_bytes": float(peaks[case.items])}})
                if case.name == spec.name
                else case
                for case in cases
            ]
    report = bench_report("engines", settings=settings, cases=cases, left_out=left_out)
    write_text(out.path / "bench.json", report.model_dump_json(indent=1) + "\n")
    return report


def peak_memory(
    spec: EngineSpec, shape: tuple[int, int, int], batch_sizes: Sequence[int], config: BenchConfig
) -> dict[int, int]:
    """Open one engine in a fresh process and return the most that it held by each batch size, which grow.

    That is the whole process: interpreter, runtime, weights, images and buffers.

    Raises:
        UnavailableError: On a system that does not say.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_peaks_of_this_process, spec, shape, batch_sizes, config).result()


def _open(spec: EngineSpec, config: BenchConfig) -> Engine:
    return spec.open(device=config.device, threads=config.threads, mode=config.mode, output=config.output)


def _peaks_of_this_process(
    spec: EngineSpec, shape: tuple[int, int, int], batch_sizes: Sequence[int], config: BenchConfig
) -> dict[int, int]:
    peaks = {}
    with _open(spec, config) as engine:
        for size in batch_sizes:
            engine.predict(_random_images(size, shape))
            peaks[size] = _peak_of_this_process()
    return peaks


def _peak_of_this_process() -> int:
    """Return the bytes of memory that this process held at most since its program began."""
    if sys.platform == "linux":
        # Not ru_maxrss: it outlives fork and exec, so that a small child reports its large parent's peak.
        status = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace")
        if match := re.search(r"^VmHWM:\s*(\d+) kB$", status, re.MULTILINE):
            return int(match[1]) * 1024
    elif sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes here; a spawned process begins at 0
    raise UnavailableError("peak memory cannot be read on this system; add --no-memory")


def _shared_shape(engines: Mapping[str, Engine]) -> tuple[int, int, int]:
    shapes = {engine.info.input_shape for engine in engines.values()}
    if len(shapes) > 1:
        raise DataError(f"the engines take images of different shapes: {sorted(shapes)}; time them apart")
    return shapes.pop()


def _random_images(count: int, shape: tuple[int, int, int]) -> Images:
    return np.random.default_rng(0).random((count, *shape), np.float32)


def _time(
    engines: Mapping[str, Engine], images: Images, config: BenchConfig
) -> tuple[list[BenchCase], list[LeftOutRecord]]:
    """Time every engine at every batch size; what cannot run at one is left out of it, and named."""
    cases: list[BenchCase] = []
    left_out: list[LeftOutRecord] = []
    first = next(iter(engines))
    with progress("bench", len(config.batch_sizes)) as advance:
        for size in config.batch_sizes:
            group, classes = f"batch {size}", dict[str, Labels]()
            for name, engine in engines.items():
                try:
                    if size > (engine.info.max_batch or size):
                        raise DataError(f"takes at most {engine.info.max_batch} images per call")
                    classes[name] = predictions(engine.predict(images[:size]))
                except (DataError, ModelError) as error:
                    left_out.append(LeftOutRecord(group=group, name=name, reason=first_line(error)))
                    LOG.warning(f"edgeproof: {name} is not timed on {group}: {first_line(error)}")
            if classes:
                # The classes are compared before anything is timed: a quick wrong answer is no answer.
                reference = next(iter(classes.values()))
                quality = {
                    name: {"agreement": agreement(reference, found).value or 0.0} for name, found in classes.items()
                }
                sides = {name: partial(engines[name].predict, images[:size]) for name in classes}
                samples = take_turns(sides, rounds=config.rounds, warm_up=config.warm_up)
                for name, seconds in samples.items():
                    quality[name] |= _percentiles(seconds)
                baseline = first if first in classes else None
                items = dict.fromkeys(classes, size)
                cases += compare_sides(group, samples, items=items, quality=quality, baseline=baseline)
            advance(note=group)
    return cases, left_out


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    found = np.percentile(np.asarray(seconds) * 1000, [50, 90, 99])
    return {f"latency_p{share}_ms": float(value) for share, value in zip((50, 90, 99), found, strict=True)}


def _settings(engines: Mapping[str, Engine], config: BenchConfig) -> dict[str, int | float | str]:
    """Say what ran: rounds, and of every engine the precision, provider, threads and file hash."""
    settings: dict[str, int | float | str] = {
        "rounds": config.rounds,
        "warm_up": config.warm_up,
        "mode": config.mode,
    }
    for name, engine in engines.items():
        info = engine.info
        settings |= {
            f"{name}.backend": info.backend,
            f"{name}.precision": info.precision,
            f"{name}.provider": info.provider,
            f"{name}.device": info.device,
            f"{name}.threads": info.options.get("threads", "not set"),
            f"{name}.sha256": info.sha256,
        }
    return settings

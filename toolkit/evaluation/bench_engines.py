"""How fast engines are: latency percentiles and images a second by batch size, and the memory that each needs."""

from __future__ import annotations

import logging
import multiprocessing
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial

import numpy as np

from edgeproof.config import BenchConfig
from edgeproof.engines.base import Engine
from edgeproof.engines.specs import EngineSpec, read_specs
from edgeproof.errors import ConfigError, DataError, UnavailableError
from edgeproof.evaluation.bench import BenchCase, BenchReport, bench_report, compare_sides, take_turns
from edgeproof.evaluation.metrics import agreement, predictions
from edgeproof.runs import Run, write_text
from edgeproof.system.progress import progress
from edgeproof.types import Images

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
                f"no engine takes {min(config.batch_sizes)} images a call: {name} takes at most {largest[name]}; "
                f"add --batch-size {largest[name]}"
            )
        images = _images(engines, max(config.batch_sizes))
        cases = _time(engines, images, config)
        settings = _settings(engines, config)
    if config.memory:
        peaks = {spec.name: peak_memory(spec, images, config) for spec in specs}
        cases = [case.model_copy(update={"quality": {**case.quality, **peaks[case.name]}}) for case in cases]
    report = bench_report("engines", settings=settings, cases=cases)
    write_text(out.path / "bench.json", report.model_dump_json(indent=1) + "\n")
    return report


def peak_memory(spec: EngineSpec, images: Images, config: BenchConfig) -> dict[str, float]:
    """Open one engine in a fresh process and return what it held at most: interpreter, runtime, weights and buffers."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        peak = pool.submit(_peak_of_this_process, spec, images, config).result()
    return {"peak_memory_bytes": float(peak)}


def _open(spec: EngineSpec, config: BenchConfig) -> Engine:
    return spec.open(device=config.device, threads=config.threads, mode=config.mode, output=config.output)


def _peak_of_this_process(spec: EngineSpec, images: Images, config: BenchConfig) -> int:
    with _open(spec, config) as engine:
        engine.predict(images[: engine.info.max_batch])
    try:
        import resource
    except ModuleNotFoundError as error:  # Windows
        raise UnavailableError("peak memory cannot be read on this system; add --no-memory") from error
    # Kibibytes on Linux, bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _images(engines: Mapping[str, Engine], count: int) -> Images:
    shapes = {engine.info.input_shape for engine in engines.values()}
    if len(shapes) > 1:
        raise DataError(f"the engines take images of different shapes: {sorted(shapes)}; time them apart")
    return np.random.default_rng(0).random((count, *shapes.pop()), np.float32)


def _time(engines: Mapping[str, Engine], images: Images, config: BenchConfig) -> list[BenchCase]:
    cases: list[BenchCase] = []
    first = next(iter(engines))
    with progress("bench", len(config.batch_sizes)) as advance:
        for size in config.batch_sizes:
            fit = {name: engine for name, engine in engines.items() if size <= (engine.info.max_batch or size)}
            for name in engines.keys() - fit.keys():
                LOG.warning(
                    f"edgeproof: {name} takes at most {engines[name].info.max_batch} images a call; not timed at {size}"
                )
            if not fit:
                advance(note=f"batch {size}")
                continue
            quality = _agreement(fit, images[:size])
            sides = {name: partial(engine.predict, images[:size]) for name, engine in fit.items()}
            samples = take_turns(sides, rounds=config.rounds, warm_up=config.warm_up)
            for name, seconds in samples.items():
                quality[name] |= _percentiles(seconds)
            items = dict.fromkeys(fit, size)
            baseline = first if first in fit else None
            cases += compare_sides(f"batch {size}", samples, items=items, quality=quality, baseline=baseline)
            advance(note=f"batch {size}")
    return cases


def _agreement(engines: Mapping[str, Engine], images: Images) -> dict[str, dict[str, float]]:
    """Compare the classes with the first engine's before anything is timed: a quick wrong answer is no answer."""
    classes = {name: predictions(engine.predict(images)) for name, engine in engines.items()}
    return {
        name: {"agreement": agreement(next(iter(classes.values())), found).value or 0.0}
        for name, found in classes.items()
    }


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

"""Speed of the kernels on this machine's GPU, as JSON.

    python -m edgeproof.kernels.bench --out benchmarks/results/kernels-<gpu>.json

Every answer is checked before it is timed. The sides of a group take turns, a CUDA graph of the same launches each, so that
Python's own time is left out; the attack at the end is timed with it too. Needs torch with CUDA and pycuda.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import importlib.util
import json
import platform
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgeproof.kernels import runtime
from edgeproof.kernels.bench_sides import PGD_BATCH, PGD_STEPS, PIXELS, Side, groups, pgd_sides

SIZES = (10**6, 10**7, 10**8, 10**9)  # elements
LAUNCHES = 10  # in one graph


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the report; exits with 3 and a reason where there is no GPU to measure."""
    parser = argparse.ArgumentParser(prog="python -m edgeproof.kernels.bench", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="file for the report (default: standard output)")
    parser.add_argument("--rounds", type=int, default=20, help="samples of each side")
    parser.add_argument("--sizes", type=lambda text: int(float(text)), nargs="+", default=SIZES, help="elements")
    options = parser.parse_args(arguments)
    reason = why_not()
    if reason is not None:
        print(f"nothing measured: {reason}", file=sys.stderr)
        raise SystemExit(3)
    text = json.dumps(measure(options.sizes, rounds=options.rounds), indent=1)
    if options.out is None:
        print(text)
    else:
        options.out.write_text(text + "\n", encoding="utf-8")


def why_not() -> str | None:
    """Return None when the benchmark can run here, else why not."""
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed"
    import torch

    return runtime.available() if torch.cuda.is_available() else "torch finds no CUDA device"


def measure(sizes: Sequence[int], *, rounds: int) -> dict[str, Any]:
    """Run every group on the device and return the report."""
    cases: list[dict[str, Any]] = []
    left_out: list[str] = []
    with our_stream() as stream:
        for images in [max(1, size // PIXELS) for size in sizes]:
            for name, make in groups(images, stream):
                try:
                    cases += compare(f"{name}, {images} x 3 x 32 x 32", make(), images * PIXELS, rounds=rounds)
                except MemoryError as error:
                    left_out.append(f"{name}: {error}")
                release_memory()
        cases += compare_pgd(pgd_sides(stream), rounds=rounds)
    settings = {"rounds": rounds, "launches_in_a_graph": LAUNCHES, "left_out": "; ".join(left_out) or "nothing"}
    return {"schema_version": 1, "kind": "kernels", "settings": settings, "cases": cases, "environment": environment()}


def release_memory() -> None:
    """Give back what torch keeps, so that the free memory that is asked for is the free memory that there is."""
    import torch

    gc.collect()
    torch.cuda.empty_cache()


@contextmanager
def our_stream() -> Iterator[Any]:
    """Let torch and our launches work on one stream, which graphs can be captured from."""
    import torch

    stream = runtime.side_stream(0)
    with torch.cuda.stream(torch.cuda.ExternalStream(stream.handle)):  # type: ignore[no-untyped-call]
        yield stream


def captured(run: Callable[[], object]) -> Callable[[], None]:
    """Return a replay of what `run` launches; it has to have run before, so that nothing is loaded while capturing."""
    import torch

    for _ in range(3):
        run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
        run()
    replay: Callable[[], None] = graph.replay
    return replay


def compare(group: str, sides: Sequence[Side], items: int, *, rounds: int) -> list[dict[str, Any]]:
    """Time sides in turns, a graph of several launches each, and return a case for each; the first is the baseline."""
    print(f"measuring {group}", file=sys.stderr)
    graphs = {side.name: captured(repeated(side.run, LAUNCHES)) for side in sides}
    samples = take_turns(graphs, rounds=rounds, launches=LAUNCHES)
    return [case(group, side, items, samples, sides[0]) for side in sides]


def compare_pgd(steps: Sequence[Side], *, rounds: int) -> list[dict[str, Any]]:
    """Time attacks of several steps, launched one by one and as a graph of one step; torch's without is the baseline."""
    sides = list(steps) + [Side(f"{side.name}, graph", captured(side.run)) for side in steps]
    runs = {side.name: repeated(side.run, PGD_STEPS) for side in sides}
    samples = take_turns(runs, rounds=rounds, launches=1)
    return [case(f"pgd-{PGD_STEPS}, end to end", side, PGD_BATCH, samples, sides[0]) for side in sides]


def take_turns(runs: Mapping[str, Callable[[], object]], *, rounds: int, launches: int) -> dict[str, list[float]]:
    """Time every side once a round, so that a drift of the device meets all of them, after two rounds that are not kept."""
    samples: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(2 + rounds):
        for name, run in runs.items():
            seconds = device_seconds(run) / launches
            if turn >= 2:
                samples[name].append(seconds)
    return samples


def repeated(run: Callable[[], object], times: int) -> Callable[[], None]:
    """Return what does it several times."""

    def several() -> None:
        for _ in range(times):
            run()

    return several


def device_seconds(run: Callable[[], object]) -> float:
    """Return the time between two events around what is launched."""
    import torch

    began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    began.record()
    run()
    ended.record()
    ended.synchronize()
    return float(began.elapsed_time(ended)) / 1e3


def case(group: str, side: Side, items: int, samples: Mapping[str, Sequence[float]], baseline: Side) -> dict[str, Any]:
    """Return one side's entry of the report: medians, with the 5th and 95th percentile of the rates."""
    seconds = samples[side.name]
    rates = sorted(items / second for second in seconds)
    faster = [base / own for base, own in zip(samples[baseline.name], seconds, strict=True)]
    quality = {}
    if side.bytes:
        pace, copy_pace = (each.bytes / statistics.median(samples[each.name]) for each in (side, baseline))
        quality = {"gb_per_s": pace / 1e9, "share_of_copy": pace / copy_pace}
    return {
        "group": group,
        "name": side.name,
        "items": items,
        "seconds": list(seconds),
        "rate": statistics.median(rates),
        "rate_p5": percentile(rates, 0.05),
        "rate_p95": percentile(rates, 0.95),
        "ratio": statistics.median(faster),
        "quality": quality,
    }


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return a percentile of sorted values, interpolated linearly."""
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def environment() -> dict[str, str]:
    """Return the device and the versions that the numbers hold for."""
    import torch

    from edgeproof.kernels.compiler import compiler_version

    properties = torch.cuda.get_device_properties(0)
    return {
        "gpu": properties.name,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "memory_bytes": str(properties.total_memory),
        "cuda_of_torch": str(torch.version.cuda),
        "compiler": compiler_version().splitlines()[-1],
        "torch": torch.__version__,
        "pycuda": importlib.metadata.version("pycuda"),
        "python": platform.python_version(),
        "system": platform.platform(),
    }


if __name__ == "__main__":
    main()

"""What the engine contract costs: `predict_all` against a bare loop on the same session and batches.

    python benchmarks/engine_overhead.py runs/export-.../model.fp32.onnx --results benchmarks/results

Both sides give the same logits, which is checked before the timing, and take turns. Takes about a minute.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from edgeproof.engines.base import Engine, open_engine, predict_all
from edgeproof.engines.onnxrt import OnnxRuntimeEngine
from edgeproof.engines.openvino import OpenVinoEngine
from edgeproof.evaluation.bench import BenchCase, bench_report, compare_sides, take_turns
from edgeproof.runs import write_text
from edgeproof.types import Images, Logits

BATCHES = (1, 8, 32, 256)


def main() -> None:
    """Time both backends at every batch size and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("graph", type=Path)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--results", type=Path, help="folder to which the JSON file is written")
    options = parser.parse_args()
    cases = [
        case
        for backend in ("onnxruntime", "openvino")
        for case in compare(options.graph, backend, images=options.images, rounds=options.rounds)
    ]
    for case in cases:
        if case.name == "predict_all":
            print(f"{case.group}: {1 / (case.ratio or 1):.3f} of the bare loop's time, {case.rate:.0f} images/s")
    if options.results:
        report = bench_report("engine-overhead", settings={"graph": options.graph.name}, cases=cases)
        write_text(options.results / "engine-overhead.json", report.model_dump_json(indent=1) + "\n")


def compare(graph: Path, backend: str, *, images: int, rounds: int) -> list[BenchCase]:
    """Time one backend at every batch size."""
    cases = []
    with open_engine(graph, backend=backend) as engine:
        x = np.random.default_rng(0).random((images, *engine.info.input_shape), np.float32)
        for size in BATCHES:
            bare, ours = partial(loop, bare_call(engine), x, size), partial(predict_all, engine, x, batch_size=size)
            if not np.array_equal(bare(), ours()):
                raise SystemExit(f"{backend}: the two sides differ")
            samples = take_turns({"bare loop": bare, "predict_all": ours}, rounds=rounds)
            items = dict.fromkeys(samples, images)
            cases += compare_sides(f"{backend}, batch {size}", samples, items=items, quality={}, baseline="bare loop")
    return cases


def bare_call(engine: Engine) -> Callable[[Images], Logits]:
    """Return the shortest call on the engine's own session."""
    if isinstance(engine, OnnxRuntimeEngine):
        session, graph = engine._session, engine._signature
        return lambda batch: session.run([graph.output], {graph.input: batch})[0]  # type: ignore[no-any-return]
    if isinstance(engine, OpenVinoEngine):
        request, graph = engine._request, engine._signature
        return lambda batch: request.infer({graph.input: batch}, share_inputs=True)[graph.output]  # type: ignore[no-any-return]
    raise SystemExit(f"no bare loop for {engine.info.backend}")


def loop(call: Callable[[Images], Logits], images: Images, size: int) -> Logits:
    """Call batch by batch and join the logits."""
    return np.concatenate([call(images[start : start + size]) for start in range(0, len(images), size)])


if __name__ == "__main__":
    main()

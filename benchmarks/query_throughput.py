"""What an attack by queries costs beside the queries: Square on an engine against the engine alone in the same batches.

    python benchmarks/query_throughput.py --engine runs/export-.../model.int8-cpu.onnx --results benchmarks/results

The attack runs once to learn which batches it asks for; then the attack and the bare engine, asked for the same number of
batches of the same sizes, take turns. The ratio is the share of the engine's own images a second that the attack reaches.
Takes about 15 minutes for 1,000 CIFAR-10 images and 200 queries of `possas-vgg` on two cores.
"""

from __future__ import annotations

import argparse
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import torch

from edgeproof.attacks.base import Draws
from edgeproof.attacks.queries import QueryTrace
from edgeproof.attacks.square import square
from edgeproof.config import parse_number
from edgeproof.data.base import LabelledImages, load_dataset
from edgeproof.evaluation.bench import bench_report, compare_sides, take_turns
from edgeproof.runs import write_text
from edgeproof.source_model.engine import Queries, open_engine_source


def main() -> None:
    """Attack, time both sides and print the ratio."""
    options = read_options()
    data = load_dataset(options.data).test.head(options.images)
    with open_engine_source(options.engine, device="cpu", batch_size=options.batch_size) as source:
        engine = source.network
        attack = partial(craft, engine, data, options)
        found = attack()
        asked = Counter(engine.calls)
        samples = take_turns(
            {"engine": partial(ask, engine, data, asked), "square": attack}, rounds=options.rounds, warm_up=0
        )
    shown = sum(size * calls for size, calls in asked.items())
    quality = {"square": {"misclassified": found, "calls": float(asked.total()), "mean_batch": shown / asked.total()}}
    items = dict.fromkeys(samples, shown)
    cases = compare_sides("queries", samples, items=items, quality=quality, baseline="engine")
    for case in cases:
        print(f"{case.name}: {case.rate:.0f} images/s, {100 * (case.ratio or 0):.1f} % of the engine's own")
    if options.results:
        settings = {key: str(value) for key, value in vars(options).items() if key != "results"}
        report = bench_report("query-throughput", settings={**settings, "engine": source.name}, cases=cases)
        write_text(options.results / "query-throughput.json", report.model_dump_json(indent=1) + "\n")


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", required=True, help="[BACKEND:]PATH")
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--eps", type=parse_number, default=8 / 255)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--stop", choices=("first", "never"), default="first")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--results", type=Path, help="folder for query-throughput.json")
    return parser.parse_args()


def craft(engine: Queries, data: LabelledImages, options: argparse.Namespace) -> float:
    """Attack all images, a batch at a time, and return the share for which an adversary was found."""
    hits = 0
    for start in range(0, len(data), options.batch_size):
        part = data.take(np.arange(start, min(start + options.batch_size, len(data))))
        x, y = torch.from_numpy(part.images), torch.from_numpy(part.labels)
        trace, draws = QueryTrace(len(x)), Draws(seed=0, index=part.index)
        square(engine, x, y, eps=options.eps, queries=options.queries, stop=options.stop, draws=draws, trace=trace)
        hits += int((trace.found > 0).sum())
    return hits / len(data)


def ask(engine: Queries, data: LabelledImages, asked: Counter[int]) -> None:
    """Ask the engine for as many batches of each size as the attack did, without the wrapper that attacks see."""
    images = [np.ascontiguousarray(data.images[:size]) for size in asked]
    for batch, calls in zip(images, asked.values(), strict=True):
        for _ in range(calls):
            engine.engine.predict(batch)


if __name__ == "__main__":
    main()

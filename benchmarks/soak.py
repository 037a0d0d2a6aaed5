"""Craft and evaluate in a loop in one process, and hold its memory and its open files to a slope.

    python benchmarks/soak.py --minutes 60 --write soak.json

Each round attacks a small network with PGD, evaluates it and its ONNX graphs on the adversaries, writes the reports and
throws the runs away. After a warm-up of a fifth of the rounds (caches, allocator arenas), what is left is cut into twenty
stretches, and the least resident memory and the least open files of each are followed: growth beyond MEMORY_A_ROUND or
FILES_A_ROUND fails. The least, because an allocator gives memory back late, which raises single stretches; a leak raises all.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import theilslopes

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

MEMORY_A_ROUND = 16 * 2**10  # bytes: a leak of one image a round would be 1 KiB, of one batch 64 KiB
FILES_A_ROUND = 0.01
_FEWEST = 20  # rounds on which a slope means something


@dataclass(frozen=True)
class Sample:
    """What one round left behind."""

    seconds: float
    resident: int
    files: int


def prepare(root: Path) -> tuple[Path, Path]:
    """Train and export a small network; return both runs."""
    from edgeproof.config import ExportConfig, TrainConfig, build_config
    from edgeproof.stages import Place, run_stage

    train = build_config(TrainConfig, options={"data.name": "synthetic", "epochs": 4, "batch_size": 32, "lr": 0.02})
    model = run_stage("train", train, Place(root / "model")).path
    limits = {"parity.int8_accuracy_drop": 0.5, "parity.int8_min_agreement": 0.3, "exporter": "torchscript"}
    export = build_config(ExportConfig, options={"model": str(model), **limits})
    return model, run_stage("export", export, Place(root / "graphs")).path


def one_round(number: int, model: Path, graphs: Path, root: Path) -> None:
    """Craft adversaries with draws of their own and evaluate all engines on them."""
    from edgeproof.config import AttackConfig, EvalConfig, build_config
    from edgeproof.stages import Place, run_attacks, run_stage

    place = root / "round"
    attack = {
        "attack": "pgd-linf",
        "model": str(model),
        "eps": 0.1,
        "params.steps": 5,
        "seed": number,
        "batch_size": 16,
    }
    made = run_attacks([build_config(AttackConfig, options=attack)], Place(place / "attack"))[0].path
    config = {"engines": (str(model), str(graphs)), "sets": (str(made),), "throughput": False}
    run_stage("eval", build_config(EvalConfig, options=config), Place(place / "eval"))
    shutil.rmtree(place)


def measure(began: float) -> Sample:
    """Return the resident memory and the number of open files now."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return Sample(time.monotonic() - began, pages * resource.getpagesize(), len(os.listdir("/proc/self/fd")))


def growth(values: Sequence[int]) -> float:
    """Return how much the least value of a stretch grows a round after the warm-up (Theil-Sen slope)."""
    kept = np.asarray(values[len(values) // 5 :], float)
    width = max(len(kept) // 20, 1)
    least = kept[: len(kept) // width * width].reshape(-1, width).min(axis=1)
    return float(theilslopes(least).slope) / width


def summary(samples: Sequence[Sample]) -> str:
    """Say in one line what grew."""
    memory, files = growth([each.resident for each in samples]), growth([each.files for each in samples])
    first, last = samples[len(samples) // 5], samples[-1]
    return (
        f"{len(samples)} rounds in {last.seconds / 60:.1f} min; after the warm-up memory went from {first.resident / 2**20:.1f} to "
        f"{last.resident / 2**20:.1f} MiB (its floor {memory / 2**10:+.2f} KiB a round), open files from {first.files} to {last.files} "
        f"({files:+.4f} a round)"
    )


def soak(minutes: float, root: Path) -> list[Sample]:
    """Run rounds until the time is over."""
    model, graphs = prepare(root)
    began = time.monotonic()
    samples: list[Sample] = []
    while time.monotonic() - began < 60 * minutes or len(samples) < _FEWEST:
        one_round(len(samples), model, graphs, root)
        samples.append(measure(began))
    return samples


def main() -> int:
    """Run from the command line; exit status 1 when something grew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60, help="how long (default: 60)")
    parser.add_argument("--write", type=Path, help="JSON file for what was measured")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["EDGEPROOF_RUNS"] = folder
        samples = soak(options.minutes, Path(folder))
    print(summary(samples))
    memory, files = growth([each.resident for each in samples]), growth([each.files for each in samples])
    if options.write:
        about = {"rounds": len(samples), "memory_a_round": memory, "files_a_round": files}
        options.write.write_text(
            json.dumps({**about, "samples": [vars(each) for each in samples]}) + "\n", encoding="utf-8"
        )
    return int(memory > MEMORY_A_ROUND or files > FILES_A_ROUND)


if __name__ == "__main__":
    sys.exit(main())

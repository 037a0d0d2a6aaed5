"""One process against several on one machine, one thread each: how much sooner a training and an attack are done.

    python benchmarks/scaling.py --data cifar10 --model resnet-20 --results benchmarks/results

Every repeat runs each number of processes in turn, so that a change of the machine's speed meets all alike, and the ratios are
of one repeat. What is timed is the stage, from the opening of its run folder to its manifest (`seconds` there), so without
the imports, with the reading of the data; and beside it the whole command. Before anything is timed the answers are compared:
adversaries to the byte, the mean losses of the first epoch to 1 %.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from edgeproof.errors import ToolkitError
from edgeproof.runs import Run, write_json, write_text
from edgeproof.system.environment import describe_environment

CLI = Path(__file__).resolve().parent.parent / "cli.py"


@dataclass(frozen=True)
class Sample:
    """One command."""

    stage: str
    processes: int
    repeat: int
    stage_seconds: float
    command_seconds: float


def main() -> None:
    """Compare, time, print a table and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--model", default="resnet-20")
    parser.add_argument("--images", type=int, default=1024, help="of an epoch, and of the attack")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--steps", type=int, default=10, help="of PGD")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--results", type=Path, help="folder for scaling.json and scaling.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        samples = measure(options, Path(folder))
    report = {"options": {**vars(options), "results": None}, "environment": describe_environment()}
    table = markdown(samples, options)
    print(table)
    if options.results:
        write_json(options.results / "scaling.json", {**report, "samples": [asdict(sample) for sample in samples]})
        write_text(options.results / "scaling.md", table)


def measure(options: argparse.Namespace, folder: Path) -> list[Sample]:
    """Run everything once to compare the answers, and then `repeats` times for the clock."""
    lines = commands(options, model=folder / "train-0-1")
    samples = []
    for repeat in range(options.repeats + 1):
        for stage, line in lines.items():
            for count in options.processes:
                samples.append(run(stage, line, count, repeat, folder))
            if not repeat:
                compare(stage, [folder / f"{stage}-0-{count}" for count in options.processes])
    return [sample for sample in samples if sample.repeat]


def commands(options: argparse.Namespace, *, model: Path) -> dict[str, str]:
    """Return the two command lines."""
    size = f"--batch-size {options.batch_size}"
    return {
        "train": f"train --data {options.data} --set data.limit_train={options.images} --set data.validation=0 "
        f"--set data.calibration=0 --model {options.model} --epochs {options.epochs} {size}",
        "attack": f"attack pgd-linf --model {model} --eps 8/255 --steps {options.steps} --limit {options.images} {size} "
        "--probe 0",
    }


def run(stage: str, line: str, count: int, repeat: int, folder: Path) -> Sample:
    """Run a command on so many processes."""
    out = folder / f"{stage}-{repeat}-{count}"
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)] if count > 1 else []
    command = [sys.executable, *launch, str(CLI), *shlex.split(line), "--out", str(out)]
    print(f"{repeat}: {count} x {line}", file=sys.stderr, flush=True)
    begun = time.monotonic()
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
    taken = time.monotonic() - begun
    manifest = Run.open(out).manifest
    return Sample(stage, count, repeat, manifest.seconds if manifest else 0.0, round(taken, 3))


def compare(stage: str, folders: list[Path]) -> None:
    """Refuse to time what does not give the same answers.

    Raises:
        ToolkitError: When the files of two runs differ by more than the order of sums explains.
    """
    runs = [Run.open(folder) for folder in folders]
    if stage == "attack":
        answers = [[run.file(name).read_bytes() for name in run.outputs()] for run in runs]
        if any(answer != answers[0] for answer in answers):
            raise ToolkitError(f"{stage}: the adversaries differ between numbers of processes")
        return
    losses = [json.loads(run.file("history.json").read_bytes())["epochs"][0]["train_loss"] for run in runs]
    if max(losses) - min(losses) > 0.01 * losses[0]:
        raise ToolkitError(f"{stage}: the first epoch's losses differ between numbers of processes: {losses}")


def markdown(samples: list[Sample], options: argparse.Namespace) -> str:
    """Return the table: medians with the lowest and highest repeat, and ratios within a repeat."""
    images = {"train": options.images * options.epochs, "attack": options.images}
    rows = [
        ["stage", "processes", "stage, s", "images/s", "speed-up of the stage", "command, s", "speed-up of the command"]
    ]
    rows.append(["---"] * len(rows[0]))
    for stage in images:
        base = [sample for sample in samples if sample.stage == stage and sample.processes == options.processes[0]]
        for count in options.processes:
            own = [sample for sample in samples if sample.stage == stage and sample.processes == count]
            stages, wholes = [sample.stage_seconds for sample in own], [sample.command_seconds for sample in own]
            gains = [one.stage_seconds / many.stage_seconds for one, many in zip(base, own, strict=True)]
            whole_gains = [one.command_seconds / many.command_seconds for one, many in zip(base, own, strict=True)]
            rate = f"{images[stage] / statistics.median(stages):.0f}"
            rows.append([stage, str(count), spread(stages), rate, spread(gains), spread(wholes), spread(whole_gains)])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def spread(values: list[float]) -> str:
    """Write a median with its lowest and highest value."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()

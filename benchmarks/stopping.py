"""How far an adversary that has only just crossed its source's boundary transfers: FP32 checkpoint to deployed builds.

    python benchmarks/stopping.py --model runs/cifar10/model --graphs runs/cifar10/graphs --results benchmarks/results

The same PGD on the same images, with three rules for when an image is done; the sets are then carried to every build.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

from edgeproof.evaluation.results import Results
from edgeproof.reports.numbers import interval, percent
from edgeproof.runs import write_json

CLI = Path(__file__).resolve().parent.parent / "cli.py"
STOPS = ("first", "margin=1", "margin=3", "never")


def main() -> None:
    """Craft, evaluate, print a table and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="train run: the source")
    parser.add_argument("--graphs", type=Path, required=True, help="its export run")
    parser.add_argument("--eps", default="2/255")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--limit", type=int, default=2000, help="images")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where run folders go")
    parser.add_argument("--results", type=Path, help="folder for stopping.json")
    options = parser.parse_args()
    folders = [options.runs / f"stop-{stop.replace('=', '-')}" for stop in STOPS]
    for stop, folder in zip(STOPS, folders, strict=True):
        command(
            f"attack pgd-linf --model {options.model} --eps {options.eps} --steps {options.steps} --step-size 0.5/255 "
            f"--limit {options.limit} --stop {stop} --out {folder}"
        )
    sets = " ".join(f"--adversaries {folder}" for folder in folders)
    verdict = options.runs / "stop-verdict"
    command(f"eval --engine {options.model} --engine {options.graphs} {sets} --no-throughput --out {verdict}")
    results = Results.model_validate_json((verdict / "results.json").read_bytes())
    table = markdown(results)
    print(table)
    if options.results:
        settings = {key: getattr(options, key) for key in ("eps", "steps", "limit")}
        write_json(options.results / "stopping.json", {"settings": settings, **counts(results)})


def command(line: str) -> None:
    """Run a command of the toolkit, shown as it is typed."""
    print(f"$ edgeproof {line}", file=sys.stderr, flush=True)
    subprocess.run([sys.executable, str(CLI), *shlex.split(line)], check=True, stdout=subprocess.DEVNULL)


def counts(results: Results) -> dict[str, object]:
    """Return the images right by build and rule to stop, and where they were measured."""
    sets = dict(zip(("clean", *STOPS), (set_.name for set_ in results.sets), strict=True))
    right = {
        engine.name: {stop: results.cell(engine.name, name).accuracy.hits for stop, name in sets.items()}
        for engine in results.engines
    }
    return {"images": results.data["count"], "right": right, "environment": results.environment}


def markdown(results: Results) -> str:
    """Return the accuracy left, a build a row, a rule to stop a column."""
    names = [set_.name for set_ in results.sets]
    titles = ["clean", *(f"stop {stop}" for stop in STOPS)]
    rows = [["build", *titles], ["---"] * (len(titles) + 1)]
    for engine in results.engines:
        rates = [results.cell(engine.name, name).accuracy for name in names]
        rows.append([engine.name, *(f"{percent(rate.value)} ({interval(rate)})" for rate in rates)])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


if __name__ == "__main__":
    main()

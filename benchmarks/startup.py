"""How long a command takes before it does anything: wall seconds of `--help`, warm, beside a bare `python -c pass`.

python benchmarks/startup.py
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from edgeproof.system.environment import describe_environment

CLI = str(Path(__file__).resolve().parent.parent / "cli.py")
COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "--help": [CLI, "--help"],
    "train --help": [CLI, "train", "--help"],
    "attack pgd-linf --help": [CLI, "attack", "pgd-linf", "--help"],
    "list attacks": [CLI, "list", "attacks"],
}
REPEATS = 15


def seconds(arguments: list[str]) -> float:
    """Return how long one process takes."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    """Run the commands in turn, so that a drift of the machine meets all of them, and print the medians."""
    samples: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for repeat in range(REPEATS + 1):
        for name, arguments in COMMANDS.items():
            taken = seconds(arguments)
            if repeat:  # the first round warms the file cache
                samples[name].append(taken)
    medians = {name: round(statistics.median(values), 3) for name, values in samples.items()}
    print(json.dumps({"median_s": medians, "samples_s": samples, "environment": describe_environment()}, indent=1))


if __name__ == "__main__":
    main()

"""How long a command takes before it does anything: warm, in turns, as ratios to `python -c "import click"`.

python benchmarks/startup.py
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time

from edgeproof.system.environment import describe_environment

BASELINE = "import click"
COMMANDS = {
    BASELINE: ["-c", "import click"],
    "import edgeproof": ["-c", "import edgeproof"],
    "--help": ["-m", "edgeproof", "--help"],
    "train --help": ["-m", "edgeproof", "train", "--help"],
    "attack pgd-linf --help": ["-m", "edgeproof", "attack", "pgd-linf", "--help"],
    "list attacks": ["-m", "edgeproof", "list", "attacks"],
}
ROUNDS = 10


def seconds(arguments: list[str]) -> float:
    """Return how long one process takes."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    """Run the commands in turns, so that a drift of the machine meets all of them, and print medians and ratios."""
    samples: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for turn in range(ROUNDS + 1):
        for name, arguments in COMMANDS.items():
            taken = seconds(arguments)
            if turn:  # the first warms the file cache
                samples[name].append(taken)
    medians = {name: statistics.median(values) for name, values in samples.items()}
    result = {
        "ratio": {name: round(median / medians[BASELINE], 2) for name, median in medians.items()},
        "median_s": {name: round(median, 3) for name, median in medians.items()},
        "samples_s": samples,
        "environment": describe_environment(),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()

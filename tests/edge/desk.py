"""What the desk gives a device: a small bundle of a network trained here, and the desk's own evaluation of it.

    python -m tests.edge.desk FOLDER

writes FOLDER/edge.zip and FOLDER/runs/desk; `python -m tests.edge.device FOLDER`, without torch, does the device's part.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def command(folder: Path, *arguments: str) -> str:
    """Run one command of the command line as a user would, and return its stdout."""
    environment = {**os.environ, "EDGEPROOF_RUNS": str(folder / "runs")}
    line = [sys.executable, str(ROOT / "cli.py"), *arguments]
    done = subprocess.run(line, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)}: exit status {done.returncode}")
    return done.stdout.strip()


def main(folder: Path) -> None:
    """Train, attack, export, pack and evaluate; what is done already is not done again."""
    model, graphs, desk = (str(folder / "runs" / name) for name in ("model", "graphs", "desk"))
    sets = [str(folder / "runs" / name) for name in ("fgsm", "noise")]
    chosen = [word for path in sets for word in ("--adversaries", path)]
    command(folder, "train", "--data", "digits", "--model", "small-cnn", "--epochs", "3", "--out", model)
    command(folder, "attack", "fgsm", "--model", model, "--eps", "0.1", "--pixels", "uint8", "--out", sets[0])
    command(folder, "attack", "noise", "--model", model, "--eps", "0.1", "--pixels", "uint8", "--out", sets[1])
    packed = [*chosen, "--max-drop", "int8:clean_accuracy=0.05"]
    command(folder, "export", "--model", model, "--out", graphs, "--bundle", str(folder / "edge.zip"), *packed)
    command(folder, "eval", "--engine", graphs, *packed, "--no-throughput", "--out", desk)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

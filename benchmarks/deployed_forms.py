"""The main job on 10,000 real test images: the table of the README, made by the commands that a user would type.

    python benchmarks/deployed_forms.py cifar10 --results benchmarks/results

It may be stopped: finished stages are not repeated. Training is on one thread: how many there are changes the order of sums, and with it the weights.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from toolkit.evaluation.results import Results
from toolkit.reports.numbers import interval, percent

ROOT = Path(__file__).resolve().parent.parent

CIFAR_ATTACKS = (
    "noise --eps 8/255",
    "fgsm --eps 8/255",
    "pgd-linf --eps 1/255 --steps 10",
    "pgd-linf --eps 8/255 --steps 10",
)
GREY_ATTACKS = ("noise --eps 0.1", "fgsm --eps 0.1", "pgd-linf --eps 0.02 --steps 10", "pgd-linf --eps 0.1 --steps 10")


@dataclass(frozen=True)
class Preset:
    """A network and what it is attacked with."""

    training: str
    attacks: tuple[str, ...]
    limit: int | None = None  # test images, stratified; None: all 10,000


#: What OpenVINO computes in (without bfloat16 units it emulates them), and the graph.
OPENVINO = (
    ("fp32", "model.fp32.onnx"),
    ("bf16", "model.fp32.onnx"),
    ("fp32", "model.int8-cpu.onnx"),
    ("fp32", "model.int8-trt.onnx"),
)

PRESETS = {
    "fashion-mnist": Preset(
        "train --data fashion-mnist --model small-cnn --epochs 5 --lr 0.1 --augment flip --threads 1", GREY_ATTACKS
    ),
    "cifar10": Preset(
        "train --data cifar10 --model resnet-20 --epochs 8 --lr 0.1 --augment flip-crop --threads 1", CIFAR_ATTACKS
    ),
    "cifar10-possas-vgg": Preset(
        "train --data cifar10 --model possas-vgg --epochs 8 --optimizer adam --lr 1e-3 --weight-decay 0 --augment flip-crop --threads 1",
        CIFAR_ATTACKS,
    ),
    "cifar10-resnet-18": Preset(
        "train --data cifar10 --limit-train 10000 --model resnet-18 --epochs 3 --lr 0.1 --augment flip-crop --threads 1",
        CIFAR_ATTACKS,
        limit=1000,
    ),
}


def main() -> None:
    """Run one preset and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("preset", choices=PRESETS)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where run folders go")
    parser.add_argument("--results", type=Path, help="folder to which the results and the table are copied")
    options = parser.parse_args()
    preset = PRESETS[options.preset]
    root = options.runs / options.preset
    command(f"{preset.training} --out {root / 'model'}")
    part = f"--limit {preset.limit} " if preset.limit else ""
    for attack in preset.attacks:
        command(f"attack {attack} {part}--pixels uint8 --model {root / 'model'} --out {folder(root, attack)}")
    command(f"export --model {root / 'model'} --out {root / 'graphs'}")
    sets = " ".join(f"--adversaries {folder(root, attack)}" for attack in preset.attacks)
    graphs = root / "graphs"
    openvino = " ".join(f"--engine openvino+{precision}:{graphs / name}" for precision, name in OPENVINO)
    # Not pytorch+fp16: half-precision convolutions on a processor take minutes a set, where the others take seconds.
    engines = f"--engine {root / 'model'} --engine {graphs} {openvino}"
    command(f"eval {engines} {sets} --out {root / 'verdict'}")
    text = (root / "verdict" / "results.json").read_text(encoding="utf-8")
    table = markdown(Results.model_validate_json(text))
    print(table)
    if options.results:
        options.results.mkdir(parents=True, exist_ok=True)
        places = text.replace(f'"{options.runs}/', '"runs/')  # as if run without --runs
        (options.results / f"deployed-forms-{options.preset}.json").write_text(places, encoding="utf-8")
        (options.results / f"deployed-forms-{options.preset}.md").write_text(table, encoding="utf-8")


def command(line: str) -> None:
    """Run a command of the toolkit, shown as it is typed."""
    print(f"$ python cli.py {line}", file=sys.stderr, flush=True)
    subprocess.run([sys.executable, str(ROOT / "cli.py"), *shlex.split(line)], check=True, stdout=subprocess.DEVNULL)


def folder(root: Path, attack: str) -> Path:
    """Return the run folder of an attack's command line."""
    words = attack.split()
    return root / "-".join(word.replace("/", "-") for word in (words[0], words[2]))


def markdown(results: Results) -> str:
    """Return accuracy with its interval, an engine a row, a set a column."""
    names = [set_.name for set_ in results.sets]
    rows = [["build", *names, "images/s"], ["---"] * (len(names) + 2)]
    for engine in results.engines:
        rates = [results.cell(engine.name, name).accuracy for name in names]
        speed = f"{engine.throughput.images_per_s:,.0f}" if engine.throughput else ""
        rows.append([engine.name, *(f"{percent(rate.value)} ({interval(rate)})" for rate in rates), speed])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


if __name__ == "__main__":
    main()

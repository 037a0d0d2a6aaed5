"""DIVA compared with plain PGD: the share of images that the FP32 graph classifies correctly and an INT8 graph of it does not.

    python benchmarks/diva.py runs/export-vgg runs/export-resnet --results benchmarks/results

Each folder is an export run with model.fp32.onnx and model.int8-*.onnx. PGD is tried from either side: on the FP32 graph and on
the INT8 one. All shares are of the images that both graphs get right when clean, and are counted on ONNX Runtime. It may be
stopped: finished attacks are not repeated.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from edgeproof.attacks.confirm import compare_builds
from edgeproof.config import AttackConfig, format_eps, parse_number
from edgeproof.data.base import load_adversarial_set
from edgeproof.evaluation.metrics import Rate
from edgeproof.runs import Run, write_json, write_text
from edgeproof.source_model.opening import open_source
from edgeproof.stages import run_attacks
from edgeproof.system.environment import describe_environment

ATTACKS = ("diva", "pgd on FP32", "pgd on INT8")


@dataclass(frozen=True)
class Cell:
    """One attack at one budget on one pair of graphs."""

    folder: Path
    int8: Path
    attack: str
    eps: float


def main() -> None:
    """Run every cell, print the table and write the results."""
    options = read_options()
    pairs = [(folder, int8) for folder in options.graphs for int8 in sorted(folder.glob("model.int8-*.onnx"))]
    cells = [Cell(folder, int8, attack, eps) for (folder, int8), eps, attack in product(pairs, options.eps, ATTACKS)]
    rows = [{**describe(cell), **count(cell, options)} for cell in cells]
    print(table(rows))
    if options.results:
        settings = {"images": options.images, "steps": options.steps, "data": options.data}
        report = {"kind": "diva", "settings": settings, "rows": rows, "environment": describe_environment()}
        write_json(options.results / "diva.json", report)
        write_text(options.results / "diva.md", table(rows))


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("graphs", type=Path, nargs="+", help="export runs")
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--eps", type=parse_number, nargs="+", default=[4 / 255, 8 / 255])
    parser.add_argument("--results", type=Path, help="folder for diva.json and diva.md")
    return parser.parse_args()


def describe(cell: Cell) -> dict[str, Any]:
    """Return what a row is about: the network's and the recipe's names, the attack and the budget."""
    network = Run.open(Run.open(cell.folder, kind="export").config["model"], kind="train").config["model"]
    return {"network": network, "int8": cell.int8.stem, "attack": cell.attack, "eps": format_eps(cell.eps)}


def count(cell: Cell, options: argparse.Namespace) -> Mapping[str, Any]:
    """Attack, and count on both engines."""
    float_ = cell.folder / "model.fp32.onnx"
    source = cell.int8 if cell.attack == "pgd on INT8" else float_
    diva = cell.attack == "diva"
    config = AttackConfig(
        attack="diva" if diva else "pgd-linf",
        model=str(source),
        deployed=str(cell.int8) if diva else None,
        data=options.data,
        eps=cell.eps,
        params={"steps": options.steps},
        limit=options.images,
        probe=0,
    )
    (run,) = run_attacks([config])
    made = load_adversarial_set(run)
    if diva:
        return dict(made.findings["builds"])
    if source != float_:
        first = open_source(float_, device="cpu")
        attacked, clean = (first.served_logits(x, batch_size=256) for x in (made.images, made.clean.images))
        made = replace(made, source_logits=attacked, source_clean_logits=clean)
    judged = compare_builds(made, open_source(cell.int8, device="cpu"), batch_size=256)
    return dict(judged.findings["builds"])


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as Markdown."""
    lines = [
        "| network | INT8 graph | eps | attack | right in FP32, wrong in INT8 | FP32 right | INT8 right |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        found = Rate(row["found"], row["right_before"])
        low, high = found.interval or (0.0, 0.0)
        share = f"{100 * (found.value or 0):.1f} % ({100 * low:.1f} to {100 * high:.1f}; {found.hits} of {found.total})"
        right = [f"{100 * row[key] / row['images']:.1f} %" for key in ("source_right", "deployed_right")]
        lines.append(
            f"| {row['network']} | {row['int8']} | {row['eps']} | {row['attack']} | {share} | {' | '.join(right)} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

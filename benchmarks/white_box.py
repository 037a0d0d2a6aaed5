"""Deployed graphs attacked white-box, against adversaries transferred from the float checkpoint: the same budget, images and engines.

    python benchmarks/white_box.py --graphs runs/graphs --eps 1/255 --limit 1000 --results benchmarks/results --document docs/white-box.md

Made by the commands that a user would type: PGD on the checkpoint (transferred to every graph), PGD on each INT8 graph, PGD on FP32 and INT8
together (`--ensemble-builds`), with --queries Square on each INT8 engine, and one evaluation of all graphs on all sets. Choose eps so that the
transferred set leaves 20 to 60 %. Finished stages are not repeated. Results of several networks and budgets are collected in one file.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from edgeproof.evaluation.results import EngineRecord, Results, SetRecord
from edgeproof.reports.numbers import interval, p_value, percent, points
from edgeproof.reports.wording import gap as named
from edgeproof.runs import Run, write_json, write_text

ROOT = Path(__file__).resolve().parent.parent
START, END = "<!-- measured: white_box.py -->", "<!-- end -->"


def main() -> None:
    """Craft, evaluate and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graphs", type=Path, required=True, help="export run")
    parser.add_argument("--data", help="data set (default: the one that the network was trained on)")
    parser.add_argument("--eps", default="1/255")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--limit", type=int, default=1000, help="test images, stratified")
    parser.add_argument("--queries", type=int, default=0, help="of Square for each image on each INT8 engine; 0: none")
    parser.add_argument("--runs", type=Path, default=Path("runs/white-box"), help="where run folders go")
    parser.add_argument("--name", help="what the network is called in the results (default: the folder's name)")
    parser.add_argument("--results", type=Path, help="folder of white-box.json and .md")
    parser.add_argument("--document", type=Path, help="Markdown file whose measured part is replaced")
    options = parser.parse_args()
    verdict = craft_and_evaluate(options)
    results = Results.model_validate_json((verdict / "results.json").read_bytes())
    name = options.name or options.graphs.resolve().parent.name
    found = {f"{name}, eps {options.eps}": compare(results, steps=options.steps)}
    if options.results:
        file = options.results / "white-box.json"
        known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        found = {**known, **found}
        write_json(file, found)
        write_text(options.results / "white-box.md", markdown(found))
    if options.document:
        fill_in(options.document, markdown(found))
    print(markdown(found), end="")


def craft_and_evaluate(options: argparse.Namespace) -> Path:
    """Run the commands and return the eval run."""
    export = Run.open(options.graphs, kind="export")
    graphs = [options.graphs / name for name in export.outputs() if name.endswith(".onnx")]
    eight = [graph for graph in graphs if ".int8" in graph.name]
    shared = f"--eps {options.eps} --limit {options.limit} --pixels uint8" + (
        f" --data {options.data}" if options.data else ""
    )
    pgd = f"attack pgd-linf --steps {options.steps} {shared}"
    together = " ".join(f"--ensemble-builds {graph}" for graph in eight)
    place = options.runs / f"{options.eps.replace('/', '-')}-{options.limit}"
    commands = {"transferred": f"{pgd} --model {export.config['model']}"}
    commands |= {graph.stem: f"{pgd} --model {graph}" for graph in eight}
    commands |= {"together": f"{pgd} --model {options.graphs / 'model.fp32.onnx'} {together}"}
    if options.queries:
        square = f"attack square --queries {options.queries} {shared}"
        commands |= {f"square-{graph.stem}": f"{square} --model {graph}" for graph in eight}
    for folder, line in commands.items():
        command(f"{line} --out {place / folder}")
    sets = " ".join(f"--adversaries {place / folder}" for folder in commands)
    command(f"eval --engine {options.graphs} {sets} --no-throughput --out {place / 'verdict'}")
    return Path(place / "verdict")


def command(line: str) -> None:
    """Run a command of the toolkit, shown as it is typed."""
    print(f"$ edgeproof {line}", file=sys.stderr, flush=True)
    subprocess.run([sys.executable, str(ROOT / "cli.py"), *shlex.split(line)], check=True, stdout=subprocess.DEVNULL)


def compare(results: Results, *, steps: int) -> dict[str, Any]:
    """Return what each kind of attack leaves of each engine, and each gap with its test."""
    return {
        "data": results.data["name"],
        "images": results.data["count"],
        "steps": steps,
        "engines": {engine.name: left(results, engine) for engine in results.engines},
        "gaps": [{**gap.model_dump(), "verdict": named(gap)} for gap in results.gaps],
        "masking": [record.name for record in results.masking if record.reported],
    }


def left(results: Results, engine: EngineRecord) -> dict[str, str]:
    """Return an engine's accuracy by what the attacks knew, the best attack of each kind, and under all of them at once."""
    accuracy = {"clean": written(results, engine, "clean")}
    for set_ in results.sets:
        threat = results.cell(engine.name, set_.name).threat
        if threat is not None:
            accuracy[f"{threat}: {described(set_)}"] = written(results, engine, set_.name)
    worst = next((record for record in results.worst if record.engine == engine.name), None)
    return accuracy | (
        {"worst of all, per image": f"{percent(worst.accuracy.value)} ({interval(worst.accuracy)})"} if worst else {}
    )


def written(results: Results, engine: EngineRecord, set_: str) -> str:
    """Write an accuracy with its interval."""
    rate = results.cell(engine.name, set_).accuracy
    return f"{percent(rate.value)} ({interval(rate)})"


def described(set_: SetRecord) -> str:
    """Name a set by its attack and what it was made on."""
    sources = [part.rpartition("/")[2] for part in set_.source.split(" + ")]
    return f"{set_.attack} on {' + '.join(sources)}"


def markdown(found: dict[str, Any]) -> str:
    """Return, by network and budget, accuracy by engine and attack, and the gaps with their tests."""
    parts = []
    for name, record in found.items():
        parts.append(f"**{name}** ({record['images']:,} images of {record['data']}, {record['steps']} steps)")
        rows = [["engine", "attack", "accuracy"]]
        rows += [[engine, kind, rate] for engine, each in record["engines"].items() for kind, rate in each.items()]
        parts.append(_table(rows))
        rows = [
            [
                "engine",
                "knows less",
                "knows more",
                "difference, points",
                "only first right",
                "only second right",
                "McNemar p",
                "knowing more",
            ]
        ]
        rows += [_gap_row(gap) for gap in record["gaps"]]
        parts.append(_table(rows))
        parts.append(f"Signs of masked gradients that are reported: {', '.join(record['masking']) or 'none'}.")
    return "\n\n".join(parts) + "\n"


def _gap_row(gap: dict[str, Any]) -> list[str]:
    between = f"{points(100 * gap['low'])} to {points(100 * gap['high'])}"
    return [
        gap["engine"],
        f"{gap['first']} ({gap['first_threat']})",
        f"{gap['second']} ({gap['second_threat']})",
        f"{points(100 * gap['difference'])} ({between})",
        str(gap["only_first_right"]),
        str(gap["only_second_right"]),
        p_value(gap["p_value"]),
        gap["verdict"],
    ]


def _table(rows: list[list[str]]) -> str:
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def fill_in(file: Path, text: str) -> None:
    """Replace what stands between the two marks of a document."""
    before = file.read_text(encoding="utf-8")
    pattern = re.compile(f"{re.escape(START)}.*?{re.escape(END)}", re.DOTALL)
    if not pattern.search(before):
        sys.exit(f"{file} has no {START} ... {END}; put the two marks where the tables belong")
    write_text(file, pattern.sub(lambda _: f"{START}\n{text}{END}", before))


if __name__ == "__main__":
    main()

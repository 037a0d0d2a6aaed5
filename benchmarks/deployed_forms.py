"""The main job on 10,000 real test images: the tables of docs/deployed-forms.md and of the README, made by the commands that a user would type.

    python benchmarks/deployed_forms.py cifar10 --results benchmarks/results

It may be stopped: finished stages are not repeated. Training is on one thread: how many there are changes the order of sums, and with it the weights.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgeproof.evaluation.results import Results
from edgeproof.reports.numbers import interval, p_value, percent
from edgeproof.runs import write_text

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
    title: str
    limit: int | None = None  # test images, stratified; None: all 10,000
    export: str = ""  # further options of the export


#: What OpenVINO computes in (without bfloat16 units it emulates them), and the graph.
OPENVINO = (
    ("fp32", "model.fp32.onnx"),
    ("bf16", "model.fp32.onnx"),
    ("fp32", "model.int8-cpu.onnx"),
    ("fp32", "model.int8-trt.onnx"),
)

PRESETS = {
    "cifar10": Preset(
        "train --data cifar10 --model resnet-20 --epochs 8 --lr 0.1 --augment flip-crop --threads 1",
        CIFAR_ATTACKS,
        "resnet-20, CIFAR-10",
    ),
    "cifar10-possas-vgg": Preset(
        "train --data cifar10 --model possas-vgg --epochs 8 --optimizer adam --lr 1e-3 --weight-decay 0 --augment flip-crop --threads 1",
        CIFAR_ATTACKS,
        "possas-vgg, CIFAR-10",
    ),
    "cifar10-resnet-18": Preset(
        "train --data cifar10 --limit-train 6000 --model resnet-18 --epochs 3 --lr 0.1 --augment flip-crop --threads 1",
        CIFAR_ATTACKS,
        "resnet-18, CIFAR-10",
        limit=1000,
        export="--set parity.int8_min_agreement=0.85",  # hardly trained, so that many images are near-ties
    ),
    "fashion-mnist": Preset(
        "train --data fashion-mnist --model small-cnn --epochs 5 --lr 0.1 --augment flip --threads 1",
        GREY_ATTACKS,
        "small-cnn, Fashion-MNIST",
    ),
}

#: The presets whose INT8 builds the README shows: they differ from the float network in opposite directions.
IN_README = ("cifar10", "fashion-mnist")


def main() -> None:
    """Run one preset and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("preset", choices=PRESETS)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where run folders go")
    parser.add_argument("--results", type=Path, help="folder to which the results and the table are copied")
    parser.add_argument(
        "--document", type=Path, help="Markdown file with a place for each preset and the summary, which are filled in"
    )
    parser.add_argument(
        "--readme", type=Path, help="with --results: Markdown file with a place for the summary of two networks"
    )
    options = parser.parse_args()
    preset = PRESETS[options.preset]
    root = options.runs / options.preset
    command(f"{preset.training} --out {root / 'model'}")
    part = f"--limit {preset.limit} " if preset.limit else ""
    for attack in preset.attacks:
        command(f"attack {attack} {part}--pixels uint8 --model {root / 'model'} --out {folder(root, attack)}")
    command(f"export --model {root / 'model'} {preset.export} --out {root / 'graphs'}")
    sets = " ".join(f"--adversaries {folder(root, attack)}" for attack in preset.attacks)
    graphs = root / "graphs"
    openvino = " ".join(f"--engine openvino+{precision}:{graphs / name}" for precision, name in OPENVINO)
    # Not pytorch+fp16: half-precision convolutions on a processor take minutes a set, where the others take seconds.
    engines = f"--engine {root / 'model'} --engine {graphs} {openvino}"
    command(f"eval {engines} {sets} --out {root / 'verdict'}")
    text = (root / "verdict" / "results.json").read_text(encoding="utf-8")
    results = Results.model_validate_json(text)
    print(markdown(results))
    if options.results:
        places = text.replace(f'"{options.runs}/', '"runs/')  # as if run without --runs
        write_text(options.results / f"deployed-forms-{options.preset}.json", places)
    if options.document:
        fill_in(options.document, options.preset, in_full(results))
    if options.results:
        known = read_results(options.results)
        if options.document:
            fill_in(options.document, "summary", summary(known))
        if options.readme:
            fill_in(options.readme, "summary", summary({name: known[name] for name in IN_README}))


def read_results(folder: Path) -> dict[str, Results]:
    """Return the results that a folder holds, by preset."""
    files = {preset: folder / f"deployed-forms-{preset}.json" for preset in PRESETS}
    return {name: Results.model_validate_json(file.read_bytes()) for name, file in files.items() if file.is_file()}


def command(line: str) -> None:
    """Run a command of the toolkit, shown as it is typed."""
    print(f"$ edgeproof {line}", file=sys.stderr, flush=True)
    subprocess.run([sys.executable, str(ROOT / "cli.py"), *shlex.split(line)], check=True, stdout=subprocess.DEVNULL)


def folder(root: Path, attack: str) -> Path:
    """Return the run folder of an attack's command line."""
    words = attack.split()
    return root / "-".join(word.replace("/", "-") for word in (words[0], words[2]))


def fill_in(document: Path, preset: str, text: str) -> None:
    """Replace what a document says of this preset, between its two comments."""
    start, end = f"<!-- measured: {preset} -->", f"<!-- end: {preset} -->"
    before, _, rest = document.read_text(encoding="utf-8").partition(start)
    _, found, after = rest.partition(end)
    if not found:
        raise SystemExit(f"{document} has no place for {preset}: expected the lines {start} and {end}")
    write_text(document, f"{before}{start}\n\n{text}\n{end}{after}")


def markdown(results: Results) -> str:
    """Return accuracy with its interval, an engine a row, a set a column."""
    names = [set_.name for set_ in results.sets]
    rows = [["build", *names, "images/s"]]
    for engine in results.engines:
        rates = [results.cell(engine.name, name).accuracy for name in names]
        speed = f"{engine.throughput.images_per_s:,.0f}" if engine.throughput else ""
        rows.append([engine.name, *(f"{percent(rate.value)} ({interval(rate)})" for rate in rates), speed])
    return _table(rows)


def in_full(results: Results) -> str:
    """Return the table, each engine paired with the reference, and how all agree where they agree least."""
    apart = least_agreed(results)
    parts = [
        markdown(results),
        f"Each build compared with {results.reference}: images with the same class, then those that only {results.reference} and "
        "only the build classifies correctly, with the p of McNemar's exact test.\n",
        paired(results),
        f"Same class, per cent of the images of *{apart}*, where the builds agree least:\n",
        agreement(results, apart),
        f"Accuracy of each class minus that of {results.reference}, in points: of clean images, then of *{apart}*.\n",
        *(by_class(results, name) for name in (results.sets[0].name, apart)),
        kernels(results),
    ]
    return "\n".join(parts)


def summary(results: Mapping[str, Results]) -> str:
    """Return the INT8 builds of several networks next to their float network: clean, under the weakest PGD, and their speed.

    Args:
        results: By the name of the preset.
    """
    rows = [["network", "images", "build", "clean", "PGD, small budget", "correct: only float, only build (p)", "INT8 / FP32 images/s"]]  # fmt: skip
    for name, found in results.items():
        title = PRESETS[name].title
        clean = found.sets[0].name
        small = next(set_.name for set_ in found.sets if set_.name.startswith("pgd"))
        speed = {engine.name: engine.throughput.images_per_s for engine in found.engines if engine.throughput}
        for engine in found.engines:
            if engine.name != found.reference and "int8" not in engine.name:
                continue
            test = found.cell(engine.name, small).mcnemar
            first = engine.name == found.reference
            rows.append([
                title if first else "", f"{found.data['count']:,}" if first else "", engine.name,
                *(percent(found.cell(engine.name, each).accuracy.value) for each in (clean, small)),
                f"{test.only_reference_right}, {test.only_engine_right} ({p_value(test.p_value)})" if test else "",
                "" if first else f"{speed[engine.name] / speed[engine.name.split('-')[0] + '-fp32']:.2f}",
            ])  # fmt: skip
    return _table(rows)


def least_agreed(results: Results) -> str:
    """Return the adversarial set with the pair of engines that agree least."""
    attacked = [pair for pair in results.pairs if pair.set != results.sets[0].name]
    return min(attacked, key=lambda pair: pair.agreement.value or 0.0).set


def paired(results: Results) -> str:
    """Return agreement and McNemar's test, an engine a row, a set a column."""
    names = [set_.name for set_ in results.sets]
    rows = [["build", *names]]
    for engine in results.engines:
        cells = [results.cell(engine.name, name) for name in names]
        tests = [(cell.agreement, cell.mcnemar) for cell in cells if cell.agreement and cell.mcnemar]
        if tests:
            rows.append([engine.name, *(f"{percent(same.value)}: {test.only_reference_right}, {test.only_engine_right}, "
                                        f"{p_value(test.p_value)}" for same, test in tests)])  # fmt: skip
    return _table(rows)


def agreement(results: Results, set_: str) -> str:
    """Return the share of images with the same class, engine by engine."""
    names = [engine.name for engine in results.engines]
    share = {(pair.first, pair.second): pair.agreement.value for pair in results.pairs if pair.set == set_}
    share |= {(second, first): value for (first, second), value in share.items()}
    rows = [["", *names]]
    rows += [[row, *("" if row == name else f"{100 * (share[row, name] or 0):.2f}" for name in names)] for row in names]
    return _table(rows)


def by_class(results: Results, set_: str) -> str:
    """Return the difference of each class's accuracy to the reference's, an engine a row."""
    reference, labels = results.cell(results.reference, set_), range(len(results.classes))
    rows = [[set_, *results.classes]]
    for engine in results.engines:
        if engine.name != results.reference:
            ours = results.cell(engine.name, set_)
            changes = [100 * ((ours.rate(label).value or 0) - (reference.rate(label).value or 0)) for label in labels]
            rows.append([engine.name, *(f"{change:+.1f}" for change in changes)])
    return _table(rows)


def kernels(results: Results) -> str:
    """Say how much of each INT8 build the runtime computes in integers."""
    found = [(engine.name, engine.kernels) for engine in results.engines if engine.kernels]
    shares = ", ".join(f"{name} {each.integer} of {each.total}" for name, each in found)
    return f"Convolutions and matrix products in integer kernels: {shares}.\n"


def _table(rows: list[list[str]]) -> str:
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


if __name__ == "__main__":
    main()

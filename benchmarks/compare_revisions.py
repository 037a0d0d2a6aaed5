"""Whether two checkouts write the same bytes: every attack, and the trainings that contain one, by the command line of each.

    python benchmarks/compare_revisions.py OLD NEW --work /tmp/revisions

OLD and NEW are checkouts with an environment each in `.venv`. OLD trains and exports a small network; then both run the same
commands on it. Equal means: the same arrays in every file, and the same records of what was found.
The exit status is 1 where anything differs. One thread, so that no sum depends on the machine's load.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

#: Each attack with few steps, its budget, and in what else it is tried.
LINF, L2 = "--eps 0.1", "--eps 1"
STOPS = ("--stop first", "--stop margin=2")
TARGETS = ("--direction descent --label least-likely", "--label most-likely", "--direction descent --label 3")
MOMENTUM = (*(f"--keep best {stop}" for stop in STOPS), "--keep best", *TARGETS, "--step-size 0.03 --decay 0.5")
ATTACKS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "apgd-ce": (f"{LINF} --steps 12", (*STOPS, "--restarts 2", "--restarts 2 --stop first")),
    "apgd-dlr": (f"{LINF} --steps 12", (*STOPS, "--restarts 2")),
    "apgd-t": (f"{LINF} --steps 8", (*STOPS, "--targets 3")),
    "cw-l2": (f"{L2} --steps 20 --searches 3", ("--confidence 1",)),
    "deepfool": (f"{L2} --steps 10", ("--candidates 3 --overshoot 0.1",)),
    "di-fgsm": (LINF, (*MOMENTUM, "--probability 1 --smallest 0.5")),
    "diva": (f"{LINF} --deployed graphs/model.int8-trt.onnx", (*STOPS, "--random-start true --restarts 2", "--c 2")),
    "ensemble": (f"{LINF} --steps 8 --queries 40", (*STOPS, "--attacks fgsm,pgd-linf,ifgsm,noise")),
    "fgsm": (LINF, TARGETS),
    "fgsm-possas": ("--eps 0.05 --steps 2", TARGETS),
    "hop-skip-jump": (f"{LINF} --queries 150", ("--stop first",)),
    "hop-skip-jump-l2": (f"{L2} --queries 150", ("--stop first",)),
    "ifgsm": (LINF, (*STOPS, *TARGETS, "--step-size 0.03")),
    "ifgsm-unprojected": ("--eps 0.02 --steps 4", TARGETS),
    "mi-fgsm": (LINF, MOMENTUM),
    "noise": (LINF, ("--kind sign",)),
    "pgd-l2": (
        f"{L2} --steps 5",
        (*STOPS, *TARGETS, "--restarts 2", "--keep last", "--loss margin", "--random-start false", "--step-size 0.3"),
    ),
    "pgd-linf": (
        f"{LINF} --steps 5",
        (
            *STOPS, *TARGETS, "--restarts 2", "--restarts 2 --stop first", "--keep last", "--loss margin", "--loss dlr --stop first",
            "--random-start false", "--step-size 0.03", "--probe 8", "--probe 0", "--split train",
        ),
    ),
    "pgd-temperature": (f"{LINF} --steps 5", (*STOPS, "--restarts 2", "--rho 0.1")),
    "square": (f"{LINF} --queries 60", (*STOPS, "--share 0.3")),
    "ti-fgsm": (LINF, (*MOMENTUM, "--kernel-size 3 --sigma 2")),
    "universal": (
        f"{LINF} --steps 60 --fit-batch 32",
        (
            "--per class", "--method deepfool --steps 4", "--method deepfool --steps 4 --per class", "--direction descent --label 3",
            "--label most-likely", "--step-size 0.02 --beta 4",
        ),
    ),
    "universal-balanced": (
        f"{LINF} --steps 60 --fit-batch 32",
        ("--strength ce", "--reduction max --lam 1 --gam 0.5", "--penalty histogram --lam 1 --tau 0"),
    ),
    "universal-l2": (f"{L2} --steps 60 --fit-batch 32", ("--per class", "--method deepfool --steps 4")),
}  # fmt: skip

GRAPHS = tuple(f"graphs/model.{precision}.onnx" for precision in ("fp32", "fp16", "int8-trt"))
ON_GRAPHS = ("pgd-linf", "pgd-l2", "apgd-ce", "fgsm", "deepfool", "mi-fgsm", "noise", "universal", "square")
ON_BUILDS = ("pgd-linf", "pgd-l2", "pgd-temperature", "apgd-t", "di-fgsm", "ti-fgsm", "cw-l2", "fgsm", "universal")
NOT_8_BIT = ("fgsm-possas",)

#: Objectives that contain an attack, each with what it is given besides a budget.
OBJECTIVES = (
    "adversarial", "adversarial steps=3 random_start=false", "class-wise", "class-wise rule=cfa", "cost-sensitive protect=3", "free",
    "shared", "trades", "universal", "universal-two-stage",
)  # fmt: skip

#: Runs commands given as JSON on stdin, each in a process forked from one that has loaded everything already.
DRIVER = """
import json, os, sys
sys.path.insert(0, os.getcwd())
import cli, torch, torch.fx, onnx, onnxruntime, sklearn.datasets, importlib, pkgutil
torch.set_num_threads(1)
package = importlib.import_module("edgeproof" if os.path.exists("toolkit/__main__.py") else "toolkit")
for room in ("attacks", "source_model", "data", "models", "engines", "training.objectives"):
    try:
        folder = importlib.import_module(f"{package.__name__}.{room}")
    except ModuleNotFoundError:
        continue
    for module in pkgutil.iter_modules(folder.__path__, folder.__name__ + "."):
        if module.name.rpartition(".")[2] not in ("trt", "cuda_memory"):
            importlib.import_module(module.name)
for number, (words, log) in enumerate(json.load(sys.stdin)):
    pid = os.fork()
    if not pid:
        sys.argv = ["cli.py", *words]
        with open(log, "w") as file:
            os.dup2(file.fileno(), 1), os.dup2(file.fileno(), 2)
            status = 0
            try:
                cli.main()
            except SystemExit as end:
                status = end.code or 0
            sys.stdout.flush(), sys.stderr.flush()
        os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    print(json.dumps([number, status]), flush=True)
"""


def main() -> None:
    """Run both sides, print a table and fail where they differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument(
        "--work", type=Path, required=True, help="folder for the runs; those of OLD are kept and used again"
    )
    parser.add_argument("--only", default="", help="cases whose name contains this")
    options = parser.parse_args()
    work: Path = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    sides = {"old": options.old.resolve(), "new": options.new.resolve()}
    prepare(sides["old"], work)
    chosen = {name: words for name, words in cases(work) if options.only in name}
    found = {}
    for side, checkout in sides.items():
        table = work / f"{side}.json"
        known = json.loads(table.read_text()) if side == "old" and table.exists() else {}
        missing = {name: words for name, words in chosen.items() if name not in known}
        run(checkout, missing, work / side)
        known |= {name: contents(work / side / name) for name in missing}
        table.write_text(json.dumps(known, indent=1))
        found[side] = known
    different = [report(name, found["old"][name], found["new"][name]) for name in chosen]
    print(f"{len(chosen)} commands, {sum(different)} with a difference")
    sys.exit(any(different))


def prepare(checkout: Path, work: Path) -> None:
    """Train and export the network that everything is tried on, unless it is there."""
    if not (work / "graphs/manifest.json").exists():
        train = "train --data digits --epochs 2 --limit-train 600 --threads 1"
        run(checkout, {"model": train.split()}, work)
        export = f"export --model {work / 'model'} --precision fp32 --precision fp16 --precision int8 --recipe trt --parity-limit 100"
        run(checkout, {"graphs": [*export.split(), "--int8-accuracy-drop", "1", "--int8-min-agreement", "0.5"]}, work)


def cases(work: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield names of folders and the commands that fill them."""
    for attack, (base, more) in ATTACKS.items():
        on_grid = () if attack in NOT_8_BIT else ("--pixels uint8",)
        for extra in ("", "--gradients exact", *on_grid, *more, "--shard 2/3"):
            yield case(work, attack, f"{base} {extra}", title=extra)
    for attack in ON_GRAPHS:
        for graph in GRAPHS:
            yield case(work, attack, ATTACKS[attack][0], title=graph, model=graph)
    for attack in ON_BUILDS:
        builds = " ".join(f"--ensemble-builds {graph}" for graph in GRAPHS[1:])
        yield case(work, attack, f"{ATTACKS[attack][0]} {builds}", title="builds")
    for attack in ("square", "hop-skip-jump"):
        yield case(work, attack, ATTACKS[attack][0], title="engine", model=f"onnxruntime:{work / GRAPHS[2]}")
    yield case(work, "pgd-linf", f"{ATTACKS['pgd-linf'][0]} --gradients bf16", title="bf16")
    for objective in OBJECTIVES:
        name, *params = objective.split()
        words = f"train --data digits --epochs 1 --limit-train 300 --threads 1 --objective {name}"
        given = [word for param in ("eps=0.1", *params) for word in ("--set", f"objective_params.{param}")]
        yield f"train {objective}".replace(" ", "_"), [*words.split(), *given]
    poison = "poison --method error-minimising --data digits --limit-train 200 --trials 2 --threads 1"
    yield "poison_error-minimising", poison.split()


def case(work: Path, attack: str, options: str, *, title: str, model: str = "model") -> tuple[str, list[str]]:
    """Return the name and the command of one attack; graphs are those of the work folder."""
    words = f"attack {attack} --model {model} {options} --limit 64 --batch-size 24".split()
    here = [str(work / word) if word == "model" or word in GRAPHS else word for word in words]
    return "_".join([attack, *title.split()]).replace("/", "-"), here


def run(checkout: Path, commands: Mapping[str, list[str]], folder: Path) -> None:
    """Run commands of a checkout, each into its folder, and stop at the first that fails."""
    if not commands:
        return
    folder.mkdir(parents=True, exist_ok=True)
    logs = {name: folder / f"{name}.log" for name in commands}
    given = [([*words, "--fresh", "--out", str(folder / name)], str(logs[name])) for name, words in commands.items()]
    python, environment = checkout / ".venv/bin/python", {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [python, "-c", DRIVER], cwd=checkout, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as driver:
        assert driver.stdin is not None
        assert driver.stdout is not None
        driver.stdin.write(json.dumps(given))
        driver.stdin.close()
        for line in driver.stdout:
            number, status = json.loads(line)
            name = list(commands)[number]
            print(
                f"{checkout.name}: {name}" + (f" ended with {status}: {logs[name].read_text()}" if status else ""),
                file=sys.stderr,
            )


def contents(folder: Path) -> dict[str, str]:
    """Return what a run says, each file as its hash: of arrays the values, of records all but version and times."""
    if not (folder / "manifest.json").exists():
        return {"failed": folder.with_name(f"{folder.name}.log").read_text().strip().splitlines()[-1]}
    found = {}
    for file in sorted(
        path for path in folder.rglob("*") if path.is_file() and path.name not in ("manifest.json", "history.json")
    ):
        name = str(file.relative_to(folder))
        if file.suffix == ".npz":
            with np.load(file) as arrays:
                for key in sorted(arrays.files):
                    value = arrays[key]
                    about = f"{value.dtype} {value.shape} ".encode()
                    found[f"{name}:{key}"] = hashlib.sha256(about + value.tobytes()).hexdigest()
        elif file.suffix == ".json":
            record = json.loads(file.read_text())
            found |= (
                {f"{name}:{key}": json.dumps(value) for key, value in record.items()}
                if isinstance(record, dict)
                else {}
            )
        else:
            found[name] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


def report(name: str, old: Mapping[str, str], new: Mapping[str, str]) -> bool:
    """Print a line of the table; return whether the sides differ."""
    different = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
    shown = old.get("adversaries.npz:x_adv") or old.get("model.safetensors") or next(iter(old.values()))
    print(
        f"{name:60} {len(old):3} {shown[:16]:16} {'equal' if not different else 'DIFFERENT: ' + ', '.join(different)}"
    )
    for key in different:
        print(f"    {key}: {old.get(key)}\n      now {new.get(key)}")
    return bool(different)


if __name__ == "__main__":
    main()

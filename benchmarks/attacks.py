"""Attacks compared with those of foolbox, torchattacks and ART: adversarial images per second at equal success.

    python benchmarks/attacks.py --model runs/train-cifar10-resnet-20-... --results benchmarks/results

All sides attack the same images of the same model in the same batches, a round each in turn. What they find is checked
before anything is timed. ART is left out where it is not installed (pip install adversarial-robustness-toolbox packaging).
Takes about an hour for 1,024 CIFAR-10 images on two cores; fewer images or rounds: see --help.
"""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgeproof.attacks.base import Draws, find_attack
from edgeproof.attacks.configured import choose_attack, run_sweep
from edgeproof.config import parse_number
from edgeproof.data.base import load_splits
from edgeproof.data.origin import data_of
from edgeproof.evaluation.bench import BenchCase, bench_report, compare_sides, take_turns, take_turns_twice
from edgeproof.evaluation.metrics import mcnemar
from edgeproof.models.base import Classifier, load_classifier
from edgeproof.runs import Run, write_text
from edgeproof.source_model.folding import fast_form
from edgeproof.system.environment import package_version
from edgeproof.types import GradientMode, Labels

PEERS = {"foolbox": "foolbox", "torchattacks": "torchattacks", "art": "adversarial-robustness-toolbox"}

CLI = Path(__file__).resolve().parent.parent / "cli.py"

Crafter = Callable[[Tensor, Tensor], Tensor]  # images and classes of one batch -> adversaries


@dataclass(frozen=True)
class Setting:
    """What every side works on."""

    run: Path
    model: Classifier
    x: Tensor
    y: Tensor
    eps: float
    step_size: float
    steps: int
    batch_size: int
    full_steps: int
    queries: int
    bf16: bool


def main() -> None:
    """Compare, print a table and write the report."""
    options = read_options()
    setting = load_setting(options)
    cases: list[BenchCase] = []
    for group in options.groups:
        print(f"{group} ...", file=sys.stderr, flush=True)
        cases += GROUPS[group](setting, options.rounds)
        if options.results:
            write_report(options, setting, cases)
    print(table(cases))


def write_report(options: argparse.Namespace, setting: Setting, cases: list[BenchCase]) -> None:
    """Write what has been measured so far."""
    versions = {name: package_version(distribution) or "not installed" for name, distribution in PEERS.items()}
    settings: dict[str, int | float | str] = {
        "model": setting.run.name, "network": setting.model.name, "images": len(setting.x), "eps": setting.eps,
        "step_size": setting.step_size, "steps": setting.steps, "batch_size": setting.batch_size,
        "threads": torch.get_num_threads(), **versions,
    }  # fmt: skip
    report = bench_report("attacks", settings=settings, cases=cases)
    write_text(options.results / f"{options.name}.json", report.model_dump_json(indent=1) + "\n")
    write_text(options.results / f"{options.name}.md", table(cases) + "\n")


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a train run, undefended")
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--eps", type=parse_number, default=4 / 255)
    parser.add_argument("--step-size", type=parse_number, default=1 / 255)
    parser.add_argument("--steps", type=int, default=20, help="of PGD and APGD")
    parser.add_argument("--full-steps", type=int, default=100, help="of the attacks in the strength group")
    parser.add_argument("--queries", type=int, default=5000, help="of Square in the strength group")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument(
        "--bf16", action="store_true", help="time gradients under autocast too; slow without bfloat16 units"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--groups", nargs="+", choices=GROUPS, default=["fgsm", "pgd", "apgd", "growth", "memory"])
    parser.add_argument("--results", type=Path, help="folder for the report, written after every group")
    parser.add_argument("--name", default="attacks", help="of the report's two files")
    return parser.parse_args()


def load_setting(options: argparse.Namespace) -> Setting:
    """Open the model and its test images."""
    run = Run.open(options.model, kind="train")
    model = load_classifier(run.file("model.safetensors"))
    data = load_splits(data_of(run)).test.head(options.images)
    x, y = torch.from_numpy(data.images), torch.from_numpy(data.labels)
    chosen = {field.name: getattr(options, field.name) for field in fields(Setting) if hasattr(options, field.name)}
    return Setting(**{**chosen, "run": run.path, "model": model, "x": x, "y": y})


def in_batches(setting: Setting, craft: Crafter) -> Tensor:
    """Attack all images, a batch at a time."""
    starts = range(0, len(setting.x), setting.batch_size)
    parts = [slice(start, start + setting.batch_size) for start in starts]
    return torch.cat([craft(setting.x[part], setting.y[part]).detach() for part in parts])


def ours(name: str, setting: Setting, *, mode: GradientMode = "fast", stop: str = "never", **params: object) -> Crafter:
    """Return one of our attacks, contract check included."""
    model = fast_form(setting.model, setting.x[:8], mode=mode)
    chosen = choose_attack(find_attack(name), eps=setting.eps, params=params, stop=stop)
    return lambda x, y: chosen.run(model, x, y, draws=Draws(seed=0, index=np.arange(len(x))))


def foolbox_attack(name: str, setting: Setting, **options: Any) -> Crafter:
    """Return one of foolbox's attacks."""
    foolbox = quietly("foolbox")
    attack, model = getattr(foolbox.attacks, name)(**options), foolbox.PyTorchModel(setting.model, bounds=(0, 1))
    return lambda x, y: attack.run(model, x, foolbox.criteria.Misclassification(y), epsilon=setting.eps)


def torchattacks_attack(name: str, setting: Setting, **options: Any) -> Crafter:
    """Return one of torchattacks' attacks."""
    attack: Crafter = getattr(quietly("torchattacks"), name)(setting.model, eps=setting.eps, **options)
    return attack


def art_attack(name: str, setting: Setting, **options: Any) -> Crafter:
    """Return one of ART's attacks."""
    estimators, evasion = quietly("art.estimators.classification"), quietly("art.attacks.evasion")
    classes = setting.model.num_classes
    estimator = estimators.PyTorchClassifier(
        setting.model, nn.CrossEntropyLoss(), tuple(setting.x.shape[1:]), classes, clip_values=(0.0, 1.0)
    )
    attack = getattr(evasion, name)(estimator, eps=setting.eps, batch_size=setting.batch_size, **options)
    return lambda x, y: torch.from_numpy(attack.generate(x.numpy(), y.numpy()))


def quietly(module: str) -> Any:
    """Import a peer without its warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(module)


def installed(sides: Mapping[str, Callable[[], Crafter]]) -> dict[str, Crafter]:
    """Return the sides, without those of peers that are not installed."""
    kept = {name: make for name, make in sides.items() if name not in PEERS or package_version(PEERS[name])}
    for name in sides.keys() - kept.keys():
        print(f"{name} is left out: not installed (pip install {PEERS[name]} packaging)", file=sys.stderr)
    return {name: make() for name, make in kept.items()}


def compare(group: str, setting: Setting, rounds: int, sides: Mapping[str, Callable[[], Crafter]]) -> list[BenchCase]:
    """Check what each side finds (which warms it up), then time crafting alone and with the evaluation of what was found."""
    crafters = installed(sides)
    quality = {name: check(setting, in_batches(setting, craft)) for name, craft in crafters.items()}
    best = max(measured["success"] for measured in quality.values())
    for measured in quality.values():
        measured["within_half_a_point_of_the_best"] = float(measured["success"] >= best - 0.005)
    items = dict.fromkeys(crafters, len(setting.x))
    attacked = {name: partial(in_batches, setting, craft) for name, craft in crafters.items()}
    timed = take_turns_twice(attacked, lambda _, x_adv: evaluate(setting, x_adv), rounds=rounds, warm_up=0)
    cases = []
    for title, samples in zip((group, f"{group}, end to end"), timed, strict=True):
        cases += compare_sides(title, samples, items=items, quality=quality, baseline=fastest_peer(samples))
    return cases


def check(setting: Setting, x_adv: Tensor) -> dict[str, float]:
    """Return the share misclassified and the largest change; a side that leaves the budget stops the benchmark."""
    worst = float((x_adv - setting.x).abs().max())
    if worst > setting.eps + 1e-6 or float(x_adv.min()) < 0 or float(x_adv.max()) > 1:
        raise SystemExit(f"a side left its budget: max |x_adv - x| = {worst:.7f}, eps = {setting.eps:.7f}")
    return {"success": evaluate(setting, x_adv), "max_change": worst}


def evaluate(setting: Setting, x_adv: Tensor) -> float:
    """Return the share misclassified by the model itself."""
    return float((predictions(setting, x_adv) != setting.y.numpy()).mean())


@torch.no_grad()
def predictions(setting: Setting, x_adv: Tensor) -> Labels:
    """Return the model's own classes."""
    starts = range(0, len(x_adv), setting.batch_size)
    logits = torch.cat([setting.model(x_adv[start : start + setting.batch_size]) for start in starts])
    classes: Labels = logits.argmax(1).numpy()
    return classes


def fastest_peer(samples: Mapping[str, list[float]]) -> str | None:
    """Return the peer with the least median time, or None where there is none."""
    peers = {name: float(np.median(seconds)) for name, seconds in samples.items() if name in PEERS}
    return min(peers, key=peers.__getitem__) if peers else None


def fgsm(setting: Setting, rounds: int) -> list[BenchCase]:
    """Compare single steps, in four times as many rounds, since one takes seconds."""
    return compare(
        "fgsm",
        setting,
        4 * rounds,
        {
            "foolbox": partial(foolbox_attack, "FGSM", setting, random_start=False),
            "torchattacks": partial(torchattacks_attack, "FGSM", setting),
            "art": partial(art_attack, "FastGradientMethod", setting),
            "edgeproof": partial(ours, "fgsm", setting),
        },
    )


def pgd(setting: Setting, rounds: int) -> list[BenchCase]:
    """Compare PGD: the same work as the peers, and the modes that they do not have."""
    step, steps = setting.step_size, setting.steps
    never = partial(ours, "pgd-linf", setting, keep="last", step_size=step, steps=steps)
    first = partial(ours, "pgd-linf", setting, stop="first", step_size=step, steps=steps)
    sides: dict[str, Callable[[], Crafter]] = {
        "foolbox": partial(foolbox_attack, "LinfPGD", setting, abs_stepsize=step, steps=steps, random_start=True),
        "torchattacks": partial(torchattacks_attack, "PGD", setting, alpha=step, steps=steps),
        "art": partial(
            art_attack, "ProjectedGradientDescent", setting,
            eps_step=step, max_iter=steps, num_random_init=1, verbose=False,
        ),
        "edgeproof": never,
        "edgeproof, stop first": first,
    }  # fmt: skip
    if setting.bf16:
        sides |= {
            "edgeproof, bf16": partial(never, mode="bf16"),
            "edgeproof, stop first, bf16": partial(first, mode="bf16"),
        }
    return compare(f"pgd-{setting.steps}", setting, rounds, sides)


def apgd(setting: Setting, rounds: int) -> list[BenchCase]:
    """Compare Auto-PGD on the cross-entropy, on the images that the model gets right: torchattacks leaves out the others."""
    right = torch.from_numpy(predictions(setting, setting.x)) == setting.y
    setting = replace(setting, x=setting.x[right], y=setting.y[right])
    steps = setting.steps
    return compare(
        f"apgd-ce-{steps}",
        setting,
        rounds,
        {
            "torchattacks": partial(torchattacks_attack, "APGD", setting, steps=steps, loss="ce"),
            "art": partial(
                art_attack,
                "AutoProjectedGradientDescent",
                setting,
                max_iter=steps,
                nb_random_init=1,
                loss_type="cross_entropy",
                verbose=False,
            ),
            "edgeproof": partial(ours, "apgd-ce", setting, steps=steps),
            "edgeproof, stop first": partial(ours, "apgd-ce", setting, steps=steps, stop="first"),
        },
    )


def strength(setting: Setting, rounds: int) -> list[BenchCase]:
    """Pair our ensemble with the attacks of AutoAttack as torchattacks has them, run once; see the discordant images."""
    peer, model = quietly("torchattacks"), setting.model
    budget = {"eps": setting.eps, "seed": 0}
    classes = model.num_classes
    autoattack = peer.MultiAttack(
        [
            peer.APGD(model, steps=setting.full_steps, loss="ce", **budget),
            peer.APGDT(model, steps=setting.full_steps, n_classes=classes, **budget),
            peer.FAB(model, steps=setting.full_steps, multi_targeted=True, n_classes=classes, **budget),
            peer.Square(model, n_queries=setting.queries, **budget),
        ]
    )
    spec = find_attack("ensemble")
    sides: dict[str, Crafter] = {
        "torchattacks, AutoAttack": autoattack,
        "edgeproof, ensemble": ours(
            spec.name, setting, stop="first", steps=setting.full_steps, queries=setting.queries
        ),
        "edgeproof, apgd-ce": ours("apgd-ce", setting, stop="first", steps=setting.full_steps),
    }
    samples: dict[str, list[float]] = {}
    right: dict[str, Labels] = {}
    for name, craft in sides.items():
        began = time.perf_counter()
        x_adv = in_batches(setting, craft)
        samples[name] = [time.perf_counter() - began]
        check(setting, x_adv)
        right[name] = predictions(setting, x_adv)
    reference, labels = right["torchattacks, AutoAttack"], setting.y.numpy()
    quality = {name: paired(reference, predicted, labels) for name, predicted in right.items()}
    items = dict.fromkeys(sides, len(setting.x))
    return compare_sides("strength", samples, items=items, quality=quality, baseline="torchattacks, AutoAttack")


def paired(reference: Labels, predicted: Labels, labels: Labels) -> dict[str, float]:
    """Return the share misclassified, and on which images only one of the two sides succeeds."""
    test = mcnemar(reference, predicted, labels)
    return {
        "success": float((predicted != labels).mean()),
        "only_this_breaks": float(test.only_reference_right),
        "only_autoattack_breaks": float(test.only_engine_right),
        "mcnemar_p": test.p_value,
    }


def growth(setting: Setting, rounds: int) -> list[BenchCase]:
    """Time how the work grows: with steps, with images, and with the budgets of an FGSM sweep."""
    size = min(setting.batch_size, len(setting.x))
    x, y = setting.x[:size], setting.y[:size]

    def pgd_of(count: int, steps: int) -> Callable[[], object]:
        part = replace(setting, x=x[:count], y=y[:count], batch_size=size // 4)
        return partial(in_batches, part, ours("pgd-linf", part, steps=steps, keep="last"))

    def sweep_of(budgets: int) -> Callable[[], object]:
        model = fast_form(setting.model, x[:8], mode="fast")
        eps = [setting.eps * (k + 1) / budgets for k in range(budgets)]
        attacks = [choose_attack(find_attack("fgsm"), eps=each, params={}) for each in eps]
        return partial(run_sweep, attacks, model, x, y, draws=Draws(seed=0, index=np.arange(size)))

    compared = {
        "steps": {f"{steps} steps": pgd_of(size, steps) for steps in (5, 10, 20)},
        "images": {f"{count} images": pgd_of(count, 5) for count in (size // 4, size // 2, size)},
        "fgsm sweep": {f"{budgets} eps": sweep_of(budgets) for budgets in (1, 8)},
    }
    cases = []
    for group, sides in compared.items():
        samples = take_turns(sides, rounds=rounds)
        items = dict.fromkeys(sides, size)  # so that the ratio is that of the seconds
        cases += compare_sides(f"growth: {group}", samples, items=items, quality={}, baseline=next(iter(sides)))
    return cases


def memory(setting: Setting, rounds: int) -> list[BenchCase]:
    """Measure the peak memory of the attack command beside the size of what it writes, over the number of images."""
    cases = []
    for count in (500, 1000, 2000, 4000):
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            line = ["attack", "fgsm", "--model", str(setting.run), "--limit", str(count), "--out", f"{folder}/set"]
            process = subprocess.Popen([sys.executable, str(CLI), *line], stdout=subprocess.DEVNULL)
            _, status, usage = os.wait4(process.pid, 0)
            if status:
                raise SystemExit(f"the attack on {count} images left with status {status}")
            written = sum(file.stat().st_size for file in Path(folder).rglob("*.npz"))
        quality = {"peak_bytes": usage.ru_maxrss * 1024.0, "written_bytes": float(written)}
        seconds = {f"{count} images": [time.perf_counter() - began]}
        cases += compare_sides(
            "memory", seconds, items={f"{count} images": count}, quality={f"{count} images": quality}, baseline=None
        )
    return cases


def table(cases: Sequence[BenchCase]) -> str:
    """Return the cases as Markdown."""
    lines = [
        "| comparison | side | images/s (p5 to p95) | x the fastest peer | misclassified |",
        "| --- | --- | --- | --- | --- |",
    ]
    for case in cases:
        rate = f"{case.rate:.1f} ({case.rate_p5:.1f} to {case.rate_p95:.1f})"
        ratio = "" if case.ratio is None else f"{case.ratio:.2f}"
        if "peak_bytes" in case.quality:
            peak, written = case.quality["peak_bytes"] / 2**20, case.quality["written_bytes"] / 2**20
            ratio = f"peak {peak:.0f} MiB, written {written:.0f} MiB"
        success = f"{100 * case.quality['success']:.1f} %" if "success" in case.quality else ""
        lines.append(f"| {case.group} | {case.name} | {rate} | {ratio} | {success} |")
    return "\n".join(lines)


GROUPS: dict[str, Callable[[Setting, int], list[BenchCase]]] = {
    "fgsm": fgsm,
    "pgd": pgd,
    "apgd": apgd,
    "growth": growth,
    "memory": memory,
    "strength": strength,
}

if __name__ == "__main__":
    main()

"""Protected classes: cost-sensitive adversarial training and the Min-Max defence, with the controls that they need."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from statistics import mean
from typing import Any

from edgeproof.config import format_eps
from edgeproof.errors import ConfigError, nearest
from edgeproof.plugins.registry import register
from edgeproof.reports.document import Section
from edgeproof.runs import Run
from edgeproof.studies.base import Findings
from edgeproof.studies.frame import saved
from edgeproof.studies.jobs import NO_PARITY_LIMITS, Job
from edgeproof.studies.protected import findings, measure, report
from edgeproof.studies.protected.findings import INT8, TRANSFER
from edgeproof.studies.protected.rows import ROWS

# A budget that makes any image any other: what is still correct there is so because gradients are missing.
_LARGE = 0.5


@register(
    "protected",
    presets={
        "smoke": {
            "data": "digits",
            "train_images": 400,
            "epochs": 1,
            "protected_images": 12,
            "other_images": 4,
            "restarts": 1,
            "steps": 5,
            "queries": 20,
            "searches": 2,
            "cw_steps": 10,
            "eps": 0.1,
            "rows": ("normal", "normal-continued", "cse"),
        },
        "small": {},
        "medium": {"seeds": (0, 1, 2)},
        "paper": {
            "seeds": (0, 1, 2),
            "protect": (0, 1, 2, 3, 4, 5, 6, 7, 8, 9),
            "train_images": 60000,
            "epochs": 10,
            "protected_images": 100,
            "other_images": 100,
            "rows": (
                "normal",
                "normal-continued",
                "adv",
                "adv-continued",
                "csa-both",
                "csa-miss",
                "csa-false-alarm",
                "cse",
                "sparse-only",
                "cost-only",
                "l2-conv1",
                "pgd-at",
                "trades",
                "cfa",
                "dafa",
                "worst-class",
            ),
        },
    },
    former={
        "fashion": ("small", {"data": "fashion-mnist", "eps": 0.096, "eps_l2": 1.0, "conv2": 5.0}),
        "cifar": (
            "small",
            {"data": "cifar10", "eps": 0.006, "eps_l2": 0.25, "conv2": 1.0, "epochs": 10, "train_images": 20000},
        ),
    },
)
@dataclass(frozen=True, kw_only=True)
class Protected:
    """Cost-sensitive adversarial training of protected classes, and the Min-Max defence.

    After Shen et al. (2022, arXiv:2101.12372), with what their code does not have: adversarial training continued for as many
    epochs, each half of the cost matrix, sparsity, cost and weight decay of the first convolution alone, and the deployed
    forms. Differing from it, one step of the optimiser sees clean and attacked images together, FGSM's images are clipped to
    [0, 1], the learning rate is constant and no checkpoint is chosen by the test images.

    Args:
        seeds: Each seed trains every row again, on training and test images drawn with it.
        data: Data set.
        model: Network, with at least one convolution, two where `conv2` is set.
        protect: Numbers of the protected classes.
        cost: What their mistakes cost; every other mistake costs 1.
        rows: Ways of training; most continue another one.
        train_images: Training images.
        epochs: Epochs of each training.
        eps: L-infinity budget in pixel units; the paper's 0.3 is in normalised units, 0.092 on MNIST.
        eps_l2: L2 budget of DeepFool and of Carlini & Wagner.
        conv1: Weight of the penalty of the first convolution.
        conv2: Weight of the penalty of the second convolution.
        protected_images: Test images of each protected class.
        other_images: Test images of each other class; means over classes give every class the same weight.
        steps: Steps of PGD.
        restarts: Random starts of PGD.
        cw_steps: Steps of Carlini & Wagner for each constant.
        searches: Constants that Carlini & Wagner try.
        queries: Queries of Square.
    """

    seeds: tuple[int, ...] = (0,)
    data: str = "mnist"
    model: str = "lenet"
    protect: tuple[int, ...] = (8,)
    cost: float = 10.0
    rows: tuple[str, ...] = (
        "normal",
        "normal-continued",
        "adv",
        "adv-continued",
        "csa-both",
        "csa-miss",
        "cse",
        "sparse-only",
        "cost-only",
        "l2-conv1",
    )
    train_images: int = 10000
    epochs: int = 4
    eps: float = 0.092
    eps_l2: float = 1.5
    conv1: float = 1.0
    conv2: float = 0.0
    protected_images: int = 300
    other_images: int = 25
    steps: int = 40
    restarts: int = 3
    cw_steps: int = 60
    searches: int = 4
    queries: int = 500

    def __post_init__(self) -> None:
        """Check what a signature cannot say.

        Raises:
            ConfigError: For an unknown row, or one without that which it starts from.
        """
        for row in self.rows:
            if row not in ROWS:
                raise ConfigError(f"rows: unknown row {row!r}{nearest(row, ROWS)}; known: {', '.join(ROWS)}")
            start = ROWS[row].start
            if start not in (None, *self.rows):
                raise ConfigError(f"rows: {row!r} starts from {start!r}, which is left out; add it")
        if "normal" not in self.rows:
            raise ConfigError("rows: 'normal' is left out, and the transferred images come from it; add it")

    def jobs(self) -> tuple[Job, ...]:
        """Train every row at every seed, and attack, export and evaluate it; each job once, after those that it reads."""
        jobs: dict[str, Job] = {}
        for seed in self.seeds:
            config = {
                "data": self.data,
                "protect": list(self.protect),
                "protected_images": self.protected_images,
                "other_images": self.other_images,
                "seed": seed,
            }
            jobs[f"images-s{seed}"] = Job(f"images-s{seed}", f"{measure.__name__}:choose_images", config)
            for row in sorted(self.rows, key=list(ROWS).index):
                for label in self.protect:
                    jobs |= {job.name: job for job in self._row_jobs(row, seed=seed, label=label)}
        return tuple(jobs.values())

    def findings(self, runs: Mapping[str, Run]) -> Findings:
        """Judge the claims, and show accuracies, costs, indicators of masked gradients and the weights of the first convolution."""
        scores: list[dict[str, Any]] = []
        indicators: list[dict[str, Any]] = []
        layers = []
        for row, seed, label in product(self.rows, self.seeds, self.protect):
            about = {"row": row, "seed": seed, "protected": label}
            evaluated = runs[f"{self.trained(row, seed=seed, label=label)}--eval"]
            scores += findings.read_scores(evaluated, about, columns=self.columns(), cost=self.cost)
            indicators += findings.read_indicators(evaluated, about)
        for seed, label, row in product(self.seeds, self.protect, self.rows):
            about = {"row": row, "seed": seed, "protected": label}
            name = self.trained(row, seed=seed, label=label)
            layers.append(findings.read_layer(runs[name], runs[f"{name}--export"], about))
        normal = [self.trained("normal", seed=seed, label=self.protect[0]) for seed in self.seeds]
        std = mean(findings.pixel_std(runs[name]) for name in normal)
        return Findings(
            verdicts=tuple(findings.verdicts(scores, layers)),
            rows=saved([*scores, *layers], without=findings.UNSAVED, digits=findings.DIGITS),
            sections=(
                Section("What was done", (self.about(images=len(scores[0]["labels"]), std=std),)),
                *report.sections(scores, layers, indicators, data=self.data),
            ),
        )

    def trained(self, row: str, *, seed: int, label: int) -> str:
        """Return the name of the training of a row; those that do not know the protected class are shared by all."""
        return f"{row}-k{label}-s{seed}" if ROWS[row].side else f"{row}-s{seed}"

    def attacks(self) -> dict[str, dict[str, Any]]:
        """Return the attacks on a row's FP32 network: column to the configuration of an attack job.

        PGD's images also meet the deployed forms, so they go as far as they can; the others only have to cross the border.
        """
        search = {"steps": self.steps, "restarts": self.restarts}
        near, far = {"eps": self.eps}, {"eps": self.eps_l2}
        minimal = {"steps": self.cw_steps, "searches": self.searches, "step_size": 0.05}  # few steps, so longer ones
        return {
            "fgsm": {"attack": "fgsm", **near},
            "pgd": {"attack": "pgd-linf", **near, "params": search},
            "temperature": {"attack": "pgd-temperature", **near, "params": search, "stop": "first"},
            "square": {"attack": "square", **near, "params": {"queries": self.queries}, "stop": "first"},
            "deepfool": {"attack": "deepfool", **far},
            "cw": {"attack": "cw-l2", **far, "params": minimal},
            "large": {"attack": "pgd-linf", "eps": _LARGE, "params": {"steps": self.steps}, "stop": "first"},
        }

    def columns(self) -> tuple[str, ...]:
        """Return the sets that every row is evaluated on, in the order of its eval run."""
        return ("clean", *self.attacks(), INT8, TRANSFER)

    def about(self, *, images: int, std: float) -> str:
        """Say what was done; `images` were attacked at each seed, and `std` is what pixels are divided by."""
        return (
            f"{self.data}, {self.model}, {self.train_images} training images, {self.epochs} epochs per stage, seeds "
            f"{', '.join(map(str, self.seeds))}; protected: {', '.join(map(str, self.protect))}, cost {self.cost:g}. At "
            f"each seed {images} test images are attacked: {self.protected_images} of each protected class and "
            f"{self.other_images} of each other class, or as many as there are. "
            f"L-infinity budget {format_eps(self.eps)} in pixel units, {self.eps / std:.2f} in units of the normalised images; L2 budget "
            f"{format_eps(self.eps_l2)}. PGD takes {self.steps} steps from {self.restarts} random starts, Square {self.queries} queries, "
            f"Carlini & Wagner {self.searches} constants of {self.cw_steps} steps."
        )

    def _row_jobs(self, row: str, *, seed: int, label: int) -> Iterator[Job]:
        """Train a row, export it, attack its FP32 network and its INT8 graph, and evaluate all forms on all images."""
        made, name = ROWS[row], self.trained(row, seed=seed, label=label)
        params: dict[str, Any] = dict(made.params)
        if made.penalised:
            params |= {"conv1": self.conv1, "conv2": self.conv2}
        if made.attacks:
            params["eps"] = self.eps
        if made.side:
            params |= {"protect": str(label), "cost": self.cost, "side": made.side}
        start = {"start_from": f"{{{self.trained(made.start, seed=seed, label=label)}}}"} if made.start else {}
        training = {
            "data.name": self.data,
            "data.split_seed": seed,
            "data.limit_train": self.train_images,
            "data.validation": 0.05,
            "model": self.model,
            "objective": made.objective,
            "objective_params": params,
            "epochs": self.epochs,
            "batch_size": 64,
            "optimizer": "adam",
            "lr": 1e-3,
            "schedule": "constant",
            "weight_decay": 0.0,
            "seed": seed,
            **start,
        }
        yield Job(name, "train", training)
        yield Job(f"{name}--export", "export", {"model": f"{{{name}}}", **NO_PARITY_LIMITS})
        shared = {"data": f"npz:{{images-s{seed}}}/images.npz", "seed": seed}
        for column, attack in self.attacks().items():
            yield Job(f"{name}--{column}", "attack", {**shared, "model": f"{{{name}}}", **attack})
        own = {
            **shared,
            "model": f"{{{name}--export}}/{findings.INT8_GRAPH}",
            "attack": "pgd-linf",
            "eps": self.eps,
            "params": {"steps": self.steps},
        }
        yield Job(f"{name}--{INT8}", "attack", own)
        crafted = [f"{{{name}--{column}}}" for column in (*self.attacks(), INT8)]
        transferred = f"{{{self.trained('normal', seed=seed, label=label)}--pgd}}"
        evaluated = {
            "engines": [f"{{{name}}}", f"{{{name}--export}}"],
            "sets": [*crafted, *([] if transferred in crafted else [transferred])],
            "throughput": False,
            "invariance": 0,
            "gallery": 0,
            "threads": 1,
        }
        yield Job(f"{name}--eval", "eval", evaluated)

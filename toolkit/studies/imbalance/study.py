"""Gradient-sign attacks on class-imbalanced networks (Possas & Zhou, ICONIP 2017)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from edgeproof.config import format_eps
from edgeproof.plugins.registry import register
from edgeproof.runs import Run
from edgeproof.studies.base import Findings
from edgeproof.studies.dataset import STORED, data_job
from edgeproof.studies.frame import saved
from edgeproof.studies.imbalance import findings, measure, report
from edgeproof.studies.imbalance.published import BALANCED, NETWORKS
from edgeproof.studies.jobs import NO_PARITY_LIMITS, Job
from edgeproof.types import Direction


@dataclass(frozen=True)
class Training:
    """One way to train.

    Attributes:
        name: In tables.
        job: In the names of jobs.
        imbalance: Class sizes.
        objective: Loss.
        params: Of the loss.
        many: Whether most classes keep their images.
    """

    name: str
    job: str
    imbalance: str | None = None
    objective: str = "standard"
    params: Mapping[str, Any] = field(default_factory=dict)
    many: bool = True


@register(
    "imbalance",
    presets={
        "smoke": {
            "data": "digits",
            "targets": ("8",),
            "limit_train": 500,
            "rare": 12,
            "epochs": 2,
            "rare_epochs": 3,
            "lr": 2e-3,
            "eps": 0.05,
            "pgd_steps": 3,
            "iterations": 2,
        },
        "small": {},
        "medium": {"targets": ("truck", "ship", "automobile"), "seeds": (0, 1, 2)},
        "paper": {
            "targets": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
            "limit_train": None,
            "rare": 1000,
            "model": "possas-vgg",
            "epochs": 200,
            "rare_epochs": 200,
            "patience": 10,
            "lr": 1e-4,
            "lr_decay": 1e-5,
            "pgd_steps": 40,
            "iterations": 5,
            "remedies": "all",
        },
    },
    former={"document": ("medium", {})},
)
@dataclass(frozen=True, kw_only=True)
class Imbalance:
    """Gradient-sign attacks on class-imbalanced networks (Possas & Zhou, ICONIP 2017).

    For each target class a balanced, an under-sampled and an over-sampled network are attacked on the test images of that
    class, with their own gradients and with those of the balanced network. Beyond the paper: PGD that stays in its budget, margins,
    remedies, and every cell on the FP16 and INT8 graphs. Where it differs from the paper: images are drawn per class from a seed
    rather than dropped in file order, all networks are trained and stopped alike, and the validation split is stratified and never
    the test set. The defaults are a run for two processor cores.

    Args:
        data: Data set.
        targets: Classes, each under-sampled and over-sampled in turn.
        seeds: Seeds of the choice of images, the weights and the order.
        limit_train: Training images that are used, stratified; none for all.
        rare: Images of the target class when it is under-sampled, and of each other class when it is over-sampled.
        ratio: Largest class over the smallest in the long-tailed remedy runs, where sizes fall in the order of the classes.
        model: Network.
        epochs: Passes over the images, balanced and under-sampled.
        rare_epochs: Passes over the over-sampled and long-tailed sets, which are smaller.
        patience: Epochs without a better validation loss after which training stops and keeps the best; none to never
            stop early.
        lr: Learning rate of RMSprop.
        lr_decay: Its decay: the rate is lr / (1 + lr_decay * step).
        batch_size: Images per step.
        validation: Share of each class held out.
        eps: Budget of the paper's attack, in [0, 1] pixel units.
        larger_eps: Second budget of PGD.
        direction: Direction of the paper's attack: ascent from the class of `label`, or descent towards it.
        label: Class whose loss the paper's attack follows: true, most-likely, least-likely or an index.
        iterations: Steps of the iterative variant of the paper's attack, which is measured where this is above 1.
        pgd_steps: Steps of PGD.
        remedies: Re-weighting and logit adjustment, under-sampled and long-tailed: for the first target and seed, all, or none.
        recipe: INT8 recipe of the graphs.
        device: cpu or cuda.
    """

    data: str = "cifar10"
    targets: tuple[str, ...] = ("truck", "ship")
    seeds: tuple[int, ...] = (0,)
    limit_train: int | None = 15000
    rare: int = 300
    ratio: float = 10.0
    model: str = "possas-vgg-small"
    epochs: int = 7
    rare_epochs: int = 13
    patience: int | None = None
    lr: float = 7e-4
    lr_decay: float = 1e-6
    batch_size: int = 32
    validation: float = 0.1
    eps: float = 0.01
    larger_eps: float = 0.03137254901960784  # 8/255
    direction: Direction = "ascent"
    label: str = "true"
    iterations: int = 1
    pgd_steps: int = 10
    remedies: Literal["none", "first", "all"] = "first"
    recipe: Literal["trt", "cpu"] = "cpu"
    device: str = "cpu"

    def jobs(self) -> tuple[Job, ...]:
        """Train and export every network, then attack each target class at each seed."""
        settings = {
            "model": self.model,
            "batch_size": self.batch_size,
            "optimizer": "rmsprop",
            "lr": self.lr,
            "weight_decay": 0.0,
            "schedule": "inverse-time",
            "lr_decay": self.lr_decay,
            "augment": "flip",
            "patience": self.patience,
            "device": self.device,
            "data.name": STORED,
            "data.validation": self.validation,
            "data.calibration": 128,
            "data.limit_train": self.limit_train,
        }
        export = {"precisions": ["fp16", "int8"], "recipes": [self.recipe], **NO_PARITY_LIMITS}
        jobs = {"data": data_job(self.data)}
        measured = []
        for seed in self.seeds:
            for target in self.targets:
                trainings = self.trainings(target, seed)
                for each in trainings:
                    name = f"{each.job}-{seed}"
                    own = {
                        "data.imbalance": each.imbalance,
                        "data.split_seed": seed,
                        "seed": seed,
                        "objective": each.objective,
                        "objective_params": each.params,
                        "epochs": self.epochs if each.many else self.rare_epochs,
                    }
                    jobs.setdefault(f"train-{name}", Job(f"train-{name}", "train", {**settings, **own}))
                    if each.name in NETWORKS:  # of the remedies no graphs are measured
                        config = {"model": f"{{train-{name}}}", **export}
                        jobs.setdefault(f"export-{name}", Job(f"export-{name}", "export", config))
                deployed = [each for each in trainings if each.name in NETWORKS]
                config = {
                    "data": STORED,
                    "target": target,
                    "seed": seed,
                    "attacks": self.attacks(),
                    "batch_size": 256,
                    "device": self.device,
                    "networks": {each.name: f"{{train-{each.job}-{seed}}}" for each in trainings},
                    "graphs": {each.name: f"{{export-{each.job}-{seed}}}" for each in deployed},
                }
                measured.append(Job(measuring_job(target, seed), f"{measure.__name__}:measure", config))
        return (*jobs.values(), *measured)

    def trainings(self, target: str, seed: int) -> list[Training]:
        """Return the ways to train for a target class at a seed: the paper's, and remedies where they are asked for."""
        under, tail, job = f"under:{target}={self.rare}", f"long-tailed:{self.ratio:g}", f"under-{word(target)}"
        found = [
            Training(BALANCED, "balanced"),
            Training("under", job, under),
            Training("over", f"over-{word(target)}", f"over:{target}={self.rare}", many=False),
        ]
        first = (target, seed) == (self.targets[0], self.seeds[0])
        if self.remedies == "none" or (self.remedies == "first" and not first):
            return found
        protect = {"protect": target, "conv1": 0}
        return [
            *found,
            Training("under, class-balanced", f"{job}-class-balanced", under, "class-balanced"),
            Training("under, logit-adjustment", f"{job}-logit-adjustment", under, "logit-adjustment"),
            Training("under, cost-sensitive", f"{job}-cost-sensitive", under, "min-max", protect),
            Training("long-tailed", "long-tailed", tail, many=False),
            Training(
                "long-tailed, logit-adjustment", "long-tailed-logit-adjustment", tail, "logit-adjustment", many=False
            ),
        ]

    def attacks(self) -> dict[str, dict[str, Any]]:
        """Return the attacks by name: the paper's one, and PGD at both budgets."""
        sign = {"direction": self.direction, "label": self.label}
        found: dict[str, dict[str, Any]] = {"fast": {"attack": "fgsm-possas", "eps": self.eps, "params": sign}}
        if self.iterations > 1:
            params = {**sign, "steps": self.iterations}
            found["iterative"] = {"attack": "fgsm-possas", "eps": self.eps, "params": params}
        for eps in (self.eps, self.larger_eps):
            found[f"PGD {format_eps(eps)}"] = {"attack": "pgd-linf", "eps": eps, "params": {"steps": self.pgd_steps}}
        return found

    def findings(self, runs: Mapping[str, Run]) -> Findings:
        """Judge the claims, and put the paper's tables and figures next to what was measured."""
        classes, labels = findings.read_data(runs["data"])
        rows, networks = [], []
        for target in self.targets:
            for seed in self.seeds:
                measured = findings.read_measured(runs[measuring_job(target, seed)], target=target, seed=seed)
                rows += measured.rows
                for each in self.trainings(target, seed):
                    run = runs[f"train-{each.job}-{seed}"]
                    training = findings.read_training(run, labels, target=classes.index(target))
                    networks.append({**measured.networks[each.name], **training})
        partners = findings.partners(networks, classes)
        return Findings(
            verdicts=findings.verdicts(rows, partners=partners, pgd=[name for name in self.attacks() if "PGD" in name]),
            rows=saved(rows, without=findings.PER_IMAGE),
            sections=report.sections(rows, networks, classes=classes, partners=partners),
        )


def measuring_job(target: str, seed: int) -> str:
    """Name the job that measures a target class at a seed."""
    return f"measure-{word(target)}-{seed}"


def word(name: str) -> str:
    """Make the name of a class a part of a job's."""
    return re.sub(r"[^A-Za-z0-9.-]", "_", name)

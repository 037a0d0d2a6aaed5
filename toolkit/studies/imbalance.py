"""Gradient-sign attacks on class-imbalanced networks (Possas & Zhou, ICONIP 2017)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from edgeproof.config import format_eps
from edgeproof.plugins.registry import register
from edgeproof.studies.base import Study
from edgeproof.studies.dataset import STORED, data_job
from edgeproof.studies.jobs import Job
from edgeproof.studies.possas_zhou.collect import Plan, collect
from edgeproof.studies.possas_zhou.measure import NETWORKS, measure_name, word
from edgeproof.types import Direction


@register(
    "imbalance",
    presets={
        "small": {},
        "document": {"targets": ("truck", "ship", "automobile"), "seeds": (0, 1, 2)},
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
    },
)
def imbalance(
    *,
    data: str = "cifar10",
    targets: tuple[str, ...] = ("truck", "ship"),
    seeds: tuple[int, ...] = (0,),
    limit_train: int | None = 15000,
    rare: int = 300,
    ratio: float = 10.0,
    model: str = "possas-vgg-small",
    epochs: int = 7,
    rare_epochs: int = 13,
    patience: int | None = None,
    lr: float = 7e-4,
    lr_decay: float = 1e-6,
    batch_size: int = 32,
    validation: float = 0.1,
    eps: float = 0.01,
    larger_eps: float = 0.03137254901960784,  # 8/255
    direction: Direction = "ascent",
    label: str = "true",
    iterations: int = 1,
    pgd_steps: int = 10,
    remedies: Literal["none", "first", "all"] = "first",
    recipe: Literal["trt", "cpu"] = "cpu",
    device: str = "cpu",
) -> Study:
    """Gradient-sign attacks on class-imbalanced networks (Possas & Zhou, ICONIP 2017).

    For each target class a balanced, an under-sampled and an over-sampled network are attacked on the test images of that
    class, with their own gradients and with those of the balanced network. Beyond the paper: PGD that stays in its budget, margins,
    remedies, and every cell on the FP16 and INT8 graphs. Where it differs from the paper: images are drawn per class from a seed
    rather than dropped in file order, all networks are trained and stopped alike, and the validation split is stratified and never
    the test set. The defaults are a run for two processor cores.

    Args:
        data: Data set.
        targets: Classes, each under-sampled and over-sampled in turn.
        seeds: Of the choice of images, the weights and the order.
        limit_train: Use at most so many training images, stratified.
        rare: Images of the target class when it is under-sampled, and of each other class when it is over-sampled.
        ratio: Largest class over the smallest in the long-tailed remedy runs, where sizes fall in the order of the classes.
        model: Network.
        epochs: Passes over the images, balanced and under-sampled.
        rare_epochs: Of the over-sampled and long-tailed sets, which are smaller.
        patience: Stop after so many epochs without a better validation loss, and keep the best.
        lr: Learning rate of RMSprop.
        lr_decay: It is lr / (1 + lr_decay * step).
        batch_size: Images a step.
        validation: Share of each class held out.
        eps: Budget of the paper's attack, in [0, 1] pixel units.
        larger_eps: Second budget of PGD.
        direction: Of the paper's attack: ascent from the class that is followed, or descent towards it.
        label: The class that it follows: true, most-likely, least-likely or an index.
        iterations: Above 1, its iterative variant is measured too.
        pgd_steps: Steps of PGD.
        remedies: Re-weighting and logit adjustment, under-sampled and long-tailed: for the first target and seed, all, or none.
        recipe: INT8 recipe of the graphs.
        device: cpu or cuda.
    """
    splits = _splits(limit_train, validation)
    settings = {
        "model": model, "batch_size": batch_size, "optimizer": "rmsprop", "lr": lr, "weight_decay": 0.0,
        "schedule": "inverse-time", "lr_decay": lr_decay, "augment": "flip", "patience": patience, "device": device, **splits,
    }  # fmt: skip
    attacks = _attacks(eps, larger_eps, direction=direction, label=label, iterations=iterations, pgd_steps=pgd_steps)
    jobs, measured = [data_job(data)], []
    trained: dict[tuple[str, int, str], str] = {}
    for seed in seeds:
        for target in targets:
            first = (seed, target) == (seeds[0], targets[0])
            with_remedies = remedies == "all" or (remedies == "first" and first)
            kinds = _kinds(target, rare=rare, ratio=ratio, remedies=with_remedies)
            known = {job.name for job in jobs}
            for kind in kinds:
                passes = epochs if kind.many else rare_epochs
                made = [_train(kind, seed, {**settings, "epochs": passes})]
                made += [_export(kind, seed, recipe)] if kind.deployed else []
                jobs += [job for job in made if job.name not in known]
                trained[target, seed, kind.name] = made[0].name
            measured.append(_measure(target, seed, kinds, attacks, batch_size=256, device=device))
    pgd = tuple(name for name in attacks if name.startswith("PGD"))
    plan = Plan(targets=targets, seeds=seeds, pgd=pgd, trained=trained)
    return Study(jobs=(*jobs, *measured), collect=partial(collect, plan))


@dataclass(frozen=True)
class _Kind:
    """One way to train: its name in tables and jobs, class sizes and loss; `many` when most classes keep their images."""

    name: str
    job: str
    imbalance: str | None = None
    objective: str = "standard"
    params: Mapping[str, Any] = field(default_factory=dict)
    many: bool = True

    @property
    def deployed(self) -> bool:
        """Whether its graphs are measured: those of the paper's networks are, those of remedies are not."""
        return self.name in NETWORKS


def _kinds(target: str, *, rare: int, ratio: float, remedies: bool) -> list[_Kind]:
    under, tail, job = f"under:{target}={rare}", f"long-tailed:{ratio:g}", f"under-{word(target)}"
    kinds = [
        _Kind("balanced", "balanced"),
        _Kind("under", job, under),
        _Kind("over", f"over-{word(target)}", f"over:{target}={rare}", many=False),
    ]
    if not remedies:
        return kinds
    return [
        *kinds,
        _Kind("under, class-balanced", f"{job}-class-balanced", under, "class-balanced"),
        _Kind("under, logit-adjustment", f"{job}-logit-adjustment", under, "logit-adjustment"),
        _Kind("under, cost-sensitive", f"{job}-cost-sensitive", under, "min-max", {"protect": target, "conv1": 0}),
        _Kind("long-tailed", "long-tailed", tail, many=False),
        _Kind("long-tailed, logit-adjustment", "long-tailed-logit-adjustment", tail, "logit-adjustment", many=False),
    ]


def _splits(limit_train: int | None, validation: float) -> dict[str, Any]:
    return {
        "data.name": STORED,
        "data.validation": validation,
        "data.calibration": 128,
        "data.limit_train": limit_train,
    }


def _attacks(
    eps: float, larger_eps: float, *, direction: str, label: str, iterations: int, pgd_steps: int
) -> dict[str, dict[str, Any]]:
    sign = {"direction": direction, "label": label}
    attacks: dict[str, dict[str, Any]] = {"fast": {"attack": "fgsm-possas", "eps": eps, "params": sign}}
    if iterations > 1:
        attacks["iterative"] = {"attack": "fgsm-possas", "eps": eps, "params": {**sign, "steps": iterations}}
    for budget in (eps, larger_eps):
        name = f"PGD {format_eps(budget)}"
        attacks[name] = {"attack": "pgd-linf", "eps": budget, "params": {"steps": pgd_steps}}
    return attacks


def _train(kind: _Kind, seed: int, settings: Mapping[str, Any]) -> Job:
    own: dict[str, Any] = {"data.imbalance": kind.imbalance, "data.split_seed": seed, "seed": seed}
    own |= {"objective": kind.objective, "objective_params": kind.params}
    return Job(f"train-{kind.job}-{seed}", "train", {**settings, **own})


def _export(kind: _Kind, seed: int, recipe: str) -> Job:
    """The graphs are measured here, so no limit is put on what a precision may lose."""
    limits = {"fp16_accuracy_drop": 1.0, "int8_accuracy_drop": 1.0, "int8_min_agreement": 0.0}
    config = {"model": f"{{train-{kind.job}-{seed}}}", "precisions": ["fp16", "int8"], "recipes": [recipe]}
    return Job(f"export-{kind.job}-{seed}", "export", {**config, **{f"parity.{k}": v for k, v in limits.items()}})


def _measure(
    target: str, seed: int, kinds: list[_Kind], attacks: Mapping[str, Any], *, batch_size: int, device: str
) -> Job:
    config = {
        "data": STORED, "target": target, "seed": seed, "attacks": attacks, "batch_size": batch_size, "device": device,
        "networks": {kind.name: f"{{train-{kind.job}-{seed}}}" for kind in kinds},
        "graphs": {kind.name: f"{{export-{kind.job}-{seed}}}" for kind in kinds if kind.deployed},
    }  # fmt: skip
    return Job(measure_name(target, seed), "edgeproof.studies.possas_zhou.measure:measure", config)

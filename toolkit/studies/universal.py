"""Class-balanced universal perturbations, and training against them (Ma et al., IJCNN 2023)."""

from __future__ import annotations

from functools import partial
from typing import Any

from edgeproof.config import format_eps
from edgeproof.errors import ConfigError
from edgeproof.plugins.registry import register
from edgeproof.studies.base import Study
from edgeproof.studies.dataset import STORED, data_job
from edgeproof.studies.jobs import Job
from edgeproof.studies.ma_cao.collect import Plan, collect
from edgeproof.studies.ma_cao.measure import measured_by


@register(
    "universal",
    presets={
        "small": {},
        "fashion": {"data": "fashion-mnist", "eps": 0.1, "more_eps": ()},
        "paper": {
            "limit_train": None, "model": "resnet-18", "epochs": 60, "lr": 0.1, "augment": "flip-crop", "pgd_train_steps": 7,
            "fit_steps": 400, "measure_steps": 400, "seeds": (0,), "test_limit": None, "amp": True, "device": "cuda",
        },
        "smoke": {
            "data": "digits", "limit_train": 600, "epochs": 2, "eps": 0.2, "more_eps": (), "taus": (2.0,), "fit_steps": 3,
            "measure_steps": 3, "pool_steps": 2, "pgd_steps": 2, "pgd_train_steps": 1, "seeds": (0,), "test_limit": 120,
            "others": (), "calibration": 40,
        },
    },
)  # fmt: skip
def universal(
    *,
    seeds: tuple[int, ...] = (0, 1, 2),
    data: str = "cifar10",
    limit_train: int | None = 10000,
    model: str = "small-cnn-half",
    others: tuple[str, ...] = ("lenet",),
    epochs: int = 8,
    lr: float = 0.05,
    augment: str = "none",
    eps: float = 0.03137254901960784,  # 8/255
    more_eps: tuple[float, ...] = (0.0392156862745098,),  # 10/255
    taus: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0),
    tau: float = 2.0,
    fit_steps: int = 100,
    measure_steps: int = 60,
    pool_steps: int = 50,
    pgd_steps: int = 10,
    pgd_train_steps: int = 4,
    test_limit: int | None = 5000,
    calibration: int = 128,
    device: str = "cpu",
    amp: bool = False,
) -> Study:
    """Class-balanced universal perturbations, and training against them (Ma et al., IJCNN 2023).

    The paper's full text is not public: what is studied is our reconstruction from its abstract, beside the plain perturbation that
    it improves on. Perturbations are fitted on the training split of each network and measured on test images. First, strength
    against balance on natural networks; then six ways to train, each under perturbations that are freshly fitted to it and under
    PGD. The defaults are a run for two processor cores.

    Args:
        seeds: Of the weights, the order and the fits.
        data: Data set.
        limit_train: Use at most so many training images, stratified.
        model: Network.
        others: Other networks, trained naturally at the first seed, on which its perturbations are tried too.
        epochs: Passes over the images, of every training.
        lr: Peak learning rate.
        augment: none, flip, crop or flip-crop.
        eps: L-infinity budget of all perturbations and trainings.
        more_eps: Further budgets of the first part.
        taus: Weights of the calibration; 0, the capped margin alone, is measured too.
        tau: The one that the claims are about, and that training uses; one of `taus`.
        fit_steps: Batches of 128 that a perturbation is fitted on in the first part.
        measure_steps: The same for the perturbations that judge a training.
        pool_steps: The same for each perturbation that a two-stage training adds.
        pgd_steps: Steps of PGD when it judges.
        pgd_train_steps: Steps of PGD in PGD training.
        test_limit: Test images, stratified; none for all.
        calibration: Training images kept for INT8 calibration.
        device: cpu or cuda.
        amp: Autocast to bfloat16 in training.
    """
    if tau not in taus:
        raise ConfigError(
            f"tau = {tau:g} is none of taus ({', '.join(f'{each:g}' for each in taus)}); expected one of them"
        )
    settings = {
        "data.name": STORED, "data.limit_train": limit_train, "data.calibration": calibration, "model": model,
        "epochs": epochs, "lr": lr, "augment": augment, "device": device, "amp": amp,
    }  # fmt: skip
    asked = {"limit": test_limit, "batch_size": 500, "device": device}
    trainings = _trainings(eps, tau=tau, pool_steps=pool_steps, pgd_steps=pgd_train_steps)
    first = _perturbations(eps, taus, fit_steps) | {
        name: about
        for other in more_eps
        for name, about in _perturbations(other, taus, fit_steps, suffix=f" {format_eps(other)}").items()
    }
    judges = _judges(eps, tau, measure_steps, pgd_steps)
    jobs = [data_job(data)]
    for name in others:
        jobs.append(Job(f"other-{name}", "train", {**settings, "model": name, "seed": seeds[0]}))
    for seed in seeds:
        jobs += [_train(name, about, seed, settings) for name, about in trainings.items()]
        jobs.append(_export(seed))
        for name in trainings:
            forms = {} if name != "natural" else {"graphs": f"{{export-{seed}}}"}
            forms |= {other: f"{{other-{other}}}" for other in others if name == "natural" and seed == seeds[0]}
            attacks = first | judges if name == "natural" else judges
            jobs.append(_measure(name, seed, {**asked, "forms": forms, "attacks": attacks}))
    plan = Plan(tuple(seeds), tuple(trainings), eps, tuple(more_eps), tuple(taus), tau)
    return Study(jobs=tuple(jobs), collect=partial(collect, plan))


def _trainings(eps: float, *, tau: float, pool_steps: int, pgd_steps: int) -> dict[str, dict[str, Any]]:
    """Return each way to train: its objective and parameters."""
    stages = {"eps": eps, "fit_steps": pool_steps}
    return {
        "natural": {"objective": "standard", "objective_params": {}},
        "uat": {"objective": "universal", "objective_params": {"eps": eps, "clean": 0.5}},
        "class-uat": {"objective": "universal", "objective_params": {"eps": eps, "clean": 0.5, "per": "class"}},
        "two-stage-plain": {"objective": "universal-two-stage", "objective_params": {**stages, "kind": "plain"}},
        "two-stage-balanced": {"objective": "universal-two-stage", "objective_params": {**stages, "tau": tau}},
        "pgd": {"objective": "adversarial", "objective_params": {"eps": eps, "steps": pgd_steps}},
    }


def _perturbations(eps: float, taus: tuple[float, ...], steps: int, *, suffix: str = "") -> dict[str, dict[str, Any]]:
    """Return the perturbations of the first part by name, as `measure` takes them; plain ones at several scales."""

    def fitted(attack: str, **params: Any) -> dict[str, Any]:
        return {"attack": attack, "eps": eps, "params": {"steps": steps, **params}}

    scales = (0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    found = {
        "plain": {**fitted("universal"), "scales": scales},
        "margin": fitted("universal-balanced", tau=0.0),
        **{f"balanced {tau:g}": fitted("universal-balanced", tau=tau) for tau in taus},
        "adjusted": fitted("universal-balanced", strength="ce", tau=1.0),
        "penalised": fitted("universal-balanced", strength="ce", tau=0.0, lam=2.0),
        "class": fitted("universal", per="class"),
        "deepfool": fitted("universal", method="deepfool", steps=max(steps // 4, 1)),
    }
    return {f"{name}{suffix}": about for name, about in found.items()}


def _judges(eps: float, tau: float, steps: int, pgd_steps: int) -> dict[str, dict[str, Any]]:
    """Return the attacks that judge a training, each made anew for each network."""
    fits: dict[str, tuple[str, dict[str, Any]]] = {
        "fresh plain": ("universal", {}),
        "fresh margin": ("universal-balanced", {"tau": 0.0}),
        "fresh balanced": ("universal-balanced", {"tau": tau}),
        "fresh class": ("universal", {"per": "class"}),
    }
    judged = {
        name: {"attack": attack, "eps": eps, "params": {"steps": steps, **params}}
        for name, (attack, params) in fits.items()
    }
    return {**judged, "pgd": {"attack": "pgd-linf", "eps": eps, "params": {"steps": pgd_steps, "keep": "last"}}}


def _train(name: str, about: dict[str, Any], seed: int, settings: dict[str, Any]) -> Job:
    return Job(f"train-{name}-{seed}", "train", {**settings, **about, "seed": seed})


def _export(seed: int) -> Job:
    limits = {"parity.int8_accuracy_drop": 1.0, "parity.int8_min_agreement": 0.0, "parity.fp16_accuracy_drop": 1.0}
    return Job(f"export-{seed}", "export", {"model": f"{{train-natural-{seed}}}", **limits})


def _measure(name: str, seed: int, asked: dict[str, Any]) -> Job:
    config = {**asked, "model": f"{{train-{name}-{seed}}}", "seed": seed}
    return Job(measured_by(name, seed), "edgeproof.studies.ma_cao.measure:measure", config)

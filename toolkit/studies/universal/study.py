"""Class-balanced universal perturbations, and training against them (Ma et al., IJCNN 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgeproof.config import format_eps
from edgeproof.errors import ConfigError
from edgeproof.plugins.registry import register
from edgeproof.runs import Run
from edgeproof.studies.base import Findings
from edgeproof.studies.dataset import STORED, data_job
from edgeproof.studies.frame import saved
from edgeproof.studies.jobs import NO_PARITY_LIMITS, Job
from edgeproof.studies.universal import findings, measure, report

_SCALES = (0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # of the plain perturbation


@register(
    "universal",
    presets={
        "smoke": {
            "data": "digits",
            "limit_train": 600,
            "epochs": 2,
            "eps": 0.2,
            "more_eps": (),
            "taus": (2.0,),
            "fit_steps": 3,
            "measure_steps": 3,
            "pool_steps": 2,
            "pgd_steps": 2,
            "pgd_train_steps": 1,
            "seeds": (0,),
            "test_limit": 120,
            "others": (),
            "calibration": 40,
        },
        "small": {},
        "paper": {
            "limit_train": None,
            "model": "resnet-18",
            "epochs": 60,
            "lr": 0.1,
            "augment": "flip-crop",
            "pgd_train_steps": 7,
            "fit_steps": 400,
            "measure_steps": 400,
            "seeds": (0,),
            "test_limit": None,
            "amp": True,
            "device": "cuda",
        },
    },
    former={"fashion": ("small", {"data": "fashion-mnist", "eps": 0.1, "more_eps": ()})},
)
@dataclass(frozen=True, kw_only=True)
class Universal:
    """Class-balanced universal perturbations, and training against them (Ma et al., IJCNN 2023).

    The paper's full text is not public: what is studied is our reconstruction from its abstract, next to the plain perturbation that
    it improves on. Perturbations are fitted on the training split of each network and measured on test images. First, strength
    against balance on natural networks; then six ways to train, each under perturbations that are freshly fitted to it and under
    PGD. The defaults are a run for two processor cores.

    Args:
        seeds: Seeds of the weights, the order and the fits.
        data: Data set.
        limit_train: Training images that are used, stratified; none for all.
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
        measure_steps: Batches for the perturbations that judge a training.
        pool_steps: Batches for each perturbation that a two-stage training adds.
        pgd_steps: Steps of PGD when it judges.
        pgd_train_steps: Steps of PGD in PGD training.
        test_limit: Test images, stratified; none for all.
        calibration: Training images kept for INT8 calibration.
        device: cpu or cuda.
        amp: Autocast to bfloat16 in training.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    data: str = "cifar10"
    limit_train: int | None = 10000
    model: str = "small-cnn-half"
    others: tuple[str, ...] = ("lenet",)
    epochs: int = 8
    lr: float = 0.05
    augment: str = "none"
    eps: float = 0.03137254901960784  # 8/255
    more_eps: tuple[float, ...] = (0.0392156862745098,)  # 10/255
    taus: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)
    tau: float = 2.0
    fit_steps: int = 100
    measure_steps: int = 60
    pool_steps: int = 50
    pgd_steps: int = 10
    pgd_train_steps: int = 4
    test_limit: int | None = 5000
    calibration: int = 128
    device: str = "cpu"
    amp: bool = False

    def __post_init__(self) -> None:
        """Check what a signature cannot say.

        Raises:
            ConfigError: When the claims are about a tau that is not measured.
        """
        if self.tau not in self.taus:
            raise ConfigError(
                f"tau = {self.tau:g} is none of taus ({', '.join(f'{each:g}' for each in self.taus)}); expected one of them"
            )

    def jobs(self) -> tuple[Job, ...]:
        """Train every network at every seed, then fit perturbations to it and judge it."""
        settings = {
            "data.name": STORED,
            "data.limit_train": self.limit_train,
            "data.calibration": self.calibration,
            "model": self.model,
            "epochs": self.epochs,
            "lr": self.lr,
            "augment": self.augment,
            "device": self.device,
            "amp": self.amp,
        }
        judges = self.judges()
        first = {
            f"{name}{suffix}": asked
            for suffix, eps in self.budgets().items()
            for name, asked in self.perturbations(eps).items()
        }
        jobs = [data_job(self.data)]
        for name in self.others:
            jobs.append(Job(f"other-{name}", "train", {**settings, "model": name, "seed": self.seeds[0]}))
        for seed in self.seeds:
            trained = {name: f"train-{name}-{seed}" for name in self.trainings()}
            for name, objective in self.trainings().items():
                jobs.append(Job(trained[name], "train", {**settings, **objective, "seed": seed}))
            jobs.append(Job(f"export-{seed}", "export", {"model": f"{{{trained['natural']}}}", **NO_PARITY_LIMITS}))
            for name in trained:
                natural = name == "natural"
                others = self.others if natural and seed == self.seeds[0] else ()
                config = {
                    "limit": self.test_limit,
                    "batch_size": 500,
                    "device": self.device,
                    "forms": {
                        **({"graphs": f"{{export-{seed}}}"} if natural else {}),
                        **{other: f"{{other-{other}}}" for other in others},
                    },
                    "attacks": {**first, **judges} if natural else judges,
                    "model": f"{{{trained[name]}}}",
                    "seed": seed,
                }
                jobs.append(Job(f"measure-{name}-{seed}", f"{measure.__name__}:measure", config))
        return tuple(jobs)

    def findings(self, runs: Mapping[str, Run]) -> Findings:
        """Judge the claims, and show perturbations, trainings and transfer."""
        rows = [
            row
            for seed in self.seeds
            for training in self.trainings()
            for row in findings.read_rows(runs[f"measure-{training}-{seed}"], training=training, seed=seed)
        ]
        return Findings(
            verdicts=findings.verdicts(rows, taus=self.taus, tau=self.tau),
            rows=saved(rows, digits={"entropy": 6, "class_errors": 6}),
            sections=report.sections(rows, budgets=self.budgets(), taus=self.taus, tau=self.tau),
        )

    def trainings(self) -> dict[str, dict[str, Any]]:
        """Return each way to train: its objective and parameters."""
        eps = self.eps
        stages = {"eps": eps, "fit_steps": self.pool_steps}
        pgd = {"eps": eps, "steps": self.pgd_train_steps}
        return {
            "natural": {"objective": "standard", "objective_params": {}},
            "uat": {"objective": "universal", "objective_params": {"eps": eps, "clean": 0.5}},
            "class-uat": {"objective": "universal", "objective_params": {"eps": eps, "clean": 0.5, "per": "class"}},
            "two-stage-plain": {"objective": "universal-two-stage", "objective_params": {**stages, "kind": "plain"}},
            "two-stage-balanced": {"objective": "universal-two-stage", "objective_params": {**stages, "tau": self.tau}},
            "pgd": {"objective": "adversarial", "objective_params": pgd},
        }

    def perturbations(self, eps: float) -> dict[str, dict[str, Any]]:
        """Return the perturbations of the first part at a budget by name; plain ones at several scales."""

        def fitted(attack: str, **params: Any) -> dict[str, Any]:
            return {"attack": attack, "eps": eps, "params": {"steps": self.fit_steps, **params}}

        return {
            "plain": {**fitted("universal"), "scales": _SCALES},
            "margin": fitted("universal-balanced", tau=0.0),
            **{f"balanced {tau:g}": fitted("universal-balanced", tau=tau) for tau in self.taus},
            "adjusted": fitted("universal-balanced", strength="ce", tau=1.0),
            "penalised": fitted("universal-balanced", strength="ce", tau=0.0, lam=2.0),
            "class": fitted("universal", per="class"),
            "deepfool": fitted("universal", method="deepfool", steps=max(self.fit_steps // 4, 1)),
        }

    def budgets(self) -> dict[str, float]:
        """Return the budgets of the first part, by what the names of their perturbations end in."""
        return {"": self.eps, **{f" {format_eps(eps)}": eps for eps in self.more_eps}}

    def judges(self) -> dict[str, dict[str, Any]]:
        """Return the attacks that judge a training, made again for each network."""

        def fitted(attack: str, **params: Any) -> dict[str, Any]:
            return {"attack": attack, "eps": self.eps, "params": {"steps": self.measure_steps, **params}}

        return {
            "fresh plain": fitted("universal"),
            "fresh margin": fitted("universal-balanced", tau=0.0),
            "fresh balanced": fitted("universal-balanced", tau=self.tau),
            "fresh class": fitted("universal", per="class"),
            "pgd": {"attack": "pgd-linf", "eps": self.eps, "params": {"steps": self.pgd_steps, "keep": "last"}},
        }

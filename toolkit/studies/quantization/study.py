"""Is INT8 less robust, more robust, or only better hidden, and what can be done about it?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from edgeproof.plugins.registry import register
from edgeproof.runs import Run
from edgeproof.studies.base import Findings
from edgeproof.studies.dataset import STORED, data_job
from edgeproof.studies.frame import saved
from edgeproof.studies.jobs import Job
from edgeproof.studies.quantization import findings, report
from edgeproof.studies.quantization.findings import ADVERSARIAL, BEST, FLOAT, MEDIAN, QAT


@register(
    "quantization",
    presets={
        "smoke": {
            "data": "digits",
            "limit_train": 300,
            "model": "small-cnn",
            "epochs": 10,
            "lr": 1e-2,
            "eps": 0.05,
            "steps": 2,
            "images": 40,
            "validation_images": 30,
            "qat_limit": 60,
            "calibrations": 2,
            "methods": ("minmax",),
            "budget": 4,
        },
        "small": {},
        "medium": {"seeds": (0, 1, 2)},
        "paper": {
            "seeds": (0, 1, 2),
            "model": "resnet-20",
            "limit_train": None,
            "epochs": 30,
            "optimizer": "sgd",
            "lr": 0.1,
            "augment": "flip-crop",
            "images": 10000,
            "steps": 20,
            "qat_epochs": 3,
            "budget": 20,
        },
    },
    former={"document": ("medium", {})},
)
@dataclass(frozen=True, kw_only=True)
class Quantization:
    """Quantisation as a choice: calibration, build variance and training for INT8, judged under attack.

    Each seed trains a network, tries INT8 builds of it on adversaries of validation images, and trains two more, on clean images
    and on adversaries of the INT8 graph itself. Float, the best and the median calibrated build, and the two trained ones then meet
    the same test images: clean, under PGD transferred from the float network, under PGD on their own graph (confirmed on the
    engine), and under DIVA, which looks for images that float gets right and the build gets wrong.

    Args:
        data: Data set.
        seeds: Seeds of the weights and the order.
        model: Network.
        limit_train: Training images that are used, stratified; none for all.
        epochs: Passes over the training images.
        optimizer: Update rule of the float network.
        lr: Peak learning rate of the float network (onecycle).
        augment: Augmentation while the float network is trained: none, flip, crop or flip-crop.
        recipe: INT8 recipe.
        methods: Calibration methods that are tried.
        calibrations: Samples of calibration images that the first method is tried on.
        budget: Builds that are tried.
        qat_epochs: Passes of the quantisation-aware training.
        qat_limit: Training images of the quantisation-aware training; none for all.
        qat_lr: Learning rate of the quantisation-aware training.
        eps: Budget of every attack, in [0, 1] pixel units.
        steps: Steps of PGD; DIVA takes twice as many.
        images: Test images, stratified.
        validation_images: Validation images that builds are chosen on.
    """

    data: str = "cifar10"
    seeds: tuple[int, ...] = (0,)
    model: str = "possas-vgg"
    limit_train: int | None = 10000
    epochs: int = 12
    optimizer: Literal["sgd", "adam"] = "adam"
    lr: float = 1e-3
    augment: str = "flip"
    recipe: Literal["trt", "cpu"] = "cpu"
    methods: tuple[str, ...] = ("minmax", "entropy", "percentile", "mse")
    calibrations: int = 5
    budget: int = 14
    qat_epochs: int = 1
    qat_limit: int | None = 5000
    qat_lr: float = 1e-4
    eps: float = 0.00392156862745098  # 1/255
    steps: int = 10
    images: int = 500
    validation_images: int = 500

    def jobs(self) -> tuple[Job, ...]:
        """Train a network at each seed, search and train builds of it, and attack and evaluate all of them."""
        return (data_job(self.data), *(job for seed in self.seeds for job in self._seed_jobs(seed)))

    def findings(self, runs: Mapping[str, Run]) -> Findings:
        """Judge the claims, and show the builds and what the search has tried."""
        rows = [row for seed in self.seeds for row in findings.read_builds(runs[f"verdict-{seed}"], seed=seed)]
        searches = {seed: findings.read_search(runs[f"search-{seed}"]) for seed in self.seeds}
        return Findings(
            verdicts=findings.verdicts(rows, spread=findings.spread(searches)),
            rows=saved(rows, without=findings.UNSAVED),
            sections=report.sections(rows, searches),
        )

    def _seed_jobs(self, seed: int) -> Iterator[Job]:
        network = f"{{train-{seed}}}"
        training = {
            "data.name": STORED,
            "data.limit_train": self.limit_train,
            "data.calibration": 512,
            "model": self.model,
            "epochs": self.epochs,
            "optimizer": self.optimizer,
            "lr": self.lr,
            "augment": self.augment,
            "weight_decay": 0.0,
            "seed": seed,
        }
        yield Job(f"train-{seed}", "train", training)

        on_network = {"eps": self.eps, "params.steps": self.steps, "attack": "pgd-linf", "model": network}
        judged = {**on_network, "limit": self.validation_images, "split": "validation"}
        yield Job(f"judge-{seed}", "attack", judged)
        yield Job(f"sample-{seed}", "attack", {**on_network, "limit": 128, "split": "calibration"})
        search = {
            "recipe": self.recipe,
            "methods": self.methods,
            "calibrations": self.calibrations,
            "budget": self.budget,
            "model": network,
            "adversaries": f"{{judge-{seed}}}",
            "calibration_adversaries": f"{{sample-{seed}}}",
        }
        yield Job(f"search-{seed}", "quantize", search)

        export = {
            "model": network,
            "precisions": ["int8"],
            "recipes": [self.recipe],
            # What training changes is what is measured, so the parity gate does not judge it.
            "parity.int8_accuracy_drop": 1.0,
            "parity.int8_min_agreement": 0.0,
            "qat.epochs": self.qat_epochs,
            "qat.limit": self.qat_limit,
            "qat.lr": self.qat_lr,
            "qat.augment": self.augment,
            "qat.seed": seed,
        }
        yield Job(f"{QAT}-{seed}", "export", export)
        yield Job(f"{ADVERSARIAL}-{seed}", "export", {**export, "qat.eps": self.eps})

        int8 = f"model.int8-{self.recipe}"
        graphs = {
            FLOAT: f"{{search-{seed}}}/model.fp32.onnx",
            BEST: f"{{search-{seed}}}/{int8}.onnx",
            MEDIAN: f"{{search-{seed}}}/{int8}-median.onnx",
            QAT: f"{{{QAT}-{seed}}}/{int8}.onnx",
            ADVERSARIAL: f"{{{ADVERSARIAL}-{seed}}}/{int8}.onnx",
        }
        sets = [Job(f"transferred-{seed}", "attack", {**on_network, "limit": self.images})]
        for build, graph in graphs.items():
            white = {**on_network, "model": graph, "data": STORED, "limit": self.images}
            sets.append(Job(f"white-{build}-{seed}", "attack", white))
            if build != FLOAT:
                diva = {"attack": "diva", "params.steps": 2 * self.steps, "model": graphs[FLOAT], "deployed": graph}
                sets.append(Job(f"diva-{build}-{seed}", "attack", {**white, **diva}))
        yield from sets
        evaluated = {
            "engines": tuple(f"{build}=onnxruntime:{graph}" for build, graph in graphs.items()),
            "sets": tuple(f"{{{job.name}}}" for job in sets),
            "invariance": 0,
        }
        yield Job(f"verdict-{seed}", "eval", evaluated)

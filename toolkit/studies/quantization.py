"""Is INT8 less robust, more robust, or only better hidden, and what can be done about it?"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

from edgeproof.plugins.registry import register
from edgeproof.studies.base import Study
from edgeproof.studies.dataset import STORED, data_job
from edgeproof.studies.jobs import Job
from edgeproof.studies.quantization_report import Plan, collect

FLOAT, BEST, MEDIAN, QAT, ADVERSARIAL = "float", "ptq-best", "ptq-median", "qat", "adversarial-qat"
BUILDS = (FLOAT, BEST, MEDIAN, QAT, ADVERSARIAL)


@register(
    "quantization",
    presets={
        "small": {},
        "document": {"seeds": (0, 1, 2)},
        "paper": {
            "seeds": (0, 1, 2), "model": "resnet-20", "limit_train": None, "epochs": 30, "optimizer": "sgd", "lr": 0.1,
            "augment": "flip-crop", "images": 10000, "steps": 20, "qat_epochs": 3, "budget": 20,
        },
        "smoke": {
            "data": "digits", "limit_train": 300, "model": "small-cnn", "epochs": 10, "lr": 1e-2, "eps": 0.05, "steps": 2,
            "images": 40, "validation_images": 30, "qat_limit": 60, "calibrations": 2, "methods": ("minmax",), "budget": 4,
        },
    },
)  # fmt: skip
def quantization(
    *,
    data: str = "cifar10",
    seeds: tuple[int, ...] = (0,),
    model: str = "possas-vgg",
    limit_train: int | None = 10000,
    epochs: int = 12,
    optimizer: Literal["sgd", "adam"] = "adam",
    lr: float = 1e-3,
    augment: str = "flip",
    recipe: Literal["trt", "cpu"] = "cpu",
    methods: tuple[str, ...] = ("minmax", "entropy", "percentile", "mse"),
    calibrations: int = 5,
    budget: int = 14,
    qat_epochs: int = 1,
    qat_limit: int | None = 5000,
    qat_lr: float = 1e-4,
    eps: float = 0.00392156862745098,  # 1/255
    steps: int = 10,
    images: int = 500,
    validation_images: int = 500,
) -> Study:
    """Quantisation as a choice: calibration, build variance and training for INT8, judged under attack.

    Each seed trains a network, tries INT8 builds of it on adversaries of validation images, and trains two more, on clean images
    and on adversaries of the INT8 graph itself. Float, the best and the median calibrated build, and the two trained ones then meet
    the same test images: clean, under PGD transferred from the float network, under PGD on their own graph (confirmed on the
    engine), and under DIVA, which looks for images that float gets right and the build gets wrong.

    Args:
        data: Data set.
        seeds: Of the weights and the order.
        model: Network.
        limit_train: Use at most so many training images, stratified.
        epochs: Passes over them.
        optimizer: Update rule of the float network.
        lr: Its peak learning rate (onecycle).
        augment: Of its training: none, flip, crop or flip-crop.
        recipe: INT8 recipe.
        methods: Calibration methods that are tried.
        calibrations: Samples of calibration images that the first method is tried on.
        budget: Builds that are tried.
        qat_epochs: Passes of the quantisation-aware training.
        qat_limit: Its training images.
        qat_lr: Its learning rate.
        eps: Budget of every attack, in [0, 1] pixel units.
        steps: Of PGD; DIVA takes twice as many.
        images: Test images, stratified.
        validation_images: Validation images that builds are chosen on.
    """
    split = {"data.name": STORED, "data.limit_train": limit_train, "data.calibration": 512}
    fit = {
        **split, "model": model, "epochs": epochs, "optimizer": optimizer, "lr": lr, "augment": augment, "weight_decay": 0.0,
    }  # fmt: skip
    search = {"recipe": recipe, "methods": methods, "calibrations": calibrations, "budget": budget}
    tuning = {"qat.epochs": qat_epochs, "qat.limit": qat_limit, "qat.lr": qat_lr, "qat.augment": augment}
    attack = {"eps": eps, "params.steps": steps}
    jobs = [data_job(data)]
    for seed in seeds:
        trained = f"train-{seed}"
        jobs.append(Job(trained, "train", {**fit, "seed": seed}))
        jobs += _search(seed, trained, search, {**attack, "limit": validation_images})
        jobs += _tuned(seed, trained, recipe, {**tuning, "qat.seed": seed}, eps=eps)
        jobs += _attacks(seed, trained, recipe, {**attack, "limit": images})
    return Study(jobs=tuple(jobs), collect=partial(collect, Plan(seeds=seeds, builds=BUILDS, recipe=recipe)))


def _graph(build: str, seed: int, recipe: str) -> str:
    """Return the file of a build."""
    files = {
        FLOAT: f"{{search-{seed}}}/model.fp32.onnx",
        BEST: f"{{search-{seed}}}/model.int8-{recipe}.onnx",
        MEDIAN: f"{{search-{seed}}}/model.int8-{recipe}-median.onnx",
    }
    return files.get(build, f"{{{build}-{seed}}}/model.int8-{recipe}.onnx")


def _search(seed: int, trained: str, search: Mapping[str, Any], attack: Mapping[str, Any]) -> list[Job]:
    judge, sample = f"judge-{seed}", f"sample-{seed}"
    source = {**attack, "attack": "pgd-linf", "model": f"{{{trained}}}"}
    chosen = {
        **search,
        "model": f"{{{trained}}}",
        "adversaries": f"{{{judge}}}",
        "calibration_adversaries": f"{{{sample}}}",
    }
    return [
        Job(judge, "attack", {**source, "split": "validation"}),
        Job(sample, "attack", {**source, "split": "calibration", "limit": 128}),
        Job(f"search-{seed}", "quantize", chosen),
    ]


def _tuned(seed: int, trained: str, recipe: str, tuning: Mapping[str, Any], *, eps: float) -> list[Job]:
    # What training changes is what is measured, so the parity gate does not judge it.
    free = {"parity.int8_accuracy_drop": 1.0, "parity.int8_min_agreement": 0.0}
    export = {"model": f"{{{trained}}}", "precisions": ["int8"], "recipes": [recipe], **free, **tuning}
    return [
        Job(f"{QAT}-{seed}", "export", export),
        Job(f"{ADVERSARIAL}-{seed}", "export", {**export, "qat.eps": eps}),
    ]


def _attacks(seed: int, trained: str, recipe: str, attack: Mapping[str, Any]) -> list[Job]:
    """Return the attacks on the builds of one seed and the evaluation of all builds under all of them."""
    graphs = {build: _graph(build, seed, recipe) for build in BUILDS}
    jobs = [Job(f"transferred-{seed}", "attack", {**attack, "attack": "pgd-linf", "model": f"{{{trained}}}"})]
    double = {
        **attack,
        "params.steps": 2 * attack["params.steps"],
        "attack": "diva",
        "model": graphs[FLOAT],
        "data": STORED,
    }
    for build, graph in graphs.items():
        own = {**attack, "attack": "pgd-linf", "model": graph, "data": STORED}
        jobs.append(Job(f"white-{build}-{seed}", "attack", own))
        if build != FLOAT:
            jobs.append(Job(f"diva-{build}-{seed}", "attack", {**double, "deployed": graph}))
    sets = tuple(f"{{{job.name}}}" for job in jobs)
    engines = tuple(f"{build}=onnxruntime:{graph}" for build, graph in graphs.items())
    return [*jobs, Job(f"verdict-{seed}", "eval", {"engines": engines, "sets": sets, "invariance": 0})]

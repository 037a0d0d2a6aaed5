"""The victims of the study `confuse`: their jobs, and what is measured on each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeproof.config import DataConfig
from edgeproof.data.arrays import write_npz
from edgeproof.data.base import LabelledImages, Splits, load_splits
from edgeproof.data.poison import load_poison, poison_splits
from edgeproof.evaluation.metrics import Rate, confusion
from edgeproof.runs import Run, write_json
from edgeproof.studies.jobs import Job
from edgeproof.system.optional import require
from edgeproof.types import Array, Labels

if TYPE_CHECKING:
    from edgeproof.models.base import Classifier

CLASSICAL = ("forest", "svm")
MEASURED, PICTURES = "measured.json", "pictures.npz"
_SHOWN = 8  # images in the figure
_STEPS = 5  # of the attack in adversarial training


@dataclass(frozen=True)
class Fit:
    """One victim.

    Attributes:
        name: Of its jobs, unique.
        table: Where it is reported.
        network: A model's registry name, "forest" or "svm".
        poison: The job that made its training images; None for clean ones.
        seed: Of the victim.
        eps: Budget of its noise; 0 where there is none.
        share: Part of the training images that were changed.
        defence: A filter before training (`squeeze`), "cutout", "mixup", or "adversarial=EPS" for adversarial training.
        noise: Whether it is also measured on noise alone.
    """

    name: str
    table: str
    network: str
    poison: str | None
    seed: int
    eps: float = 0.0
    share: float = 1.0
    defence: str | None = None
    noise: bool = False

    @property
    def measured_by(self) -> str:
        """The job that has measured it."""
        return self.name if self.network in CLASSICAL else f"{self.name}-measured"


@dataclass(frozen=True)
class Measured:
    """A victim with what was measured on it.

    Attributes:
        fit: The victim.
        clean: Accuracy on the clean test images.
        counts: (K, K) confusion of the clean test images: rows true, columns predicted.
        classes: The name of each class.
        poisoned: Accuracy on the training images that it was given, when measured.
        noise: Accuracy on the noise alone of training and of test images, when measured.
        target: The wanted class of each class, of a label-specific poison.
    """

    fit: Fit
    clean: Rate
    counts: Array
    classes: tuple[str, ...]
    poisoned: Rate | None = None
    noise: tuple[Rate, Rate] | None = None
    target: tuple[int, ...] | None = None

    @property
    def top_class(self) -> Rate:
        """Test images in the most frequent predicted class: all of them for a victim stuck in one."""
        return Rate(int(self.counts.sum(axis=0).max()), int(self.counts.sum()))

    @property
    def wanted(self) -> Rate | None:
        """Test images that a label-specific poison has sent where it wanted them."""
        if self.target is None:
            return None
        return Rate(int(self.counts[np.arange(len(self.target)), self.target].sum()), int(self.counts.sum()))

    def cell(self) -> dict[str, Any]:
        """Return it as a JSON object with its counts."""
        rates = {"clean": self.clean, "poisoned": self.poisoned, "top_class": self.top_class, "wanted": self.wanted}
        if self.noise:
            rates |= {"noise_train": self.noise[0], "noise_test": self.noise[1]}
        known = {name: asdict(rate) for name, rate in rates.items() if rate is not None}
        return {**asdict(self.fit), **known, "confusion": self.counts.tolist()}


def fit_jobs(fit: Fit, training: Mapping[str, Any]) -> tuple[Job, ...]:
    """Return the jobs that fit a victim and measure it.

    Args:
        fit: The victim.
        training: Configuration of a train stage, dotted keys.
    """
    poison = None if fit.poison is None else f"{{{fit.poison}}}"
    data = {key.removeprefix("data."): value for key, value in training.items() if key.startswith("data.")}
    shared = {"poison": poison, "data": data, "seed": fit.seed}
    if fit.network in CLASSICAL:
        return (Job(fit.name, f"{__name__}:fit_classical", {**shared, "kind": fit.network}),)
    config = {
        **training,
        "model": fit.network,
        "poison": poison,
        "seed": fit.seed,
        **_defence(fit.defence, augment=training["augment"]),
    }
    measured = {**shared, "model": f"{{{fit.name}}}", "noise": fit.noise, "device": training["device"]}
    return Job(fit.name, "train", config), Job(fit.measured_by, f"{__name__}:measure", measured)


def _defence(how: str | None, *, augment: str) -> dict[str, Any]:
    word, _, value = (how or "").partition("=")
    if word == "adversarial":
        return {"objective": "adversarial", "objective_params": {"eps": value, "steps": _STEPS}}
    if word == "mixup":
        return {"objective": "mixup"}
    if word == "cutout":
        return {"augment": "cutout" if augment == "none" else f"{augment}-cutout"}
    return {"squeeze": how}


def read_fits(fits: Sequence[Fit], runs: Mapping[str, Run]) -> tuple[Measured, ...]:
    """Read what the jobs have measured, in the order of the victims."""
    return tuple(_read(fit, runs[fit.measured_by]) for fit in fits)


def _read(fit: Fit, run: Run) -> Measured:
    found = json.loads(run.file(MEASURED).read_text(encoding="utf-8"))
    counts = np.array(found["confusion"], np.int64)
    noise = found["noise"]
    return Measured(
        fit=fit,
        clean=Rate(int(np.trace(counts)), int(counts.sum())),
        counts=counts,
        classes=tuple(found["classes"]),
        poisoned=Rate(**found["poisoned"]) if found["poisoned"] else None,
        noise=(Rate(**noise[0]), Rate(**noise[1])) if noise else None,
        target=tuple(found["target"]) if found["target"] else None,
    )


def fit_classical(config: Mapping[str, Any], out: Run) -> None:
    """Fit a random forest (100 trees) or an RBF-SVM (C = 200, gamma = 0.01), as in the authors' code, and measure it.

    Raises:
        UnavailableError: When scikit-learn is not installed.
    """
    clean = load_splits(DataConfig.model_validate(config["data"]))
    given = _given(clean, config["poison"])
    purpose = f"fit the victim {config['kind']!r}"
    if config["kind"] == "forest":
        forest = require("sklearn.ensemble", extra="data", purpose=purpose)
        model = forest.RandomForestClassifier(n_estimators=100, random_state=config["seed"])
    else:
        model = require("sklearn.svm", extra="data", purpose=purpose).SVC(C=200, gamma=0.01)
    model.fit(_rows(given), given.labels)
    _write(out, clean.test, model.predict(_rows(clean.test)).astype(np.int64))


def measure(config: Mapping[str, Any], out: Run) -> None:
    """Measure a fitted network on the clean test images, and where asked for on its training images and on noise alone."""
    import torch

    from edgeproof.models.base import load_classifier
    from edgeproof.poisoning.measure import predict

    victim = load_classifier(Run.open(config["model"], kind="train").file("model.safetensors"), device=config["device"])
    clean = load_splits(DataConfig.model_validate(config["data"]))
    predicted = predict(victim, torch.from_numpy(clean.test.images).to(config["device"]))
    poison = None if config["poison"] is None else Run.open(config["poison"], kind="poison")
    target = None if poison is None else load_poison(poison).target
    more = _on_poison(victim, clean, poison, config, out) if poison is not None and config["noise"] else {}
    _write(out, clean.test, predicted, target=target, **more)


def _on_poison(victim: Classifier, clean: Splits, poison: Run, config: Mapping[str, Any], out: Run) -> dict[str, Any]:
    """Measure on the poisoned training images and on noise alone, and keep a few images to be shown."""
    import torch

    from edgeproof.poisoning.base import GENERATOR
    from edgeproof.poisoning.measure import noise_all, predict
    from edgeproof.poisoning.networks import load_generator

    given = _given(clean, str(poison.path))
    generator = load_generator(poison.file(GENERATOR)).to(config["device"])
    hits = [predict(victim, torch.from_numpy(given.images).to(config["device"])) == given.labels]
    for part in (clean.train, clean.test):
        noise = noise_all(generator, torch.from_numpy(part.images).to(config["device"]))
        hits.append(predict(victim, noise) == part.labels)
    shown = [int(np.flatnonzero(given.labels == label)[0]) for label in range(given.num_classes)][:_SHOWN]
    write_npz(out.path / PICTURES, {"clean": clean.train.images[shown], "poisoned": given.images[shown]})
    poisoned, *noise_hits = map(Rate.of, hits)
    return {"poisoned": poisoned, "noise": noise_hits}


def _given(clean: Splits, poison: str | None) -> LabelledImages:
    """Return the training images that a victim is given."""
    return clean.train if poison is None else poison_splits(clean, load_poison(Run.open(poison, kind="poison"))).train


def _rows(data: LabelledImages) -> Array:
    return data.images.reshape(len(data), -1)


def _write(
    out: Run,
    test: LabelledImages,
    predicted: Labels,
    *,
    poisoned: Rate | None = None,
    noise: Sequence[Rate] = (),
    target: tuple[int, ...] | None = None,
) -> None:
    counts = confusion(predicted, test.labels, num_classes=test.num_classes)
    found = {
        "classes": test.classes,
        "confusion": counts.tolist(),
        "poisoned": None if poisoned is None else asdict(poisoned),
        "noise": [asdict(rate) for rate in noise],
        "target": target,
    }
    write_json(out.path / MEASURED, found)

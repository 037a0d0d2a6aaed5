"""The jobs of the study `confuse` that are no ordinary stages: victims measured, classical ones fitted, noise looked for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeproof.config import DataConfig, DetectConfig, Strict
from edgeproof.data.arrays import write_npz
from edgeproof.data.base import LabelledImages, Splits, load_splits
from edgeproof.data.poison import load_poison, poison_splits
from edgeproof.evaluation.detection import DetectRecord, detect_noise
from edgeproof.evaluation.metrics import Rate, confusion
from edgeproof.runs import Run, write_json
from edgeproof.studies.frame import counts
from edgeproof.studies.measuring import WEIGHTS
from edgeproof.system.optional import require
from edgeproof.types import Labels

if TYPE_CHECKING:
    from edgeproof.models.base import Classifier

MEASURED, PICTURES, DETECTED = "measured.json", "pictures.npz", "detected.json"
#: Columns that `study.json` does not hold: the names of the classes, and the wanted class of each.
UNSAVED = ("classes", "goals")
_SHOWN = 8  # images in the figure


class Detections(Strict):
    """What was found in each draw of images."""

    draws: tuple[DetectRecord, ...]


def measure(config: Mapping[str, Any], out: Run) -> None:
    """Measure a fitted network on the clean test images, and where asked for on its training images and on noise alone.

    Args:
        config: `model` (train run), `data`, `poison` (run or None), `noise` and `device`.
        out: The run.
    """
    import torch

    from edgeproof.models.base import load_classifier
    from edgeproof.poisoning.measure import predict

    victim = load_classifier(Run.open(config["model"], kind="train").file(WEIGHTS), device=config["device"])
    clean = load_splits(DataConfig.model_validate(config["data"]))
    predicted = predict(victim, torch.from_numpy(clean.test.images).to(config["device"]))
    poison = None if config["poison"] is None else Run.open(config["poison"], kind="poison")
    found: dict[str, Any] = {"target": None if poison is None else load_poison(poison).target}
    if poison is not None and config["noise"]:
        found |= _on_noise(victim, clean, poison, config["device"], out)
    _write(out, clean.test, predicted, **found)


def _on_noise(victim: Classifier, clean: Splits, poison: Run, device: str, out: Run) -> dict[str, Any]:
    """Measure on the poisoned training images and on noise alone, and keep a few images to be shown."""
    import torch

    from edgeproof.poisoning.base import GENERATOR
    from edgeproof.poisoning.measure import noise_all, predict
    from edgeproof.poisoning.networks import load_generator

    given = poison_splits(clean, load_poison(poison)).train
    generator = load_generator(poison.file(GENERATOR)).to(device)
    poisoned = predict(victim, torch.from_numpy(given.images).to(device)) == given.labels
    alone = [
        predict(victim, noise_all(generator, torch.from_numpy(part.images).to(device))) == part.labels
        for part in (clean.train, clean.test)
    ]
    shown = [int(np.flatnonzero(given.labels == label)[0]) for label in range(given.num_classes)][:_SHOWN]
    write_npz(out.path / PICTURES, {"clean": clean.train.images[shown], "poisoned": given.images[shown]})
    return {"poisoned": asdict(Rate.of(poisoned)), "noise": [asdict(Rate.of(hits)) for hits in alone]}


def fit_classical(config: Mapping[str, Any], out: Run) -> None:
    """Fit a random forest (100 trees) or an RBF-SVM (C = 200, gamma = 0.01), as in the authors' code, and measure it.

    Args:
        config: `kind` ("forest" or "svm"), `data`, `poison` (run or None) and `seed`.
        out: The run.

    Raises:
        UnavailableError: When scikit-learn is not installed.
    """
    clean = load_splits(DataConfig.model_validate(config["data"]))
    poison = config["poison"]
    given = clean if poison is None else poison_splits(clean, load_poison(Run.open(poison, kind="poison")))
    purpose = f"fit the victim {config['kind']!r}"
    if config["kind"] == "forest":
        forest = require("sklearn.ensemble", extra="data", purpose=purpose)
        model = forest.RandomForestClassifier(n_estimators=100, random_state=config["seed"])
    else:
        model = require("sklearn.svm", extra="data", purpose=purpose).SVC(C=200, gamma=0.01)
    train, test = (part.images.reshape(len(part), -1) for part in (given.train, clean.test))
    model.fit(train, given.train.labels)
    _write(out, clean.test, model.predict(test).astype(np.int64))


def _write(
    out: Run, test: LabelledImages, predicted: Labels, *, poisoned: Any = None, noise: Any = (), target: Any = None
) -> None:
    matrix = confusion(predicted, test.labels, num_classes=test.num_classes)
    found = {
        "classes": test.classes,
        "confusion": matrix.tolist(),
        "poisoned": poisoned,
        "noise": noise,
        "target": target,
    }
    write_json(out.path / MEASURED, found)


def read_measured(run: Run) -> dict[str, Any]:
    """Return what a row holds of what was measured on a victim.

    Rates: `clean` accuracy, accuracy on the `poisoned` images that it was given, `top_class`, the test images in the most
    frequent predicted class (all of them for a victim that always answers the same), those that a label-specific poison has
    sent to the `wanted` class, and accuracy on the noise alone of training and of test images.
    """
    found = json.loads(run.file(MEASURED).read_text(encoding="utf-8"))
    matrix = np.array(found["confusion"], np.int64)
    total = int(matrix.sum())
    row = {"clean": counts(Rate(int(np.trace(matrix)), total))}
    if found["poisoned"]:
        row["poisoned"] = found["poisoned"]
    row["top_class"] = counts(Rate(int(matrix.sum(axis=0).max()), total))
    if goals := found["target"]:
        row["wanted"] = counts(Rate(int(matrix[np.arange(len(goals)), goals].sum()), total))
    if found["noise"]:
        row["noise_train"], row["noise_test"] = found["noise"]
    return {**row, "confusion": found["confusion"], "classes": found["classes"], "goals": goals}


def detect(config: Mapping[str, Any], out: Run) -> None:
    """Compare draws of the training images, or of a poison's, with test images.

    Args:
        config: `data`, `poison` (run or None), `draws` and `seed`, that of the first draw.
        out: The run.
    """
    given = {"data": config["data"], "poison": config["poison"]}
    seeds = range(config["seed"], config["seed"] + config["draws"])
    found = [detect_noise(DetectConfig.model_validate({**given, "seed": seed})) for seed in seeds]
    write_json(out.path / DETECTED, Detections(draws=tuple(found)).model_dump(mode="json"))

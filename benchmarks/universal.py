"""Universal perturbations compared with ART's: fooling ratio and time at one budget, on one network.

    python benchmarks/universal.py --model runs/train-cifar10-small-cnn-half-... --eps 8/255

Both fit on the same training images and are judged on the same test images, in one process. ART's `UniversalPerturbation` goes
through the images one by one, with DeepFool or another of its attacks inside; ours goes through batches. ART's passes are
limited, since it stops when most images are fooled, which may never be. Times are compared in processor seconds, which a busy
machine does not stretch. Needs pip install adversarial-robustness-toolbox.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgeproof.attacks.base import Draws
from edgeproof.attacks.universal import universal
from edgeproof.config import parse_number
from edgeproof.data.base import LabelledImages, load_splits
from edgeproof.data.origin import data_of
from edgeproof.evaluation.metrics import fooling_ratio, predictions
from edgeproof.models.base import Classifier, load_classifier
from edgeproof.ops import universal_apply
from edgeproof.reports import numbers
from edgeproof.runs import Run, write_json
from edgeproof.source_model.folding import fast_form
from edgeproof.system.environment import describe_environment
from edgeproof.types import Array

Fit = Callable[[], Array]  # the perturbation (C, H, W)


def main() -> None:
    """Fit on both sides, check the budgets, and write what was found."""
    options = _options()
    torch.set_num_threads(options.threads)
    run = Run.open(options.model, kind="train")
    model = load_classifier(run.file("model.safetensors"))
    splits = load_splits(data_of(run))
    train, test = splits.train.head(options.fit), splits.test.head(options.test)
    eps = parse_number(options.eps)
    sides: dict[str, Fit] = {
        "edgeproof sgd": lambda: _ours(model, train, eps=eps, method="sgd", steps=options.steps),
        "edgeproof deepfool": lambda: _ours(model, train, eps=eps, method="deepfool", steps=options.steps),
        f"ART {options.attacker}": lambda: _art(
            model, train, eps=eps, attacker=options.attacker, passes=options.passes
        ),
    }
    rows = [_measure(name, fit, model, test, eps=eps) for name, fit in sides.items()]
    art = rows[-1]["processor_seconds"]
    for row in rows:
        row["times_less_processor"] = round(art / row["processor_seconds"], 1)
        print(f"{row['side']}: ART takes {row['times_less_processor']:g} times its processor time")
    about = {"eps": eps, "fit_images": len(train), "test_images": len(test), "threads": options.threads}
    if options.results:
        write_json(options.results, {**about, "environment": describe_environment(), "sides": rows})


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--model", required=True, help="a train run")
    parser.add_argument("--eps", default="8/255", help="L-infinity budget")
    parser.add_argument("--fit", type=int, default=1000, help="training images that both sides fit on")
    parser.add_argument("--test", type=int, default=2000, help="test images that both are judged on")
    parser.add_argument("--steps", type=int, default=100, help="our batches of 128")
    parser.add_argument("--attacker", default="deepfool", help="ART's attack on each image")
    parser.add_argument("--passes", type=int, default=1, help="ART's passes over the images")
    parser.add_argument("--threads", type=int, default=1, help="processor threads")
    parser.add_argument("--results", type=Path, help="JSON file for the numbers")
    return parser.parse_args()


def _measure(name: str, fit: Fit, model: Classifier, test: LabelledImages, *, eps: float) -> dict[str, Any]:
    """Time one side, and hold what it found to the budget."""
    started, worked = time.perf_counter(), time.process_time()
    delta = fit()
    seconds, processor = time.perf_counter() - started, time.process_time() - worked
    if float(np.abs(delta).max()) > eps + 1e-6:
        sys.exit(f"{name} left the budget: {np.abs(delta).max():.6f} > {eps:.6f}")
    x = torch.from_numpy(test.images)
    with torch.no_grad():
        clean, attacked = (predictions(model(images).numpy()) for images in (x, universal_apply(x, _tensor(delta))))
    changed = fooling_ratio(clean, attacked)
    found = {
        "side": name,
        "seconds": round(seconds, 3),
        "processor_seconds": round(processor, 3),
        "fooling": numbers.percent(changed.value),
        "accuracy": numbers.percent(float((attacked == test.labels).mean())),
    }
    print(", ".join(f"{key} {value}" for key, value in found.items()), flush=True)
    return found


def _ours(model: Classifier, train: LabelledImages, *, eps: float, method: str, steps: int) -> Array:
    x, y = torch.from_numpy(train.images), torch.from_numpy(train.labels)
    source = fast_form(model, x[:8], mode="fast")
    draws = Draws(seed=0, index=train.index)
    found = universal(source, x, y, eps=eps, method=method, steps=steps, draws=draws)  # type: ignore[arg-type]
    delta: Array = found[0].numpy()
    return delta


def _art(model: Classifier, train: LabelledImages, *, eps: float, attacker: str, passes: int) -> Array:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from art.attacks.evasion import UniversalPerturbation
        from art.estimators.classification import PyTorchClassifier

        classifier = PyTorchClassifier(
            model=model.requires_grad_(False),
            loss=torch.nn.CrossEntropyLoss(),
            input_shape=model.input_shape,
            nb_classes=model.num_classes,
            clip_values=(0.0, 1.0),
            device_type="cpu",
        )
        params = {"verbose": False} if attacker == "deepfool" else None
        attack = UniversalPerturbation(
            classifier, attacker=attacker, attacker_params=params, delta=0.05, max_iter=passes, eps=eps, norm=np.inf,
            verbose=False,
        )  # fmt: skip
        attack.generate(train.images, np.eye(model.num_classes, dtype=np.float32)[train.labels])
    delta: Array = np.asarray(attack.noise, np.float32).reshape(model.input_shape)
    return delta


def _tensor(delta: Array) -> Tensor:
    return torch.from_numpy(delta)


if __name__ == "__main__":
    main()

"""What was predicted, as points: how strong a perturbation is against how evenly it spreads the predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

import numpy as np

from edgeproof.data.arrays import read_npz
from edgeproof.evaluation import metrics
from edgeproof.evaluation.metrics import Rate
from edgeproof.runs import Run
from edgeproof.studies.ma_cao.measure import CLEAN, PREDICTIONS


@dataclass(frozen=True)
class Point:
    """One attack on one network, as one form of it (or another network) sees it.

    Attributes:
        training: How the network was trained.
        seed: Of the training and of the fit.
        attack: Its name in the study; "clean" for none.
        scale: What a universal perturbation was multiplied by.
        form: What predicted: "checkpoint", a graph, or another network.
        accuracy: Over all test images.
        fooling: Images predicted as another class than when clean, by the same form.
        top1: Images predicted as the class predicted most.
        top3: The same of the three classes.
        entropy: Of the predicted classes, over log K.
        class_errors: Error rate of each true class.
    """

    training: str
    seed: int
    attack: str
    scale: float
    form: str
    accuracy: Rate
    fooling: Rate
    top1: Rate
    top3: Rate
    entropy: float
    class_errors: tuple[float, ...]

    @property
    def least_class_error(self) -> float:
        """The error rate of the class that suffers least, in per cent."""
        return 100 * min(self.class_errors)

    @property
    def worst_class(self) -> float:
        """The accuracy of the class that suffers most, in per cent."""
        return 100 * (1 - max(self.class_errors))

    def record(self) -> dict[str, Any]:
        """Return it as JSON has it, with its counts."""
        rates = {name: getattr(self, name) for name in ("accuracy", "fooling", "top1", "top3")}
        return {
            "training": self.training, "seed": self.seed, "attack": self.attack, "scale": self.scale, "form": self.form,
            **{name: {"hits": rate.hits, "total": rate.total} for name, rate in rates.items()},
            "entropy": round(self.entropy, 6), "class_errors": [round(error, 6) for error in self.class_errors],
        }  # fmt: skip


def read_points(run: Run, *, training: str, seed: int) -> list[Point]:
    """Return every point of a finished measurement."""
    arrays = read_npz(run.file(PREDICTIONS), required=("labels",))
    labels = arrays.pop("labels")
    classes = int(labels.max()) + 1
    points = []
    for key, predicted in arrays.items():
        name, _, form = key.rpartition("/")
        attack, _, scale = name.partition("@")
        rates = metrics.per_class_accuracy(predicted, labels, num_classes=classes)
        points.append(
            Point(
                training=training,
                seed=seed,
                attack=attack,
                scale=float(scale or 1),
                form=form,
                accuracy=metrics.accuracy(predicted, labels),
                fooling=metrics.fooling_ratio(arrays[f"{CLEAN}/{form}"], predicted),
                top1=metrics.top_share(predicted, num_classes=classes, classes=1),
                top3=metrics.top_share(predicted, num_classes=classes, classes=3),
                entropy=metrics.normalised_entropy(predicted, num_classes=classes) or 0.0,
                class_errors=tuple(1 - (rate.value or 0.0) for rate in rates),
            )
        )
    return points


def percent(rate: Rate) -> float:
    """Return a rate in per cent."""
    return 100 * (rate.value or 0.0)


def at_equal_fooling(curve: Sequence[Point], value: str, *, fooling: float) -> float:
    """Return what a curve of points has where it fools `fooling` per cent: linear between its points, flat beyond them.

    Args:
        curve: One perturbation at several scales.
        value: "entropy", "top1" or "least_class_error"; in per cent.
        fooling: Of the perturbation that it is compared with.
    """
    ordered = sorted(curve, key=lambda point: percent(point.fooling))
    return float(np.interp(fooling, [percent(point.fooling) for point in ordered], [amount(p, value) for p in ordered]))


def amount(point: Point, value: str) -> float:
    """Return a measure of a point, in per cent (of log K for the entropy)."""
    found = getattr(point, value)
    if isinstance(found, Rate):
        return percent(found)
    return 100 * float(found) if value == "entropy" else float(found)


def dominated(places: Sequence[tuple[float, float]]) -> list[bool]:
    """Return which of several (strength, balance) are beaten: another is as good in both and better in one."""
    return [any(other[0] >= mine[0] and other[1] >= mine[1] and other != mine for other in places) for mine in places]


def average(points: Sequence[Point], value: str) -> float:
    """Return the mean of a measure over seeds."""
    return mean(amount(point, value) for point in points)

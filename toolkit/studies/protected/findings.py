"""From finished jobs to rows, and from rows to verdicts: what protects a class, and what makes a layer Min-Max."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from edgeproof.data.arrays import read_npz
from edgeproof.evaluation.costs import protected_costs
from edgeproof.evaluation.results import read_results
from edgeproof.evaluation.weights import LayerRecord, read_weights
from edgeproof.runs import Run
from edgeproof.studies.frame import Measure, Row, gains, seed_means, where
from edgeproof.studies.measuring import WEIGHTS
from edgeproof.studies.verdicts import Effect, Verdict, judge, over_seeds, within_seed
from edgeproof.types import Array

FP32, INT8_ENGINE = "torch-fp32", "ort-int8-trt"
INT8_GRAPH = "model.int8-trt.onnx"
#: Sets whose images do not come from the row's own FP32 network: from its INT8 graph, and from the row `normal`.
INT8, TRANSFER = "int8", "transfer"
#: Columns that `study.json` does not hold, and those that it holds rounded.
UNSAVED = ("labels", "predicted", "false_alarm_percent", "weight", "epochs")
DIGITS = {"expected_cost": 6, "int8_sqnr_db": 4}
#: Indicators that no other attack is needed for; between attacks the study compares by itself, at one budget.
_OF_ONE_ATTACK = ("zero-gradients", "non-finite-gradients", "saturated-loss", "randomness", "eps-sweep")
_Z = 1.959963984540054
#: What the paper compares, each followed by its control of as many epochs, and the shape against plain weight decay.
_STEPS = (
    ("normal", "adv"),
    ("normal-continued", "adv"),
    ("adv", "csa-both"),
    ("adv-continued", "csa-both"),
    ("adv-continued", "csa-miss"),
    ("l2-conv1", "cse"),
)


def all_classes(row: Row) -> float:
    """Accuracy in per cent, every class weighing the same."""
    return 100 * float((np.array(row["class_hits"]) / np.array(row["class_totals"])).mean())


def protected_class(row: Row) -> float:
    """Accuracy on the protected class, in per cent."""
    return 100 * float(row["class_hits"][row["protected"]] / row["class_totals"][row["protected"]])


def hoyer(row: Row) -> float:
    """Hoyer sparsity of the first convolution."""
    return float(row["layer"]["hoyer"] or 0.0)


def kurtosis(row: Row) -> float:
    """Kurtosis of the first convolution."""
    return float(row["layer"]["kurtosis"] or 0.0)


def read_scores(run: Run, about: Mapping[str, Any], *, columns: Sequence[str], cost: float) -> Iterator[dict[str, Any]]:
    """Make a row for each engine and set of an eval run.

    Args:
        run: The eval run of a training.
        about: `row`, `seed` and `protected`, the number of the protected class.
        columns: The sets, in the order of the run.
        cost: Of the protected class's mistakes.
    """
    results = read_results(run.file("results.json"))
    samples = read_npz(run.file("samples.npz"))
    # The row `normal` is its own source of transferred images, which are listed once.
    names = dict(zip(columns, (set_.name for set_ in results.sets), strict=False))
    for engine in results.engines:
        for column, name in names.items():
            cell = results.cell(engine.name, name)
            classes = len(results.classes)
            totals = np.array([cell.rate(label).total for label in range(classes)])
            yield {
                **about,
                "engine": engine.name,
                "set": column,
                **confusion_columns(cell.matrix(classes), totals, protected=about["protected"], cost=cost),
                "labels": samples["labels"],
                "predicted": samples[f"pred/{engine.name}--{name}"],
            }


def confusion_columns(confusion: Array, totals: Array, *, protected: int, cost: float) -> dict[str, Any]:
    """Return what a row holds of a confusion.

    `false_alarms` are images of other classes that are taken for the protected one, in per cent every class weighs the same;
    `expected_cost` is that of an image under the published matrix (both sides), every class weighing the same.

    Args:
        confusion: (K, K) counts, true classes in rows; images without a prediction are in no column.
        totals: (K,) images of each class.
        protected: The protected class.
        cost: Of its mistakes.
    """
    costs = protected_costs((protected,), cost=cost, side="both", num_classes=len(totals))
    unpredicted = (totals - confusion.sum(1)) * costs.max(1)
    return {
        "class_hits": np.diag(confusion).tolist(),
        "class_totals": totals.tolist(),
        "false_alarms": int(np.delete(confusion[:, protected], protected).sum()),
        "expected_cost": float((((confusion * costs).sum(1) + unpredicted) / totals).mean()),
        "false_alarm_percent": 100 * float(np.delete(confusion[:, protected] / totals, protected).mean()),
    }


def read_indicators(run: Run, about: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Make a row for each indicator of masked gradients that an eval run reports of a single attack."""
    for record in read_results(run.file("results.json")).masking:
        if record.reported and record.name in _OF_ONE_ATTACK:
            yield {**about, "indicator": record.name}


def read_layer(trained: Run, exported: Run, about: Mapping[str, Any]) -> dict[str, Any]:
    """Make the row of a training's first convolution.

    Its `int8_sqnr_db` is signal to quantisation noise of the weights that the INT8 graph (trt) computes with, infinite
    without noise; `epochs` are its measures epoch by epoch.
    """

    def first_convolution(path: Path) -> Array:
        return next(weight for weight in read_weights(path).values() if weight.ndim == 4)

    history = json.loads(trained.file("history.json").read_text(encoding="utf-8"))
    epochs = [LayerRecord.model_validate(epoch["layers"][0]) for epoch in history["epochs"]]
    weight, int8 = first_convolution(trained.file(WEIGHTS)), first_convolution(exported.file(INT8_GRAPH))
    noise = float(np.square(int8 - weight).sum())
    decibels = 10 * float(np.log10(np.square(weight).sum() / noise)) if noise else float("inf")
    return {**about, "int8_sqnr_db": decibels, "layer": epochs[-1].model_dump(), "weight": weight, "epochs": epochs}


def pixel_std(run: Run) -> float:
    """Return what pixels are divided by, the mean over channels."""
    from edgeproof.models.base import load_classifier

    return float(load_classifier(run.file(WEIGHTS)).std.mean())


def scored(scores: Sequence[Row], row: str, column: str, *, engine: str = FP32) -> list[Row]:
    """Return the rows of a way of training on a set."""
    return where(scores, row=row, set=column, engine=engine)


def gain(scores: Sequence[Row], first: str, second: str, column: str, measure: Measure) -> Effect:
    """Return how much better a second way of training is than a first one, in points.

    Over seeds where there are several; with one seed and one class paired over the images.
    """
    before, after = scored(scores, first, column), scored(scores, second, column)
    if len(before) == len(after) == 1:
        return _over_images(before[0], after[0], measure)
    return over_seeds(gains(seed_means(before, measure), seed_means(after, measure)))


def _over_images(first: Row, second: Row, measure: Measure) -> Effect:
    """Compare two trainings on the same images, a normal interval of the mean over classes of paired differences."""
    labels = first["labels"]
    classes = range(len(first["class_totals"])) if measure is all_classes else (first["protected"],)
    difference = (second["predicted"] == labels).astype(float) - (first["predicted"] == labels)
    groups = [difference[labels == label] for label in classes]
    half = 100 * _Z * float(np.sqrt(sum(group.var() / len(group) for group in groups))) / len(classes)
    value = (measure(second) or 0.0) - (measure(first) or 0.0)
    low, high = max(value - half, -100.0), min(value + half, 100.0)
    return within_seed(value, low=low, high=high, method="paired over the images")


def verdicts(scores: Sequence[Row], layers: Sequence[Row]) -> Iterator[Verdict]:
    """Judge each claim whose ways of training were measured."""
    trained = {row["row"] for row in scores}
    for claim, first, second, measure, threshold in _CLAIMS:
        if {first, second} <= trained:
            yield judge(claim, gain(scores, first, second, "pgd", measure), threshold=threshold)
    for (first, second), (name, shape) in product(_STEPS, (("Hoyer sparsity", hoyer), ("Kurtosis", kurtosis))):
        if {first, second} <= trained:
            pairs = zip(where(layers, row=first), where(layers, row=second), strict=True)
            rises = [{"seed": before["seed"], "rise": shape(after) - shape(before)} for before, after in pairs]
            effect = over_seeds(list(seed_means(rises, lambda row: float(row["rise"])).values()), unit="")
            yield judge(f"{name} of conv1 is higher in {second} than in {first}.", effect)
    if "cse" in trained:
        lost = []
        for row in ("normal", "cse"):
            fp32, int8 = (
                seed_means(scored(scores, row, "clean", engine=engine), all_classes) for engine in (FP32, INT8_ENGINE)
            )
            lost.append({seed: value - int8[seed] for seed, value in fp32.items()})
        yield judge("INT8 (trt) costs CSE more clean accuracy than it costs the row normal.", over_seeds(gains(*lost)))


_GAIN = "PGD accuracy of the protected class, points over adversarial training continued for as many epochs: "
#: A claim, the way of training that it starts from, the one that is better, in what, and by more than how many points.
_CLAIMS: tuple[tuple[str, str, str, Measure, float], ...] = (
    (_GAIN + "cost-sensitive, both sides.", "adv-continued", "csa-both", protected_class, 0.0),
    (_GAIN + "cost-sensitive, misses only.", "adv-continued", "csa-miss", protected_class, 0.0),
    (_GAIN + "cost-sensitive, false alarms only.", "adv-continued", "csa-false-alarm", protected_class, 0.0),
    (
        "Misses only raise PGD accuracy of the protected class over both sides.",
        "csa-both",
        "csa-miss",
        protected_class,
        0.0,
    ),
    (
        "Misses only cost less than 2 points of all classes' PGD accuracy.",
        "adv-continued",
        "csa-miss",
        all_classes,
        -2.0,
    ),
    (
        "CSE beats plain training of as many epochs under PGD, all classes.",
        "normal-continued",
        "cse",
        all_classes,
        0.0,
    ),
    ("CSE beats it on the protected class too.", "normal-continued", "cse", protected_class, 0.0),
    ("CSE beats sparsity of conv1 alone under PGD, protected class.", "sparse-only", "cse", protected_class, 0.0),
    ("CSE beats cost plus weight decay of conv1 under PGD, all classes.", "l2-conv1", "cse", all_classes, 0.0),
    (
        "Cost alone, without penalty, raises PGD accuracy of the protected class.",
        "normal-continued",
        "cost-only",
        protected_class,
        0.0,
    ),
    *(
        (_GAIN + f"{row}.", "adv-continued", row, protected_class, 0.0)
        for row in ("pgd-at", "trades", "cfa", "dafa", "worst-class")
    ),
)

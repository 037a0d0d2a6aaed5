"""What the study of protected classes reads from its jobs, and the effects between two ways of training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import mean
from typing import Any, TypeAlias

import numpy as np

from edgeproof.data.arrays import read_npz
from edgeproof.evaluation.costs import protected_costs
from edgeproof.evaluation.results import Results
from edgeproof.runs import Run
from edgeproof.studies.protected_jobs import Protocol
from edgeproof.studies.verdicts import Effect, over_seeds, within_seed
from edgeproof.types import Array, Labels

#: Signs that no other attack is needed for; between attacks the study compares by itself, at one budget.
_OF_ONE_ATTACK = ("zero-gradients", "non-finite-gradients", "saturated-loss", "randomness", "eps-sweep")
FP32, INT8_ENGINE = "torch-fp32", "ort-int8-trt"
_Z = 1.959963984540054


@dataclass(frozen=True)
class Score:
    """One engine of one training on one set.

    Attributes:
        row: The way of training.
        seed: Of the training.
        label: The protected class.
        engine: As `results.json` names it.
        column: The set.
        confusion: (K, K) counts, true classes in rows; images without a prediction are in no column.
        totals: (K,) images of each class.
        labels: (N,) true classes.
        predicted: (N,) predictions.
        cost: Of the protected class's mistakes.
    """

    row: str
    seed: int
    label: int
    engine: str
    column: str
    confusion: Array
    totals: Array
    labels: Labels
    predicted: Labels
    cost: float

    @property
    def all(self) -> float:
        """Accuracy in per cent, every class weighing the same."""
        return 100 * float((np.diag(self.confusion) / self.totals).mean())

    @property
    def protected(self) -> float:
        """Accuracy on the protected class, in per cent."""
        return 100 * float(self.confusion[self.label, self.label] / self.totals[self.label])

    @property
    def false_alarms(self) -> float:
        """Images of other classes that are taken for the protected one, in per cent, every class weighing the same."""
        return 100 * float(np.delete(self.confusion[:, self.label] / self.totals, self.label).mean())

    @property
    def expected_cost(self) -> float:
        """Cost of an image under the published matrix (both sides), every class weighing the same."""
        costs = protected_costs((self.label,), cost=self.cost, side="both", num_classes=len(self.totals))
        missing = (self.totals - self.confusion.sum(1)) * costs.max(1)
        return float((((self.confusion * costs).sum(1) + missing) / self.totals).mean())

    def record(self) -> dict[str, Any]:
        """Return what `study.json` holds of it."""
        return {
            "row": self.row,
            "seed": self.seed,
            "protected": self.label,
            "engine": self.engine,
            "set": self.column,
            "class_hits": np.diag(self.confusion).tolist(),
            "class_totals": self.totals.tolist(),
            "false_alarms": int(np.delete(self.confusion[:, self.label], self.label).sum()),
            "expected_cost": round(self.expected_cost, 6),
        }


Measure: TypeAlias = Callable[[Score], float]


@dataclass(frozen=True)
class Scores:
    """Every score of a study, and for each training (row, seed, class) the signs of masking that its eval run reports."""

    found: tuple[Score, ...]
    signs: Mapping[tuple[str, int, int], tuple[str, ...]]

    def of(self, row: str, column: str, *, engine: str = FP32) -> list[Score]:
        """Return the scores of a row on a set, seed by seed and class by class."""
        return [each for each in self.found if (each.row, each.column, each.engine) == (row, column, engine)]

    def by_seed(self, row: str, column: str, measure: Measure, *, engine: str = FP32) -> list[float]:
        """Return one number a seed, the mean over the protected classes."""
        scores = self.of(row, column, engine=engine)
        return [mean(measure(each) for each in scores if each.seed == seed) for seed in _seeds(scores)]

    def gain(self, first: str, second: str, column: str, measure: Measure) -> Effect:
        """Return how much better a second way of training is than a first one, in points.

        Over seeds where there are several; with one seed and one class paired over the images.
        """
        pairs = list(zip(self.of(first, column), self.of(second, column), strict=True))
        if len(pairs) == 1:
            return _paired(*pairs[0], measure)
        before, after = (self.by_seed(row, column, measure) for row in (first, second))
        return over_seeds([b - a for a, b in zip(before, after, strict=True)])


def read_scores(runs: Mapping[str, Run], protocol: Protocol) -> Scores:
    """Read the eval runs of a study."""
    found: list[Score] = []
    signs = {}
    for row, seed, label in product(protocol.rows, protocol.seeds, protocol.protect):
        run = runs[f"{protocol.trained(row, seed=seed, label=label)}--eval"]
        results = Results.model_validate_json(run.file("results.json").read_bytes())
        found += _scores(run, results, protocol, row=row, seed=seed, label=label)
        reported = (sign.name for sign in results.masking if sign.reported)
        signs[row, seed, label] = tuple(name for name in reported if name in _OF_ONE_ATTACK)
    return Scores(tuple(found), signs)


def _scores(run: Run, results: Results, protocol: Protocol, *, row: str, seed: int, label: int) -> list[Score]:
    samples = read_npz(run.file("samples.npz"))
    # The row `normal` is its own source of transferred images, which are listed once.
    names = dict(zip(protocol.columns(), (set_.name for set_ in results.sets), strict=False))
    return [
        Score(
            row=row,
            seed=seed,
            label=label,
            engine=engine.name,
            column=column,
            confusion=np.array(results.cell(engine.name, name).confusion),
            totals=np.array([record.accuracy.total for record in results.cell(engine.name, name).per_class]),
            labels=samples["labels"],
            predicted=samples[f"pred/{engine.name}--{name}"],
            cost=protocol.cost,
        )
        for engine in results.engines
        for column, name in names.items()
    ]


def _paired(first: Score, second: Score, measure: Measure) -> Effect:
    """Compare two trainings on the same images, a normal interval of the mean over classes of paired differences."""
    classes = np.arange(len(first.totals)) if measure is all_classes else np.array([first.label])
    difference = (second.predicted == second.labels).astype(float) - (first.predicted == first.labels)
    groups = [difference[first.labels == label] for label in classes]
    half = 100 * _Z * float(np.sqrt(sum(group.var() / len(group) for group in groups))) / len(classes)
    value = measure(second) - measure(first)
    return within_seed(
        value, low=max(value - half, -100.0), high=min(value + half, 100.0), method="paired over the images"
    )


def all_classes(score: Score) -> float:
    """Return `score.all`."""
    return score.all


def protected_class(score: Score) -> float:
    """Return `score.protected`."""
    return score.protected


def _seeds(scores: Sequence[Score]) -> list[int]:
    return list(dict.fromkeys(each.seed for each in scores))

"""From predictions to the cells of `results.json`: one engine on one set each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from edgeproof.evaluation import metrics
from edgeproof.evaluation.costs import cost_record
from edgeproof.evaluation.metrics import Rate
from edgeproof.evaluation.results import MOST_PAIRS, CellRecord, ClassRecord, DispersionRecord, PairRecord
from edgeproof.types import Array, Labels

CLEAN = "clean"


@dataclass(frozen=True)
class Predictions:
    """The predictions that every metric is computed from.

    Attributes:
        labels: (N,) true classes.
        cells: (engine, set) to the (N,) predicted classes, the clean set included.
        source: Adversarial set to the source model's (N,) predictions, clean and attacked; absent where not recorded.
    """

    labels: Labels
    cells: Mapping[tuple[str, str], Labels]
    source: Mapping[str, tuple[Labels, Labels]] = field(default_factory=dict)


def score(
    predicted: Predictions,
    *,
    engines: Sequence[str],
    sets: Sequence[str],
    reference: str,
    classes: Sequence[str],
    costs: Array | None = None,
) -> tuple[CellRecord, ...]:
    """Return the cell of every engine on every set, engine by engine; with `costs` (K, K) also what its mistakes cost."""
    return tuple(
        _cell(predicted, engine=engine, set_=set_, reference=reference, classes=classes, costs=costs)
        for engine in engines
        for set_ in sets
    )


def pair_up(predicted: Predictions, *, engines: Sequence[str], sets: Sequence[str]) -> tuple[PairRecord, ...]:
    """Return every two engines on every set."""
    return tuple(
        _pair(predicted, first=first, second=second, set_=set_)
        for set_ in sets
        for first, second in combinations(engines, 2)
    )


def _cell(
    predicted: Predictions,
    *,
    engine: str,
    set_: str,
    reference: str,
    classes: Sequence[str],
    costs: Array | None,
) -> CellRecord:
    labels, mine = predicted.labels, predicted.cells[engine, set_]
    clean = predicted.cells[engine, CLEAN]
    attacked = set_ != CLEAN
    overall, before = metrics.accuracy(mine, labels), metrics.accuracy(clean, labels)
    rates = metrics.per_class_accuracy(mine, labels, num_classes=len(classes))
    transfer = ratio = None
    if set_ in predicted.source:
        four = (*predicted.source[set_], clean, mine)
        transfer, ratio = metrics.transfer_rate(*four, labels), metrics.transfer_ratio(*four, labels)
    pair = None if engine == reference else _pair(predicted, first=reference, second=engine, set_=set_)
    pairs, unlisted = _confused(mine, labels, num_classes=len(classes))
    return CellRecord(
        engine=engine,
        set=set_,
        accuracy=overall,
        success=metrics.attack_success(clean, mine, labels) if attacked else None,
        transfer=transfer,
        transfer_ratio=ratio,
        agreement=pair.agreement if pair else None,
        mcnemar=pair.mcnemar if pair else None,
        relative_difference=metrics.relative_difference(before, overall) if attacked else None,
        drop_points=metrics.drop_points(before, overall) if attacked else None,
        worst_class=metrics.worst_class(rates),
        per_class=tuple(
            ClassRecord(label=label, hits=rate.hits, total=rate.total) for label, rate in enumerate(rates) if rate.total
        ),
        confusion=pairs,
        unlisted=unlisted,
        cost=None if costs is None else cost_record(mine, labels, costs),
        fooling=metrics.fooling_ratio(clean, mine) if attacked else None,
        dispersion=_dispersion(mine, rates),
    )


def _dispersion(predicted: Labels, rates: Sequence[Rate]) -> DispersionRecord:
    top1, top3 = (metrics.top_share(predicted, num_classes=len(rates), classes=count) for count in (1, 3))
    errors = np.array([1 - rate.value for rate in rates if rate.value is not None])
    return DispersionRecord(
        dominant=int(metrics.prediction_counts(predicted, num_classes=len(rates)).argmax()),
        top1=top1,
        top3=top3,
        entropy=metrics.normalised_entropy(predicted, num_classes=len(rates)),
        class_error_min=float(errors.min()) if len(errors) else None,
        class_error_max=float(errors.max()) if len(errors) else None,
        class_error_std=float(errors.std()) if len(errors) else None,
    )


def _pair(predicted: Predictions, *, first: str, second: str, set_: str) -> PairRecord:
    one, other = predicted.cells[first, set_], predicted.cells[second, set_]
    return PairRecord(
        set=set_,
        first=first,
        second=second,
        agreement=metrics.agreement(one, other),
        mcnemar=metrics.mcnemar(one, other, predicted.labels),
    )


def _confused(predicted: Labels, labels: Labels, *, num_classes: int) -> tuple[tuple[tuple[int, int, int], ...], int]:
    """Return (true, predicted, images) for the pairs of classes that occur, the most frequent where they are many, and how many
    images are in the others."""
    known = predicted >= 0
    codes, counts = np.unique(labels[known] * num_classes + predicted[known], return_counts=True)
    kept = np.sort(np.argsort(-counts, kind="stable")[:MOST_PAIRS])
    pairs = zip(*np.divmod(codes[kept], num_classes), counts[kept], strict=True)
    return tuple((int(true), int(guess), int(images)) for true, guess, images in pairs), int(
        counts.sum() - counts[kept].sum()
    )


def strongest(cells: Sequence[CellRecord], *, engine: str, sets: Sequence[str]) -> str | None:
    """Return the set that leaves an engine the lowest accuracy, or None when there are no sets."""
    found = [(cell.accuracy.hits, cell.set) for cell in cells if cell.engine == engine and cell.set in sets]
    return min(found)[1] if found else None

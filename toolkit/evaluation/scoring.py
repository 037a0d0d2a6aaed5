"""From predictions to the cells of `results.json`: one engine on one set each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from edgeproof.evaluation import metrics
from edgeproof.evaluation.costs import cost_record
from edgeproof.evaluation.metrics import Rate
from edgeproof.evaluation.results import (
    CellRecord,
    ClassRecord,
    DispersionRecord,
    McNemarRecord,
    PairRecord,
    RateRecord,
)
from edgeproof.types import Array, Labels

CLEAN = "clean"


@dataclass(frozen=True)
class Predictions:
    """What every metric is computed from.

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


def rate_record(rate: Rate) -> RateRecord:
    """Write a rate with its interval, null where it is undefined."""
    low, high = rate.interval or (None, None)
    return RateRecord(hits=rate.hits, total=rate.total, value=rate.value, low=low, high=high)


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
    transfer, ratio = _transfer(predicted, engine=engine, set_=set_)
    agreement, mcnemar = _against_reference(predicted, engine=engine, set_=set_, reference=reference)
    return CellRecord(
        engine=engine,
        set=set_,
        accuracy=rate_record(overall),
        success=rate_record(metrics.attack_success(clean, mine, labels)) if attacked else None,
        transfer=transfer,
        transfer_ratio=ratio,
        agreement=agreement,
        mcnemar=mcnemar,
        relative_difference=metrics.relative_difference(before, overall) if attacked else None,
        drop_points=metrics.drop_points(before, overall) if attacked else None,
        worst_class=metrics.worst_class(rates),
        per_class=_per_class(rates, clean, labels, classes=classes, attacked=attacked),
        confusion=tuple(map(tuple, metrics.confusion(mine, labels, num_classes=len(classes)).tolist())),
        cost=None if costs is None else cost_record(mine, labels, costs),
        fooling=rate_record(metrics.fooling_ratio(clean, mine)) if attacked else None,
        dispersion=_dispersion(mine, rates),
    )


def _dispersion(predicted: Labels, rates: Sequence[Rate]) -> DispersionRecord:
    top1, top3 = (metrics.top_share(predicted, num_classes=len(rates), classes=count) for count in (1, 3))
    errors = np.array([1 - rate.value for rate in rates if rate.value is not None])
    return DispersionRecord(
        dominant=int(metrics.prediction_counts(predicted, num_classes=len(rates)).argmax()),
        top1=rate_record(top1),
        top3=rate_record(top3),
        entropy=metrics.normalised_entropy(predicted, num_classes=len(rates)),
        class_error_min=float(errors.min()) if len(errors) else None,
        class_error_max=float(errors.max()) if len(errors) else None,
        class_error_std=float(errors.std()) if len(errors) else None,
    )


def _transfer(predicted: Predictions, *, engine: str, set_: str) -> tuple[RateRecord | None, float | None]:
    if set_ not in predicted.source:
        return None, None
    four = (*predicted.source[set_], predicted.cells[engine, CLEAN], predicted.cells[engine, set_])
    return rate_record(metrics.transfer_rate(*four, predicted.labels)), metrics.transfer_ratio(*four, predicted.labels)


def _against_reference(
    predicted: Predictions, *, engine: str, set_: str, reference: str
) -> tuple[RateRecord | None, McNemarRecord | None]:
    if engine == reference:
        return None, None
    pair = _pair(predicted, first=reference, second=engine, set_=set_)
    return pair.agreement, pair.mcnemar


def _pair(predicted: Predictions, *, first: str, second: str, set_: str) -> PairRecord:
    one, other = predicted.cells[first, set_], predicted.cells[second, set_]
    test = metrics.mcnemar(one, other, predicted.labels)
    record = McNemarRecord(
        only_reference_right=test.only_reference_right,
        only_engine_right=test.only_engine_right,
        p_value=test.p_value,
    )
    return PairRecord(
        set=set_, first=first, second=second, agreement=rate_record(metrics.agreement(one, other)), mcnemar=record
    )


def _per_class(
    rates: Sequence[Rate], clean: Labels, labels: Labels, *, classes: Sequence[str], attacked: bool
) -> tuple[ClassRecord, ...]:
    before = metrics.per_class_accuracy(clean, labels, num_classes=len(classes))
    return tuple(
        ClassRecord(
            label=label,
            name=name,
            accuracy=rate_record(rates[label]),
            relative_difference=metrics.relative_difference(before[label], rates[label]) if attacked else None,
            drop_points=metrics.drop_points(before[label], rates[label]) if attacked else None,
        )
        for label, name in enumerate(classes)
    )


def strongest(cells: Sequence[CellRecord], *, engine: str, sets: Sequence[str]) -> str | None:
    """Return the set that leaves an engine the lowest accuracy, or None when there are no sets."""
    found = [(cell.accuracy.hits, cell.set) for cell in cells if cell.engine == engine and cell.set in sets]
    return min(found)[1] if found else None

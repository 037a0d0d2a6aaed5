"""What an attack knew of an engine, what all attacks of a budget do together, and what knowing more gained.

What an attack knew follows from recorded hashes, never from names: of the files that it was made on and of the file that runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np

from edgeproof.evaluation.metrics import Rate
from edgeproof.evaluation.results import CellRecord, EngineRecord, GapRecord, SetRecord, Threat, WorstRecord
from edgeproof.evaluation.scoring import Predictions
from edgeproof.evaluation.significance import paired_difference
from edgeproof.types import Array

#: From what knows least to what knows most.
_ORDER: tuple[Threat, ...] = ("transferred", "query", "white-box")
_OWN: Mapping[str, Threat] = {"gradients": "white-box", "queries": "query"}


def threat_to(engine: EngineRecord, set_: SetRecord) -> Threat | None:
    """Return what the attack that made a set knew of an engine; None for the clean images."""
    if set_.kind == "clean":
        return None
    if set_.access == "none":
        return "control"
    if not set_.access or not set_.source_sha256:
        return "unknown"
    return _OWN.get(set_.access, "transferred") if engine.sha256 in set_.source_sha256 else "transferred"


def with_threats(
    cells: Sequence[CellRecord], engines: Sequence[EngineRecord], sets: Sequence[SetRecord]
) -> tuple[CellRecord, ...]:
    """Return the cells with what each attack knew of each engine."""
    threats = {(engine.name, set_.name): threat_to(engine, set_) for engine in engines for set_ in sets}
    return tuple(cell.model_copy(update={"threat": threats[cell.engine, cell.set]}) for cell in cells)


def worst_cases(
    predicted: Predictions, *, engines: Sequence[EngineRecord], sets: Sequence[SetRecord]
) -> tuple[WorstRecord, ...]:
    """Return, for every engine and every norm and budget with several attacks, the accuracy under the worst of them per image."""
    return tuple(
        WorstRecord(
            engine=engine.name,
            norm=members[0].norm or "",
            eps=members[0].eps or 0.0,
            sets=tuple(set_.name for set_ in members),
            accuracy=Rate.of(np.logical_and.reduce([_right(predicted, engine, set_) for set_ in members])),
        )
        for engine in engines
        for members in same_budget(sets)
        if len(members) > 1
    )


def measured_gaps(
    predicted: Predictions, *, engines: Sequence[EngineRecord], sets: Sequence[SetRecord]
) -> tuple[GapRecord, ...]:
    """Return, engine by engine, every two attacks of one norm and budget of which one knew more of the engine."""
    return tuple(
        _gap(predicted, engine, *pair)
        for engine in engines
        for members in same_budget(sets)
        for pair in _unequal(engine, members)
    )


def same_budget(sets: Sequence[SetRecord]) -> list[list[SetRecord]]:
    """Group the attacks by norm and budget; controls are none."""
    groups: dict[tuple[str, float], list[SetRecord]] = {}
    for set_ in sets:
        if set_.kind == "adversarial" and set_.access != "none" and set_.attack != "noise":
            groups.setdefault((set_.norm or "", round(set_.eps or 0.0, 6)), []).append(set_)
    return list(groups.values())


def _unequal(engine: EngineRecord, members: Sequence[SetRecord]) -> Iterator[tuple[SetRecord, SetRecord]]:
    known = [set_ for set_ in members if threat_to(engine, set_) in _ORDER]
    for pair in combinations(known, 2):
        less, more = sorted(pair, key=lambda set_: _rank(engine, set_))
        if _rank(engine, less) < _rank(engine, more):
            yield less, more


def _rank(engine: EngineRecord, set_: SetRecord) -> int:
    threat = threat_to(engine, set_)
    return _ORDER.index(threat) if threat in _ORDER else -1


def _gap(predicted: Predictions, engine: EngineRecord, first: SetRecord, second: SetRecord) -> GapRecord:
    before, after = _right(predicted, engine, first), _right(predicted, engine, second)
    lost, gained = int(np.count_nonzero(before & ~after)), int(np.count_nonzero(after & ~before))
    found = paired_difference(lost, gained, len(before))
    return GapRecord(
        engine=engine.name,
        precision=engine.precision,
        norm=first.norm or "",
        eps=first.eps or 0.0,
        first=first.name,
        first_threat=threat_to(engine, first) or "unknown",
        second=second.name,
        second_threat=threat_to(engine, second) or "unknown",
        only_first_right=lost,
        only_second_right=gained,
        difference=found.value,
        low=found.low,
        high=found.high,
        p_value=found.p_value,
    )


def _right(predicted: Predictions, engine: EngineRecord, set_: SetRecord) -> Array:
    right: Array = predicted.cells[engine.name, set_.name] == predicted.labels
    return right

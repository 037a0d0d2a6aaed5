"""The knowledge that an attack had of an engine, the effect of all attacks of a budget together, and what knowing more gained.

What an attack knew follows from recorded hashes, never from names: of the files that it was made on, of the file that runs, and
of the checkpoint and graphs that this file was made from.
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

#: From what knows least of the file that runs to what knows most: a query attack has seen its very answers.
_ORDER: tuple[Threat, ...] = ("transferred", "checkpoint", "query", "white-box")
_OWN: Mapping[str, Threat] = {"gradients": "white-box", "queries": "query"}


def threat_to(engine: EngineRecord, set_: SetRecord) -> Threat | None:
    """Return what the attack that made a set knew of an engine; None for the clean images."""
    if set_.kind == "clean":
        return None
    if set_.access == "none":
        return "control"
    if not set_.access or not set_.source_sha256:
        return "unknown"
    if engine.sha256 in set_.source_sha256:
        return _OWN.get(set_.access, "transferred")
    related = set_.access == "gradients" and not set(engine.made_from).isdisjoint(set_.source_sha256)
    return "checkpoint" if related else "transferred"


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
            accuracy=Rate.of(_right_under_all(predicted, engine, members)),
        )
        for engine in engines
        for members in same_budget(sets)
        if len(members) > 1
    )


def measured_gaps(
    predicted: Predictions, *, engines: Sequence[EngineRecord], sets: Sequence[SetRecord]
) -> tuple[GapRecord, ...]:
    """Return, engine by engine, every two attacks of one norm and budget of which one knew more of the engine."""
    found = []
    for engine in engines:
        for members in same_budget(sets):
            for pair in combinations(_ranked(engine, members), 2):
                (less, first), (more, second) = sorted(pair, key=lambda each: each[0])
                if less < more:
                    found.append(_gap(predicted, engine, first, [second]))
    return tuple(found)


def gaps_to_white_box(
    predicted: Predictions, *, engines: Sequence[EngineRecord], sets: Sequence[SetRecord]
) -> Iterator[tuple[GapRecord, SetRecord, list[SetRecord]]]:
    """Compare each attack that knew less with all white-box attacks of its norm and budget together, the worst of them per image.

    A single weak white-box attack next to a strong one is no indicator of masking, so they count as one attacker.

    Yields:
        The comparison, the attack that knew less, and the white-box ones.
    """
    for engine in engines:
        for members in same_budget(sets):
            ranked = _ranked(engine, members)
            white_box = [set_ for rank, set_ in ranked if _ORDER[rank] == "white-box"]
            for rank, set_ in ranked:
                if white_box and _ORDER[rank] != "white-box":
                    yield _gap(predicted, engine, set_, white_box), set_, white_box


def same_budget(sets: Sequence[SetRecord]) -> list[list[SetRecord]]:
    """Group the attacks by norm and budget; controls are none."""
    groups: dict[tuple[str, float], list[SetRecord]] = {}
    for set_ in sets:
        if set_.kind == "adversarial" and set_.access != "none" and set_.attack != "noise":
            groups.setdefault((set_.norm or "", round(set_.eps or 0.0, 6)), []).append(set_)
    return list(groups.values())


def _ranked(engine: EngineRecord, sets: Sequence[SetRecord]) -> list[tuple[int, SetRecord]]:
    """Return the sets whose knowledge of an engine is recorded, each with its place in the order."""
    threats = [(threat_to(engine, set_), set_) for set_ in sets]
    return [(_ORDER.index(threat), set_) for threat, set_ in threats if threat in _ORDER]


def _gap(predicted: Predictions, engine: EngineRecord, first: SetRecord, second: Sequence[SetRecord]) -> GapRecord:
    before, after = _right_under_all(predicted, engine, [first]), _right_under_all(predicted, engine, second)
    lost, gained = int(np.count_nonzero(before & ~after)), int(np.count_nonzero(after & ~before))
    found = paired_difference(lost, gained, len(before))
    return GapRecord(
        engine=engine.name,
        precision=engine.precision,
        norm=first.norm or "",
        eps=first.eps or 0.0,
        first=first.name,
        first_threat=threat_to(engine, first) or "unknown",
        second=", ".join(set_.name for set_ in second),
        second_threat=threat_to(engine, second[0]) or "unknown",
        only_first_right=lost,
        only_second_right=gained,
        difference=found.value,
        low=found.low,
        high=found.high,
        p_value=found.p_value,
    )


def _right_under_all(predicted: Predictions, engine: EngineRecord, sets: Sequence[SetRecord]) -> Array:
    right = [predicted.cells[engine.name, set_.name] == predicted.labels for set_ in sets]
    found: Array = np.logical_and.reduce(right)
    return found

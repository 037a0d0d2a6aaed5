"""Two eval runs against each other: what changed, where, and whether more than chance would change it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from edgeproof.config import Strict
from edgeproof.errors import RunError
from edgeproof.evaluation.metrics import Rate
from edgeproof.evaluation.results import KNEW, EngineRecord, Results, SetRecord, Threat
from edgeproof.evaluation.significance import holm, paired_difference, unpaired_difference
from edgeproof.reports.content import EvalRun, read_eval_run
from edgeproof.runs import Run
from edgeproof.types import Array

LEVEL = 0.05  # of significance, after Holm's correction


class Change(Strict):
    """One engine on one set in both runs, over all classes or over one.

    difference = after - before, as a fraction, with its 95 % interval. lost and gained: images that only the first or only
    the second run gets right, null when the runs are not paired. p_value: McNemar's exact test when paired, else
    Fisher's exact test; p_holm: the same, corrected for all changes of its table. Null where a run has no such images.
    set_after: the set of the second run, where its name differs. unlike: why the two attacks are not alike, so that the
    difference says nothing about the build and is not tested; empty where they are.
    """

    engine: str
    set: str
    class_name: str | None
    before: Rate
    after: Rate
    difference: float | None
    low: float | None
    high: float | None
    lost: int | None
    gained: int | None
    p_value: float | None
    p_holm: float | None
    set_after: str | None = None
    before_threat: Threat | None = None
    after_threat: Threat | None = None
    unlike: str = ""

    @property
    def significant(self) -> bool:
        """Whether the change is more than chance, among all of its table."""
        return self.p_holm is not None and self.p_holm < LEVEL

    @property
    def worse(self) -> bool:
        """Whether accuracy was lost, significantly."""
        return self.significant and (self.difference or 0.0) < 0


class Diff(Strict):
    """Two eval runs, `before` and `after`.

    paired: whether the same clean images stand behind both runs (by index, pixels and label), then `images` of them;
    else each run counts with all of its own. notes: what keeps the runs from being compared further.
    """

    before: str
    after: str
    paired: bool
    images: int
    overall: tuple[Change, ...]
    classes: tuple[Change, ...]
    notes: tuple[str, ...]

    @property
    def worse(self) -> bool:
        """Whether any engine lost accuracy significantly, over all classes or on one."""
        return any(change.worse for change in (*self.overall, *self.classes))

    @property
    def unlike(self) -> tuple[Change, ...]:
        """The engines and sets whose two attacks are not alike, so that nothing is said of them."""
        return tuple(change for change in self.overall if change.unlike)


@dataclass(frozen=True)
class _Sides:
    """Both runs, and the rows of each that are compared: the same images in the same order when `paired`."""

    before: EvalRun
    after: EvalRun
    rows: tuple[Array, Array]
    paired: bool


def diff_runs(before: Run, after: Run) -> Diff:
    """Compare two eval runs, engine by engine, set by set and class by class; engines and sets are matched by name.

    Raises:
        RunError: When a run cannot be read, or they share no engine, no set, or not the same classes.
    """
    return diff_evals((str(before.path), read_eval_run(before)), (str(after.path), read_eval_run(after)))


def diff_evals(before: tuple[str, EvalRun], after: tuple[str, EvalRun]) -> Diff:
    """Compare two evaluations, each with what it is called, as `diff_runs` does.

    Raises:
        RunError: When they share no engine, no set, or not the same classes.
    """
    sides = _pair(before[1], after[1])
    first, second = sides.before.results, sides.after.results
    if first.classes != second.classes:
        raise RunError(
            f"{before[0]} and {after[0]} have other classes ({len(first.classes)} and {len(second.classes)}); "
            "expected the same names in the same order"
        )
    cells = list(_matched(first, second))
    if not cells:
        raise RunError(
            f"{before[0]} and {after[0]} share no engine on the same set; name engines alike with --engine NAME=PATH"
        )
    overall = [_change(sides, *cell, None) for cell in cells]
    classes = [_change(sides, *cell, label) for cell in cells for label in range(len(first.classes))]
    return Diff(
        before=before[0],
        after=after[0],
        paired=sides.paired,
        images=len(sides.rows[0]),
        overall=_corrected(overall),
        classes=_corrected(classes),
        notes=tuple(_notes(sides, cells)),
    )


def _matched(before: Results, after: Results) -> Iterator[tuple[str, str, str]]:
    """Yield each engine of both runs with the sets that are compared: those of one name, and else white-box with white-box.

    Where one attack was made on several builds, the names of its sets name these, and differ from run to run.
    """
    names = [{set_.name for set_ in results.sets} for results in (before, after)]
    alone = [
        [set_ for set_ in one.sets if set_.name not in other] for one, other in ((before, names[1]), (after, names[0]))
    ]
    for engine in before.engines:
        if engine.name not in [each.name for each in after.engines]:
            continue
        own = [
            {
                (set_.attack, set_.norm, set_.eps): set_.name
                for set_ in sets
                if results.cell(engine.name, set_.name).threat == "white-box"
            }
            for results, sets in ((before, alone[0]), (after, alone[1]))
        ]
        for set_ in before.sets:
            key = (set_.attack, set_.norm, set_.eps)
            if set_.name in names[1]:
                yield engine.name, set_.name, set_.name
            elif own[0].get(key) == set_.name and key in own[1]:
                yield engine.name, set_.name, own[1][key]


def _unlike(sides: _Sides, engine: str, set_: str, set_after: str) -> str:
    """Say why what two attacks did to an engine of one name is not the same question; empty where it is."""
    (mine, first, knew), (theirs, second, knows) = (
        _asked(run.results, engine, name) for run, name in ((sides.before, set_), (sides.after, set_after))
    )
    if first.kind == "clean":
        return ""
    again = "attack each build again and evaluate it on its own set"
    if (first.attack, first.norm, first.eps) != (second.attack, second.norm, second.eps):
        return "the sets are of different attacks or budgets; make both with the same options"
    same = mine.sha256 == theirs.sha256 and first.sha256 == second.sha256
    if same or knew is None or knows is None or knew == "control":
        return "" if knew == knows else f"what the attacks knew is recorded in one run only; {again}"
    if knew != knows:
        return f"{KNEW[knew]} before, {KNEW[knows]} after; {again}"
    if knew == "unknown":
        return f"{KNEW[knew]}; {again}"
    if knew == "transferred" and mine.sha256 != theirs.sha256:
        if not all(each.made_from or each.backend == "pytorch" for each in (mine, theirs)):
            return (
                f"what the builds were made from is not recorded, so either set may come from its own network; {again}"
            )
        if first.source_sha256 != second.source_sha256:
            return f"transferred from different models; {again}"
    different = [key for key in {**first.params, **second.params} if first.params.get(key) != second.params.get(key)]
    different = [key for key in different if key != "seed"]
    if different and first.attack != "foreign":
        key = different[0]
        return f"{key} is {first.params.get(key)} before and {second.params.get(key)} after; make both with the same options"
    return ""


def _asked(results: Results, engine: str, set_: str) -> tuple[EngineRecord, SetRecord, Threat | None]:
    return (
        next(each for each in results.engines if each.name == engine),
        next(each for each in results.sets if each.name == set_),
        results.cell(engine, set_).threat,
    )


def _pair(before: EvalRun, after: EvalRun) -> _Sides:
    """Find the images of both runs, provided that one run has all images of the other."""
    keys = [
        zip(run.index.tolist(), run.clean_hash.tolist(), run.labels.tolist(), strict=True) for run in (before, after)
    ]
    places = [{key: row for row, key in enumerate(rows)} for rows in keys]
    common = [key for key in places[0] if key in places[1]]
    if common and len(common) == min(map(len, places)):
        rows = [np.array([place[key] for key in common]) for place in places]
        return _Sides(before, after, (rows[0], rows[1]), paired=True)
    return _Sides(before, after, (np.arange(len(before.labels)), np.arange(len(after.labels))), paired=False)


def _change(sides: _Sides, engine: str, set_: str, set_after: str, label: int | None) -> Change:
    right = []
    for run, name, rows in zip((sides.before, sides.after), (set_, set_after), sides.rows, strict=True):
        labels = run.labels[rows]
        found: Array = run.predictions[engine, name][rows] == labels
        right.append(found if label is None else found[labels == label])
    first, second = right
    before, after = Rate.of(first), Rate.of(second)
    lost = gained = difference = None
    if sides.paired:
        lost, gained = int((first & ~second).sum()), int((second & ~first).sum())
    if lost is not None and gained is not None and before.total:
        difference = paired_difference(lost, gained, before.total)
    elif before.total and after.total:
        difference = unpaired_difference(before, after)
    unlike = _unlike(sides, engine, set_, set_after)
    return Change(
        engine=engine,
        set=set_,
        class_name=None if label is None else sides.before.results.classes[label],
        before=before,
        after=after,
        difference=difference.value if difference else None,
        low=difference.low if difference else None,
        high=difference.high if difference else None,
        lost=lost,
        gained=gained,
        p_value=difference.p_value if difference and not unlike else None,
        p_holm=None,
        set_after=None if set_after == set_ else set_after,
        before_threat=sides.before.results.cell(engine, set_).threat,
        after_threat=sides.after.results.cell(engine, set_after).threat,
        unlike=unlike,
    )


def _corrected(changes: Sequence[Change]) -> tuple[Change, ...]:
    tested = [change.p_value for change in changes if change.p_value is not None]
    adjusted = iter(holm(tested))
    return tuple(
        change if change.p_value is None else change.model_copy(update={"p_holm": next(adjusted)}) for change in changes
    )


def _notes(sides: _Sides, cells: Sequence[tuple[str, str, str]]) -> list[str]:
    first, second = sides.before.results, sides.after.results
    notes = []
    if not sides.paired:
        notes.append("The runs are of different images, so each counts with its own, and smaller changes go unnoticed.")
    elif len(sides.before.labels) != len(sides.after.labels):
        notes.append(f"Only the {len(sides.rows[0])} images that both runs have are compared.")
    kept = [{cell[1] for cell in cells}, {cell[2] for cell in cells}]
    for kind, mine, theirs in (
        ("Engine", [engine.name for engine in first.engines], [engine.name for engine in second.engines]),
        ("Set", [set_.name for set_ in first.sets], [set_.name for set_ in second.sets]),
    ):
        notes += [f"{kind} {name} is only in the first run." for name in mine if name not in {*theirs, *kept[0]}]
        notes += [f"{kind} {name} is only in the second run." for name in theirs if name not in {*mine, *kept[1]}]
    reasons: dict[str, list[str]] = {}
    for engine, set_, set_after in cells:
        if reason := _unlike(sides, engine, set_, set_after):
            reasons.setdefault(reason, []).append(f"{engine} on {set_!r}")
    notes += [f"Not compared like with like: {', '.join(where)}: {reason}." for reason, where in reasons.items()]
    return notes

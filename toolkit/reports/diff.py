"""Two eval runs against each other: what changed, where, and whether more than chance would change it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeproof.config import Strict
from edgeproof.errors import RunError
from edgeproof.evaluation.metrics import Rate
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
    cells = [key for key in sides.before.predictions if key in sides.after.predictions]
    if not cells:
        raise RunError(
            f"{before[0]} and {after[0]} share no engine on the same set; name engines alike with --engine NAME=PATH"
        )
    overall = [_change(sides, engine, set_, None) for engine, set_ in cells]
    classes = [_change(sides, engine, set_, label) for engine, set_ in cells for label in range(len(first.classes))]
    return Diff(
        before=before[0],
        after=after[0],
        paired=sides.paired,
        images=len(sides.rows[0]),
        overall=_corrected(overall),
        classes=_corrected(classes),
        notes=tuple(_notes(sides)),
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


def _change(sides: _Sides, engine: str, set_: str, label: int | None) -> Change:
    first, second = (
        _right(run, engine, set_, rows, label)
        for run, rows in zip((sides.before, sides.after), sides.rows, strict=True)
    )
    before, after = Rate.of(first), Rate.of(second)
    lost = gained = difference = None
    if sides.paired:
        lost, gained = int((first & ~second).sum()), int((second & ~first).sum())
    if lost is not None and gained is not None and before.total:
        difference = paired_difference(lost, gained, before.total)
    elif before.total and after.total:
        difference = unpaired_difference(before, after)
    return Change(
        engine=engine,
        set=set_,
        class_name=None if label is None else sides.before.results.classes[label],
        before=(before),
        after=(after),
        difference=difference.value if difference else None,
        low=difference.low if difference else None,
        high=difference.high if difference else None,
        lost=lost,
        gained=gained,
        p_value=difference.p_value if difference else None,
        p_holm=None,
    )


def _right(run: EvalRun, engine: str, set_: str, rows: Array, label: int | None) -> Array:
    labels = run.labels[rows]
    right: Array = run.predictions[engine, set_][rows] == labels
    return right if label is None else right[labels == label]


def _corrected(changes: Sequence[Change]) -> tuple[Change, ...]:
    tested = [change.p_value for change in changes if change.p_value is not None]
    adjusted = iter(holm(tested))
    return tuple(
        change if change.p_value is None else change.model_copy(update={"p_holm": next(adjusted)}) for change in changes
    )


def _notes(sides: _Sides) -> list[str]:
    first, second = sides.before.results, sides.after.results
    notes = []
    if not sides.paired:
        notes.append("The runs are of different images, so each counts with its own, and smaller changes go unnoticed.")
    elif len(sides.before.labels) != len(sides.after.labels):
        notes.append(f"Only the {len(sides.rows[0])} images that both runs have are compared.")
    for kind, mine, theirs in (
        ("Engine", [engine.name for engine in first.engines], [engine.name for engine in second.engines]),
        ("Set", [set_.name for set_ in first.sets], [set_.name for set_ in second.sets]),
    ):
        notes += [f"{kind} {name} is only in the first run." for name in mine if name not in theirs]
        notes += [f"{kind} {name} is only in the second run." for name in theirs if name not in mine]
    return notes

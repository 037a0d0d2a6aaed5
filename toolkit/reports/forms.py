"""Builds against each other: how each computes, whether the batch matters to it, and where every two differ."""

from __future__ import annotations

from edgeproof.evaluation.results import EngineRecord, PairRecord, Results, SetRecord
from edgeproof.evaluation.significance import holm
from edgeproof.reports import numbers
from edgeproof.reports.diff import LEVEL
from edgeproof.reports.tables import Cell, Column, Table

_NONE = Cell("–")


def behaviour(results: Results) -> Table:
    """Each engine: its precision, how much of it runs in integers, and what other batch sizes and slots change."""
    titles = ("Integer kernels", "Images tried", "Class changes", "Largest logit difference")
    rows = [
        (Cell(engine.name), Cell(engine.precision), _kernels(engine), *_invariance(engine))
        for engine in results.engines
    ]
    words = [Column(title, numeric=False) for title in ("Engine", "Precision", "in batches of")]
    return Table(columns=(*words[:2], *map(Column, titles[:2]), words[2], *map(Column, titles[2:])), rows=tuple(rows))


def has_behaviour(results: Results) -> bool:
    """Whether any engine was asked."""
    return any(engine.kernels or engine.invariance for engine in results.engines)


def matrix(results: Results, set_: SetRecord) -> Table:
    """Every two engines on one set: share of equal predictions; next to it, images that only the row's or only the column's gets right."""
    names = [engine.name for engine in results.engines]
    found = {(pair.first, pair.second): pair for pair in results.pairs if pair.set == set_.name}
    rows = [
        (Cell(row), *(_agreement(found.get((row, column)), diagonal=row == column) for column in names[1:]))
        for row in names[:-1]
    ]
    return Table(columns=(Column("", numeric=False), *(Column(name) for name in names[1:])), rows=tuple(rows))


def differing(results: Results) -> Table:
    """The pairs whose accuracy differs by more than chance, among all pairs on all sets."""
    titles = ("Same prediction", "Only the first right", "Only the second right", "McNemar p, Holm")
    columns = (*(Column(title, numeric=False) for title in ("Set", "First", "Second")), *map(Column, titles))
    rows = [
        (
            Cell(pair.set),
            Cell(pair.first),
            Cell(pair.second),
            Cell(numbers.percent(pair.agreement.value)),
            Cell(str(pair.mcnemar.only_reference_right)),
            Cell(str(pair.mcnemar.only_engine_right)),
            Cell(numbers.p_value(p)),
        )
        for pair, p in _significant(results)
    ]
    return Table(columns=columns, rows=tuple(rows), grouped=True)


def verdict(results: Results) -> str:
    """Say in one sentence how many pairs differ."""
    count, total = len(_significant(results)), len(results.pairs)
    method = f"exact McNemar tests of {total} pairs on the same images, corrected for their number (Holm)"
    if not count:
        return f"No two engines differ significantly in accuracy: {method}."
    return f"{count} of {total} pairs differ significantly in accuracy: {method}."


def _significant(results: Results) -> list[tuple[PairRecord, float]]:
    adjusted = holm([pair.mcnemar.p_value for pair in results.pairs])
    return [(pair, p) for pair, p in zip(results.pairs, adjusted, strict=True) if p < LEVEL]


def _agreement(pair: PairRecord | None, *, diagonal: bool) -> Cell:
    if pair is None:
        return _NONE if diagonal else Cell("")
    test = pair.mcnemar
    return Cell(numbers.share(pair.agreement), f"{test.only_reference_right} : {test.only_engine_right}")


def _kernels(engine: EngineRecord) -> Cell:
    if engine.kernels is None:
        return _NONE
    integer, total = engine.kernels.integer, engine.kernels.total
    return Cell(f"{integer} of {total}", tone="" if integer == total else "bad")


def _invariance(engine: EngineRecord) -> tuple[Cell, ...]:
    tried = engine.invariance
    if tried is None:
        return (_NONE,) * 4
    sizes = Cell(", ".join(map(str, tried.batch_sizes)))
    worst = _NONE if tried.max_abs_diff is None else Cell(f"{tried.max_abs_diff:.2g}")
    return Cell(str(tried.images)), sizes, Cell(str(tried.flips), tone="bad" if tried.flips else ""), worst

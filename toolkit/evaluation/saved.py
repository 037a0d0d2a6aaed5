"""`results.json` read back: what it says is held together before anything is made of it, for the run may be a stranger's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path

from pydantic import BaseModel

from edgeproof.errors import DataError
from edgeproof.evaluation.results import CellRecord, RateRecord, Results
from edgeproof.system.untrusted import read_record

_LARGEST = 2.0**63  # beyond it, a number counts and measures nothing


def read_results(path: Path) -> Results:
    """Read results whose parts fit together.

    Raises:
        DataError: When the file cannot be read, or a part refers to what is not there.
    """
    results = read_record(path, Results)
    if wrong := next(_misfits(results), None):
        raise DataError(f"{path} does not fit together: {wrong[:300]}; evaluate again")
    return results


def _misfits(results: Results) -> Iterator[str]:
    engines, sets = [engine.name for engine in results.engines], [set_.name for set_ in results.sets]
    cells = [(cell.engine, cell.set) for cell in results.cells]
    count = len(results.classes)
    for names in (engines, sets):
        if len(set(names)) < len(names):
            yield "a name comes twice"
    if results.reference not in engines:
        yield f"the reference {results.reference!r} is no engine"
    if [set_.kind for set_ in results.sets].count("clean") != 1:
        yield "there is not one clean set"
    if sorted(cells) != sorted(product(engines, sets)):
        yield "there is not one cell for each engine and set"
    if not count:
        yield "there are no classes"
    if results.costs and not _square(results.costs.matrix, count):
        yield f"the costs are not {count} x {count}"
    elif results.costs and not all(0 <= number < _LARGEST for row in results.costs.matrix for number in row):
        yield "a cost is not a number from 0 on"
    if wrong := next((each for each in _inside(results) if isinstance(each, (int, float)) and not _finite(each)), None):
        yield f"{wrong!r:.40} is no number of a measurement"
    if not all(_meant(each) for each in _inside(results) if isinstance(each, RateRecord)):
        yield "a rate has more hits than there are, or is not from 0 to 1"
    for engine in results.engines:
        speeds = engine.throughput
        if speeds and min(speeds.images_per_s, speeds.p5, speeds.p95) <= 0:
            yield f"{engine.name} has a throughput that is not above 0"
    yield from _misfits_of_data(results)
    for cell in results.cells:
        yield from (f"{cell.engine} on {cell.set}: {wrong}" for wrong in _misfits_of_cell(cell, count))
    yield from _unknown_names(results, {*engines}, {*sets})


def _misfits_of_data(results: Results) -> Iterator[str]:
    for key, kind in (("name", str), ("split", str), ("count", int), ("input_shape", list)):
        if not isinstance(results.data.get(key), kind):
            yield f"data.{key} is {type(results.data.get(key)).__name__}"


def _misfits_of_cell(cell: CellRecord, count: int) -> Iterator[str]:
    if [each.label for each in cell.per_class] != list(range(count)):
        yield f"the classes are not 0 to {count - 1}"
    if not _square(cell.confusion, count):
        yield f"the confusion is not {count} x {count}"
    elif count and not 0 <= min(map(min, cell.confusion)) <= max(map(max, cell.confusion)) <= cell.accuracy.total:
        yield "the confusion has numbers of images that there are not"
    numbers = [cell.worst_class, cell.dispersion.dominant if cell.dispersion else None]
    if cell.cost:
        numbers += [number for pair in cell.cost.pairs for number in (pair.true, pair.predicted)]
        if len(cell.cost.per_class) != count:
            yield "the costs are not one a class"
    if any(number is not None and not 0 <= number < count for number in numbers):
        yield f"a class is not from 0 to {count - 1}"


def _square(rows: tuple[tuple[float, ...], ...], count: int) -> bool:
    return len(rows) == count and all(len(row) == count for row in rows)


def _inside(value: object) -> Iterator[object]:
    """Return a record and all that is in it, but for the matrices, which are many numbers and held to their own limits."""
    yield value
    if isinstance(value, BaseModel):
        value = {name: each for name, each in vars(value).items() if name not in ("confusion", "matrix")}
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, (tuple, list)):
        for each in value:
            yield from _inside(each)


def _finite(number: float) -> bool:
    return -_LARGEST < number < _LARGEST


def _meant(rate: RateRecord) -> bool:
    parts = (rate.value, rate.low, rate.high)
    return 0 <= rate.hits <= rate.total and all(part is None or 0 <= part <= 1 for part in parts)


def _unknown_names(results: Results, engines: set[str], sets: set[str]) -> Iterator[str]:
    named = {name for pair in results.pairs for name in (pair.first, pair.second)}
    named |= {worst.engine for worst in results.worst} | {gap.engine for gap in results.gaps}
    yield from (f"engine {name!r} is not among the engines" for name in sorted(named - engines))
    named = {pair.set for pair in results.pairs}
    named |= {name for worst in results.worst for name in worst.sets}
    named |= {name for gap in results.gaps for name in (gap.first, gap.second)}
    yield from (f"set {name!r} is not among the sets" for name in sorted(named - sets))

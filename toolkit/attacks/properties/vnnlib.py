"""VNN-LIB 1.0 files: bounds on the inputs X_i and linear conditions on the outputs Y_j, joined by `and` and `or`.

The file states what a counterexample is: (assert ...) commands that all have to hold. Read here as untrusted text:
its size, its depth and the number of alternatives that it multiplies out to are limited.
"""

from __future__ import annotations

import gzip
import itertools
import math
import re
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np

from edgeproof.attacks.properties.regions import Property, Region, Vector
from edgeproof.errors import DataError, nearest

MAX_BYTES = 128 * 2**20  # unpacked; a property of a 224 x 224 RGB image has about 20 MB
MAX_DEPTH = 32
MAX_ALTERNATIVES = 10_000
MAX_COPIES = 2**22  # of conditions that multiplying out repeats; what is written out takes no more than the file
MAX_NUMBERS = 50_000_000  # weights of the conditions of one box, and bounds of all boxes

Expression: TypeAlias = "str | list[Expression]"
_TOKEN = re.compile(r";[^\n]*|[()]|[^\s();]+")
_VARIABLE = re.compile(r"([XY])_(\d{1,9})")


@dataclass(frozen=True)
class Condition:
    """A linear condition: sum of weight * variable <= limit."""

    weights: Mapping[str, float]
    limit: float


Conjunction: TypeAlias = "tuple[Condition, ...]"


@dataclass
class _Statements:
    """What a file declares and asserts: the conditions that stand alone, those with alternatives, and how many copies are made."""

    declared: set[str] = field(default_factory=set)
    always: list[Condition] = field(default_factory=list)
    choices: list[list[Conjunction]] = field(default_factory=list)
    copies: int = 0


def read_vnnlib(path: Path) -> Property:
    """Read a property, plain or gzip.

    Raises:
        DataError: When the file is missing, too large or no VNN-LIB 1.0, or says more than bounds on inputs and linear
            conditions on outputs.
    """
    try:
        return parse_vnnlib(_text(path))
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def parse_vnnlib(text: str) -> Property:
    """Read the text of a property.

    Raises:
        DataError: As `read_vnnlib`.
    """
    found = _Statements()
    for command in _commands(text):
        _enter(command, found)
    inputs, outputs = (_count(found.declared, letter) for letter in "XY")
    base = _split(found.always)
    _check_product([[(*base[1],)], *found.choices], found, "its conditions multiply")
    grouped: dict[tuple[bytes, bytes], tuple[Vector, Vector, list[Conjunction]]] = {}
    start = _box(base[0], inputs)
    for chosen in itertools.product(*found.choices):
        bounds, conditions = _split(itertools.chain.from_iterable(chosen))
        lower, upper = _box(bounds, inputs, within=start) if bounds else start
        if len(grouped) * inputs > MAX_NUMBERS:
            raise DataError(f"it has more than {len(grouped)} boxes of {inputs} inputs, which are too many")
        _, _, alternatives = grouped.setdefault((lower.tobytes(), upper.tobytes()), (lower, upper, []))
        alternatives.append((*base[1], *conditions))
    return Property(inputs, outputs, tuple(_region(*group, outputs=outputs) for group in grouped.values()))


def _text(path: Path) -> str:
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"not a whole gzip file ({error})") from error
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror or error})") from error
    if len(data) > MAX_BYTES:
        raise DataError(f"more than {MAX_BYTES} bytes; expected a property of one input")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"not text ({error.reason} at byte {error.start}); expected VNN-LIB 1.0") from error


def _commands(text: str) -> Iterator[list[Expression]]:
    """Yield the expressions at the top level one by one, so that a large file never stands in memory as a whole."""
    stack: list[list[Expression]] = []
    for match in _TOKEN.finditer(text):
        token = match.group()
        if token == "(":
            stack.append([])
            if len(stack) > MAX_DEPTH:
                raise DataError(f"brackets are nested deeper than {MAX_DEPTH}")
        elif token == ")":
            if not stack:
                raise DataError(f"a ) too many in {_line(text, match.start())}")
            done = stack.pop()
            if stack:
                stack[-1].append(done)
            else:
                yield done
        elif token[0] != ";":
            if not stack:
                raise DataError(f"{token[:40]!r} stands outside brackets in {_line(text, match.start())}")
            stack[-1].append(token)
    if stack:
        raise DataError(f"{len(stack)} brackets are not closed; is the file cut short?")


def _line(text: str, position: int) -> str:
    return f"line {text.count(chr(10), 0, position) + 1}"


def _enter(command: list[Expression], found: _Statements) -> None:
    match command:
        case ["declare-const", str(name), "Real"] if _VARIABLE.fullmatch(name):
            found.declared.add(name)
        case ["assert", expression]:
            ways = _alternatives(expression, found)
            if len(ways) == 1:
                found.always += ways[0]
            else:
                found.choices.append(ways)
        case ["vnnlib-version", *_] | ["declare-network", *_]:
            raise DataError("it is VNN-LIB 2.0; expected 1.0, with (declare-const X_0 Real)")
        case _:
            raise DataError(f"{_written(command)} is not covered; expected (declare-const X_0 Real) or (assert ...)")


def _alternatives(expression: Expression, found: _Statements) -> list[Conjunction]:
    """Multiply an assertion out: it holds where all conditions of one of the conjunctions hold."""
    match expression:
        case ["or", *parts] if parts:
            ways = [way for part in parts for way in _alternatives(part, found)]
        case ["and", *parts] if parts:
            factors = [_alternatives(part, found) for part in parts]
            _check_product(factors, found, "an assertion multiplies")
            ways = [tuple(itertools.chain.from_iterable(chosen)) for chosen in itertools.product(*factors)]
        case ["<=", smaller, larger] | [">=", larger, smaller]:
            ways = [(_condition(smaller, larger, found.declared),)]
        case _:
            raise DataError(f"{_written(expression)} is not covered; expected and, or, <= or >=")
    _check_product([ways], found, "an assertion multiplies")
    return ways


def _check_product(factors: Sequence[Sequence[Conjunction]], found: _Statements, what: str) -> None:
    """Refuse alternatives before they are built: they are few, but each can have as many conditions as the file."""
    ways = math.prod(map(len, factors))
    if ways > MAX_ALTERNATIVES:
        raise DataError(f"{what} out to {ways} alternatives; expected at most {MAX_ALTERNATIVES}")
    found.copies += sum((ways // len(factor) - 1) * sum(map(len, factor)) for factor in factors)
    if found.copies > MAX_COPIES:
        raise DataError(f"{what} out to {found.copies} copies of conditions; expected at most {MAX_COPIES}")


def _condition(smaller: Expression, larger: Expression, declared: set[str]) -> Condition:
    weights: dict[str, float] = defaultdict(float)
    constant = _add(smaller, 1.0, weights, declared) + _add(larger, -1.0, weights, declared)
    return Condition({name: weight for name, weight in weights.items() if weight}, -constant)


def _add(term: Expression, factor: float, weights: dict[str, float], declared: set[str]) -> float:
    """Add `factor` times a term to the weights, and return its constant part."""
    match term:
        case str(name) if name in declared:
            weights[name] += factor
            return 0.0
        case str(number):
            return factor * _number(number, declared)
        case ["+", *parts] if parts:
            return sum(_add(part, factor, weights, declared) for part in parts)
        case ["-", single]:
            return _add(single, -factor, weights, declared)
        case ["-", first, *rest]:
            taken = sum(_add(part, -factor, weights, declared) for part in rest)
            return _add(first, factor, weights, declared) + taken
        case ["*", str(number), part] if number not in declared:
            return _add(part, factor * _number(number, declared), weights, declared)
        case ["*", part, str(number)] if number not in declared:
            return _add(part, factor * _number(number, declared), weights, declared)
    raise DataError(f"{_written(term)} is not covered; expected sums of numbers and variables times numbers")


def _number(text: str, declared: set[str]) -> float:
    try:
        value = float(text)
    except ValueError as error:
        known = nearest(text, itertools.islice(declared, 10_000))
        raise DataError(f"{text[:40]!r} is neither a number nor declared{known}") from error
    if not math.isfinite(value):
        raise DataError(f"{text[:40]!r} is not a finite number")
    return value


def _count(declared: Iterable[str], letter: str) -> int:
    numbers = {int(name[2:]) for name in declared if name[0] == letter}
    if not numbers or numbers != set(range(len(numbers))):
        raise DataError(f"it declares {len(numbers)} {letter}_i; expected {letter}_0, {letter}_1, ... without a gap")
    return len(numbers)


def _split(conditions: Iterable[Condition]) -> tuple[list[Condition], list[Condition]]:
    """Separate bounds on single inputs from conditions on outputs."""
    bounds: list[Condition] = []
    rest: list[Condition] = []
    for condition in conditions:
        letters = {name[0] for name in condition.weights}
        if "X" in letters and len(condition.weights) > 1:
            names = ", ".join(itertools.islice(condition.weights, 4))
            raise DataError(
                f"a condition joins {names}; expected bounds on single inputs, and conditions on outputs alone"
            )
        (bounds if letters == {"X"} else rest).append(condition)
    return bounds, rest


def _box(
    bounds: Sequence[Condition], inputs: int, *, within: tuple[Vector, Vector] | None = None
) -> tuple[Vector, Vector]:
    lower, upper = np.full(inputs, -np.inf), np.full(inputs, np.inf)
    if within is not None:
        lower, upper = within[0].copy(), within[1].copy()
    for bound in bounds:
        ((name, weight),) = bound.weights.items()
        position, limit = int(name[2:]), bound.limit / weight
        if weight > 0:
            upper[position] = min(upper[position], limit)
        else:
            lower[position] = max(lower[position], limit)
    return lower, upper


def _region(lower: Vector, upper: Vector, alternatives: Sequence[Conjunction], *, outputs: int) -> Region:
    free = np.flatnonzero(~(np.isfinite(lower) & np.isfinite(upper)))
    if len(free):
        raise DataError(f"X_{free[0]} has no lower or no upper bound (nor have {len(free) - 1} others); expected both")
    rows = max(1, *map(len, alternatives))
    if len(alternatives) * rows * outputs > MAX_NUMBERS:
        raise DataError(
            f"{len(alternatives)} alternatives of up to {rows} conditions on {outputs} outputs are too many"
        )
    weights, limits = np.zeros((len(alternatives), rows, outputs)), np.full((len(alternatives), rows), np.inf)
    for alternative, conditions in enumerate(alternatives):
        for row, condition in enumerate(conditions):
            limits[alternative, row] = condition.limit
            for name, weight in condition.weights.items():
                weights[alternative, row, int(name[2:])] = weight
    return Region(lower, upper, weights, limits)


def _written(expression: Expression) -> str:
    words: list[str] = []
    waiting = [expression]
    while waiting and len(words) < 12:
        part = waiting.pop(0)
        words.append(part) if isinstance(part, str) else waiting.__setitem__(slice(0, 0), part)
    return f"({' '.join(words)[:60]} ...)"

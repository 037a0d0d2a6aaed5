"""Costs of mistakes: matrices over class pairs, from a file or for a protected class, and what predictions cost.

Rows are true classes and columns predicted ones, as in a confusion matrix. Shen et al. (arXiv:2101.12372) write the
transpose; `miss` and `false-alarm` name the halves of their matrix so that neither reading is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from edgeproof.data.arrays import read_npy
from edgeproof.data.classes import class_index
from edgeproof.errors import ConfigError, DataError
from edgeproof.evaluation import metrics
from edgeproof.evaluation.results import MOST_PAIRS, CostPairRecord, CostRecord, CostsRecord
from edgeproof.system.untrusted import read_csv, read_json
from edgeproof.types import Array, Labels

Side: TypeAlias = Literal["miss", "false-alarm", "both"]

_SUFFIXES = (".csv", ".json", ".npy")
_MAX_BYTES = 2**26  # of a file: two thousand classes
#: What the mistakes of a protected class cost where nothing else is said, as in the paper's code; every other costs 1.
DEFAULT_COST = 10.0


def choose_costs(
    *, file: str | None, protect: Sequence[str], cost: float | None, side: Side | None, classes: Sequence[str]
) -> CostsRecord | None:
    """Return the costs that were asked for, or None when none were.

    Args:
        file: CSV, JSON or npy with a row per true class and a column per predicted one.
        protect: Classes whose mistakes cost more than 1, by name or number.
        cost: What they cost (default: 10).
        side: "miss": the class is taken for another; "false-alarm": another is taken for it; "both" (default).
        classes: The class names.

    Raises:
        ConfigError: For a file together with a protected class, `cost` or `side` without one, an unknown class, or costs
            that `check_costs` refuses.
    """
    if file is not None and protect:
        raise ConfigError(
            f"costs = {file!r} and protect = {', '.join(protect)!r} both say what mistakes cost; give one of them"
        )
    if not protect:
        if cost is not None or side is not None:
            raise ConfigError("cost and side belong to a protected class; name it with protect (8, or its name)")
        return None if file is None else _record(read_costs(Path(file), classes=classes), source=file, classes=classes)
    labels = list(dict.fromkeys(class_index(name, classes, context="protect: ") for name in protect))
    price, half = DEFAULT_COST if cost is None else cost, side or "both"
    source = f"protect {', '.join(classes[label] for label in labels)}, cost {price:g}, side {half}"
    return _record(
        protected_costs(labels, cost=price, side=half, num_classes=len(classes)), source=source, classes=classes
    )


def protected_costs(labels: Sequence[int], *, cost: float, side: Side, num_classes: int) -> Array:
    """Return (K, K) float64: 1 for every mistake, `cost` for those of the classes `labels`, 0 for being right.

    With `side="both"` and one class this is the transpose of the matrix of Shen et al., and thus the same matrix.
    """
    costs = np.ones((num_classes, num_classes))
    if side in ("miss", "both"):
        costs[list(labels), :] = cost
    if side in ("false-alarm", "both"):
        costs[:, list(labels)] = cost
    np.fill_diagonal(costs, 0.0)
    return costs


def read_costs(path: Path, *, classes: Sequence[str]) -> Array:
    """Read a cost matrix (K, K) float64, in the order of `classes`.

    A CSV file may begin with a row of class names, and a JSON file may be an object with `classes` next to `costs`; rows
    and columns then stand in that order.

    Raises:
        ConfigError: When it cannot be read, or its names are not those of the classes.
    """
    if path.suffix not in _SUFFIXES:
        raise ConfigError(f"{path}: costs are read from {', '.join(_SUFFIXES)} files")
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ConfigError(f"{path} has {path.stat().st_size} bytes; expected at most {_MAX_BYTES}")
        names: list[str] = []
        if path.suffix == ".csv":
            names, rows = _read_csv(path)
        else:
            rows = read_json(path) if path.suffix == ".json" else read_npy(path)
            if isinstance(rows, dict):
                names, rows = list(map(str, rows["classes"])), rows["costs"]
        matrix = np.array(rows, dtype=np.float64)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror or error})") from error
    except DataError as error:
        raise ConfigError(str(error)) from error
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise ConfigError(f"{path} is no matrix of numbers ({error}); expected a row per true class") from error
    if not names:
        return matrix
    if sorted(names) != sorted(classes):
        raise ConfigError(f"{path} names the classes {', '.join(names)}; expected {', '.join(classes)}, in any order")
    order = [names.index(name) for name in classes]
    return matrix[np.ix_(order, order)] if matrix.shape == (len(names), len(names)) else matrix


def check_costs(costs: Array, *, classes: Sequence[str], source: str) -> Array:
    """Return the costs, refusing what cannot be meant.

    Raises:
        ConfigError: When they are not (K, K), or one is not finite, negative, or for being right.
    """
    count = len(classes)
    if costs.shape != (count, count):
        raise ConfigError(
            f"{source}: the costs have shape {costs.shape}; expected {(count, count)}, a row per true class and a column per predicted one"
        )
    for true, predicted in np.argwhere(~(np.isfinite(costs) & (costs >= 0))).tolist():
        raise ConfigError(
            f"{source}: taking {classes[true]!r} for {classes[predicted]!r} costs {costs[true, predicted]:g}; expected a finite number from 0 on"
        )
    for label in map(int, np.flatnonzero(np.diag(costs))):
        raise ConfigError(f"{source}: being right on {classes[label]!r} costs {costs[label, label]:g}; expected 0")
    return costs


def cost_record(predicted: Labels, labels: Labels, costs: Array) -> CostRecord:
    """Return what the mistakes among these predictions cost; `costs` (K, K) has true classes in rows."""
    paid = metrics.image_costs(predicted, labels, costs)
    low, high = metrics.mean_interval(paid) or (None, None)
    return CostRecord(
        mean=float(paid.mean()) if len(paid) else None,
        low=low,
        high=None if high is None else min(high, float(costs.max())),
        total=float(paid.sum()),
        count=len(paid),
        per_class=tuple(
            float(paid[labels == label].mean()) if (labels == label).any() else None for label in range(len(costs))
        ),
        pairs=_cost_pairs(predicted, labels, costs),
    )


def _cost_pairs(predicted: Labels, labels: Labels, costs: Array) -> tuple[CostPairRecord, ...]:
    counts = metrics.confusion(predicted, labels, num_classes=len(costs))
    totals = counts * costs
    order = np.argsort(-totals, axis=None, kind="stable")[: min(np.count_nonzero(totals), MOST_PAIRS)]
    return tuple(
        CostPairRecord(
            true=int(true), predicted=int(guess), count=int(counts[true, guess]), total=float(totals[true, guess])
        )
        for true, guess in zip(*np.unravel_index(order, totals.shape), strict=True)
    )


def _record(costs: Array, *, source: str, classes: Sequence[str]) -> CostsRecord:
    checked = check_costs(costs, classes=classes, source=source)
    return CostsRecord(source=source, matrix=tuple(map(tuple, checked.tolist())))


def _read_csv(path: Path) -> tuple[list[str], Any]:
    rows = read_csv(path)
    # Class names may be numbers themselves, so a header is recognised by the one row that is too many.
    header = bool(rows) and len(rows) == len(rows[0]) + 1
    return (rows[0], rows[1:]) if header else ([], rows)

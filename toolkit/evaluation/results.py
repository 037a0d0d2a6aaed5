"""`results.json`: its shape is these models, and the published JSON Schema is made from them.

Next to it stands `samples.npz`, the same run image by image (N images, the same rows in every set, "clean" included):
    index (N,) int64                  position in the split of the data set
    labels (N,) int64                 true classes
    clean_hash (N,) uint64            first 8 bytes, little-endian, of the SHA-256 of the clean image's float32 bytes
    pred/<engine>--<set> (N,) int64   predicted classes, one array per cell
    source/<set> (N,) int64           the source model's classes on that set, where the attack run recorded them
    source_clean/<set> (N,) int64     the same on the clean images
    gallery_index (G,) int64          rows of the arrays above that the report shows
    gallery_clean (G, C, H, W)        the clean images, uint8 or float32 in [0, 1]
    gallery/<set> (G, C, H, W)        the same images as that adversarial set has them
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from pydantic import BaseModel, Field, model_validator

from edgeproof.config import Strict
from edgeproof.data.records import SetFields
from edgeproof.evaluation.metrics import McNemar, Rate
from edgeproof.system.untrusted import read_record
from edgeproof.types import Array

SCHEMA_VERSION = 2

#: Pairs of classes that a cell lists; with up to 44 classes that is all of them.
MOST_PAIRS = 2000

#: What an attack knew of an engine: the gradients of its very file, answers of it, the gradients of the checkpoint or graph that
#: the file was made from, another network only, nothing (a control), or a set that does not say what it was made on.
Threat: TypeAlias = Literal["white-box", "query", "checkpoint", "transferred", "control", "unknown"]

#: The same in words, as reports and messages have it.
KNEW: Mapping[Threat, str] = {
    "white-box": "white-box",
    "query": "query",
    "checkpoint": "made on its checkpoint, not on this build",
    "transferred": "transferred from another file",
    "control": "control",
    "unknown": "what the attack knew is not recorded",
}


class ThroughputRecord(Strict):
    """Images per second at a batch size: median and the 5th and 95th percentile over repeats."""

    batch_size: int
    repeats: int
    images_per_s: float = Field(gt=0)
    p5: float = Field(gt=0)
    p95: float = Field(gt=0)


class InvarianceRecord(Strict):
    """Images alone against the same images in several slots of several batch sizes.

    flips: images whose class was not always the same; flipped: their rows in the clean set. max_abs_diff: of the logits.
    """

    images: int
    batch_sizes: tuple[int, ...]
    flips: int
    flipped: tuple[int, ...]
    max_abs_diff: float | None


class KernelsRecord(Strict):
    """Convolutions and matrix products as executed, and how many of them run in integers."""

    integer: int
    total: int


class EngineRecord(Strict):
    """One deployed form, as active; what was not measured is null."""

    name: str
    backend: str
    precision: str
    device: str
    provider: str
    path: str
    sha256: str
    size: int
    versions: dict[str, str]
    note: str
    options: dict[str, Any]
    throughput: ThroughputRecord | None
    invariance: InvarianceRecord | None = None
    kernels: KernelsRecord | None = Field(None, description="of INT8 engines that can say")
    made_from: tuple[str, ...] = Field(
        (), description="hash of each checkpoint and graph that the file was made from, as far as recorded"
    )


class LeftOutRecord(Strict):
    """An engine that was asked for and could not be opened: nothing is measured of it, and limits on it do not hold.

    precision: as its file says, "" where it does not. status: exit status of what went wrong.
    """

    name: str
    backend: str
    precision: str
    path: str
    reason: str
    status: int


class SetRecord(SetFields):
    """The clean set or one adversarial set; a clean one has no attack, norm and eps."""

    kind: Literal["clean", "adversarial"]
    count: int
    sha256: str


class ClassRecord(Strict):
    """One class that has images, in one cell: how many of them are classified correctly."""

    label: int
    hits: int
    total: int

    @property
    def accuracy(self) -> Rate:
        """With its interval."""
        return Rate(self.hits, self.total)


class CostsRecord(Strict):
    """Costs of mistakes: rows are true classes, columns predictions. source: the file, or the protected class."""

    source: str
    matrix: tuple[tuple[float, ...], ...]


class CostPairRecord(Strict):
    """The total cost of one kind of mistake: class `true` taken for class `predicted`."""

    true: int
    predicted: int
    count: int
    total: float


class CostRecord(Strict):
    """Expected cost of one engine on one set: the mean over all images.

    low, high: normal 95 % interval of the mean, null where all images cost the same. per_class: mean over the images of
    each true class, null without images. pairs: the mistakes made, the most costly in all first, at most MOST_PAIRS; an
    image without a prediction costs what the most costly mistake of its class does and is in no pair.
    """

    mean: float | None
    low: float | None
    high: float | None
    total: float
    count: int
    per_class: tuple[float | None, ...]
    pairs: tuple[CostPairRecord, ...]


class DispersionRecord(Strict):
    """The spread of an engine's predictions on a set over the classes.

    dominant: the class predicted most, the first of equals; top1, top3: images predicted as it, or as one of the three
    predicted most; entropy: of the predicted classes, over log K. class_error_min, _max, _std: of the error rates of the true
    classes that have images, as fractions.
    """

    dominant: int
    top1: Rate
    top3: Rate
    entropy: float | None
    class_error_min: float | None
    class_error_max: float | None
    class_error_std: float | None


class CellRecord(Strict):
    """One engine on one set.

    accuracy: all images. success: attack success rate over the images that this engine classifies correctly when clean.
    transfer: over the images on which the attack succeeded on the source and that this engine classifies correctly when
    clean, those it now gets wrong. transfer_ratio: success on the engine over success on the source, both on the images
    that both classify correctly when clean. agreement: same prediction as the reference engine.
    per_class: the classes that have images, in their order. confusion: (true class, predicted class, images), in that order;
    where there are more than MOST_PAIRS such pairs the most frequent ones, and `unlisted` images are in the others
    (`samples.npz` has them all). threat: see `Threat`; null in the clean cell.
    """

    engine: str
    set: str
    accuracy: Rate
    success: Rate | None
    transfer: Rate | None
    transfer_ratio: float | None
    agreement: Rate | None
    mcnemar: McNemar | None
    relative_difference: float | None
    drop_points: float | None
    worst_class: int | None
    per_class: tuple[ClassRecord, ...]
    confusion: tuple[tuple[int, int, int], ...]
    unlisted: int = 0
    threat: Threat | None = None
    fooling: Rate | None = Field(None, description="images predicted as another class than when clean")
    dispersion: DispersionRecord | None = Field(None, description="how the predictions spread over the classes")
    cost: CostRecord | None = Field(None, description="where costs were given")

    def rate(self, label: int) -> Rate:
        """Return the accuracy of a class, of 0 images where it has none."""
        return next((each.accuracy for each in self.per_class if each.label == label), Rate(0, 0))

    def matrix(self, classes: int) -> Array:
        """Return the confusion matrix (K, K) of `classes` classes: rows are true classes, columns predictions."""
        counts = np.zeros((classes, classes), np.int64)
        for true, predicted, images in self.confusion:
            counts[true, predicted] = images
        return counts


class PairRecord(Strict):
    """Two engines on one set, image by image; in the test the first one is the reference."""

    set: str
    first: str
    second: str
    agreement: Rate
    mcnemar: McNemar


class WorstRecord(Strict):
    """One engine against all attacks of one norm and budget at once: an image counts where it is right in every set."""

    engine: str
    norm: str
    eps: float
    sets: tuple[str, ...]
    accuracy: Rate


class GapRecord(Strict):
    """Two attacks of one norm and budget on one engine, image by image, which knew different things of it.

    first knew less than second. difference: accuracy under the second minus accuracy under the first, as a fraction with its
    95 % interval (low, high), negative where the second is stronger; p_value: exact McNemar, two-sided.
    """

    engine: str
    precision: str
    norm: str
    eps: float
    first: str
    first_threat: Threat
    second: str
    second_threat: Threat
    only_first_right: int
    only_second_right: int
    difference: float
    low: float
    high: float
    p_value: float


class IndicatorRecord(Strict):
    """An indicator of gradient masking (docs/masking.md): the worst value over the attacks, null where none measured it.

    limit: beyond it (above or below) a value that the attack stage measured is reported. What is compared between sets is
    reported where the difference is significant.
    """

    name: str
    meaning: str
    measured: float | None
    limit: float
    beyond: Literal["above", "below"]
    where: str
    reported: bool


class GateRecord(Strict):
    """A limit, what was measured, and whether it holds."""

    text: str
    metric: str
    engine: str
    set: str
    measured: float | None
    limit: float
    count: int
    passed: bool
    message: str
    threat: Threat | None = Field(None, description="what the attack of that set knew of the engine; null when clean")


class Description(Strict):
    """Everything that is known of an evaluation before anything is computed from its logits."""

    schema_version: int = SCHEMA_VERSION
    tool: dict[str, str]
    data: dict[str, Any] = Field(description="name, split, count, input_shape, class_counts")
    classes: tuple[str, ...]
    reference: str
    costs: CostsRecord | None = Field(None, description="what mistakes cost, where that was given")
    engines: tuple[EngineRecord, ...]
    sets: tuple[SetRecord, ...]
    environment: dict[str, str]
    left_out: tuple[LeftOutRecord, ...] = Field((), description="engines that could not be opened")


class Results(Description):
    """Everything that a report needs; a pure function of the saved logits. Its parts fit together, or it cannot be made."""

    cells: tuple[CellRecord, ...]
    pairs: tuple[PairRecord, ...] = Field((), description="every two engines on every set")
    worst: tuple[WorstRecord, ...] = Field((), description="per image over attacks, by engine, norm and budget")
    gaps: tuple[GapRecord, ...] = Field((), description="what knowing more of an engine gained an attack")
    masking: tuple[IndicatorRecord, ...] = Field(
        (), description="indicators of gradient masking; none without an attack"
    )
    gates: tuple[GateRecord, ...]
    warnings: tuple[str, ...]

    def cell(self, engine: str, set_: str) -> CellRecord:
        """Return the cell of an engine and a set."""
        return next(cell for cell in self.cells if cell.engine == engine and cell.set == set_)

    def text(self) -> str:
        """Return `results.json`: a line for each engine, set, cell and so on, so that thousands of classes stay readable."""
        fields = self.model_dump(mode="json")
        return "{\n" + ",\n".join(f"{json.dumps(key)}: {_lines(value)}" for key, value in fields.items()) + "\n}\n"

    @model_validator(mode="before")
    @classmethod
    def _upgraded(cls, given: Any) -> Any:
        return _from_version_1(given) if isinstance(given, dict) and given.get("schema_version") == 1 else given

    @model_validator(mode="after")
    def _fits_together(self) -> Results:
        if wrong := next(_misfits(self), None):
            raise ValueError(f"does not fit together: {wrong[:300]}")
        return self


def read_results(path: Path) -> Results:
    """Read `results.json`, of this version or an older one.

    Raises:
        DataError: When the file cannot be read, or a part refers to what is not there.
    """
    return read_record(path, Results)


def _lines(value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "[\n" + ",\n".join(json.dumps(each, allow_nan=False) for each in value) + "\n]"
    return json.dumps(value, allow_nan=False)


def _from_version_1(given: Mapping[str, Any]) -> dict[str, Any]:
    """Version 1 listed every class in every cell, with its name, and the confusion as a matrix."""
    try:
        cells = [
            {
                **cell,
                "per_class": [
                    {"label": each["label"], "hits": each["accuracy"]["hits"], "total": each["accuracy"]["total"]}
                    for each in cell["per_class"]
                    if each["accuracy"]["total"]
                ],
                "confusion": [
                    (true, predicted, images)
                    for true, row in enumerate(cell["confusion"])
                    for predicted, images in enumerate(row)
                    if images
                ],
            }
            for cell in given["cells"]
        ]
    except (KeyError, TypeError) as error:
        raise ValueError(f"a cell of version 1 lacks {error}") from error
    return {**given, "schema_version": SCHEMA_VERSION, "cells": cells}


_LARGEST = 2.0**63  # beyond it, a number counts and measures nothing


def _misfits(results: Results) -> Iterator[str]:
    engines, sets = [engine.name for engine in results.engines], [set_.name for set_ in results.sets]
    count = len(results.classes)
    if results.schema_version != SCHEMA_VERSION:
        yield f"schema version {results.schema_version}; this version of edgeproof reads 1 to {SCHEMA_VERSION}"
    for names in (engines, sets):
        if len(set(names)) < len(names):
            yield "a name comes twice"
    if results.reference not in engines:
        yield f"the reference {results.reference!r} is no engine"
    if [set_.kind for set_ in results.sets].count("clean") != 1:
        yield "there is not one clean set"
    if sorted((cell.engine, cell.set) for cell in results.cells) != sorted(product(engines, sets)):
        yield "there is not one cell for each engine and set"
    if not count:
        yield "there are no classes"
    if results.costs:
        matrix = results.costs.matrix
        if len(matrix) != count or any(len(row) != count for row in matrix):
            yield f"the costs are not {count} x {count}"
        elif not all(0 <= number < _LARGEST for row in matrix for number in row):
            yield "a cost is not a number from 0 on"
    if wrong := next((number for number in _numbers(results) if not -_LARGEST < number < _LARGEST), None):
        yield f"{wrong!r:.40} is no number of a measurement"
    for key, kind in (("name", str), ("split", str), ("count", int), ("input_shape", (list, tuple))):
        if not isinstance(results.data.get(key), kind):
            yield f"data.{key} is {type(results.data.get(key)).__name__}"
    for cell in results.cells:
        yield from (f"{cell.engine} on {cell.set}: {wrong}" for wrong in _misfits_of_cell(cell, count))
    named = {name for pair in results.pairs for name in (pair.first, pair.second)}
    named |= {worst.engine for worst in results.worst} | {gap.engine for gap in results.gaps}
    yield from (f"engine {name!r} is not among the engines" for name in sorted(named - {*engines}))
    named = {pair.set for pair in results.pairs} | {name for worst in results.worst for name in worst.sets}
    named |= {name for gap in results.gaps for name in (gap.first, gap.second)}
    yield from (f"set {name!r} is not among the sets" for name in sorted(named - {*sets}))


def _misfits_of_cell(cell: CellRecord, count: int) -> Iterator[str]:
    labels = [each.label for each in cell.per_class]
    if labels != sorted(set(labels)):
        yield "the classes are not in their order"
    if any(not 0 <= each.hits <= each.total <= cell.accuracy.total for each in cell.per_class):
        yield "a class has more hits than there are images"
    if any(not 0 < images <= cell.accuracy.total for _, _, images in cell.confusion):
        yield "the confusion has numbers of images that there are not"
    numbers = [*labels, *(number for true, predicted, _ in cell.confusion for number in (true, predicted))]
    numbers += [number for number in (cell.worst_class,) if number is not None]
    numbers += [cell.dispersion.dominant] if cell.dispersion else []
    if cell.cost:
        numbers += [number for pair in cell.cost.pairs for number in (pair.true, pair.predicted)]
        if len(cell.cost.per_class) != count:
            yield "the costs are not one per class"
    if any(not 0 <= number < count for number in numbers):
        yield f"a class is not from 0 to {count - 1}"


def _numbers(value: object) -> Iterator[float]:
    """Return the numbers in a record, but for the matrices, which are many and are checked on their own."""
    if isinstance(value, (int, float)):
        yield value
    elif isinstance(value, BaseModel) or is_dataclass(value):
        for name, each in vars(value).items():
            if name not in ("confusion", "per_class", "matrix"):
                yield from _numbers(each)
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _numbers(each)
    elif isinstance(value, (tuple, list)):
        for each in value:
            yield from _numbers(each)

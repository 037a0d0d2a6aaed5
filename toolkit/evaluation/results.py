"""`results.json`: its shape is these models, and the published JSON Schema is made from them.

Beside it stands `samples.npz`, the same run image by image (N images, the same rows in every set, "clean" included):
    index (N,) int64                  position in the split of the data set
    labels (N,) int64                 true classes
    clean_hash (N,) uint64            first 8 bytes, little-endian, of the SHA-256 of the clean image's float32 bytes
    pred/<engine>--<set> (N,) int64   predicted classes, one array a cell
    source/<set> (N,) int64           the source model's classes on that set, where the attack run recorded them
    source_clean/<set> (N,) int64     the same on the clean images
    gallery_index (G,) int64          rows of the arrays above that the report shows
    gallery_clean (G, C, H, W)        the clean images, uint8 or float32 in [0, 1]
    gallery/<set> (G, C, H, W)        the same images as that adversarial set has them
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from pydantic import Field

from edgeproof.config import Strict

SCHEMA_VERSION = 1

#: What an attack knew of an engine: the gradients of its very file, answers of it, another model only, nothing (a control), or
#: a set that does not say what it was made on.
Threat: TypeAlias = Literal["white-box", "query", "transferred", "control", "unknown"]


class RateRecord(Strict):
    """Hits among a total, with the Wilson score interval at 95 %; value and interval are null when the total is 0."""

    hits: int
    total: int
    value: float | None
    low: float | None
    high: float | None


class ThroughputRecord(Strict):
    """Images a second at a batch size: median and the 5th and 95th percentile over repeats."""

    batch_size: int
    repeats: int
    images_per_s: float
    p5: float
    p95: float


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


class SetRecord(Strict):
    """The clean set or one adversarial set."""

    name: str
    kind: Literal["clean", "adversarial"]
    attack: str | None
    norm: str | None
    eps: float | None
    pixels: str
    params: dict[str, Any]
    source: str
    count: int
    sha256: str
    indicators: dict[str, float]
    access: str = Field("", description="what the attack needed of its source: gradients, queries, data, none")
    source_sha256: tuple[str, ...] = Field((), description="hash of each file that was attacked")
    findings: dict[str, Any] = Field(
        {}, description="counts: success against queries, what only one of two builds gets wrong"
    )


class ClassRecord(Strict):
    """One class in one cell.

    relative_difference = 100 * (clean - adversarial) / clean accuracy, null where the clean accuracy is 0;
    drop_points = 100 * (clean - adversarial) accuracy. Both are null in the clean cell.
    """

    label: int
    name: str
    accuracy: RateRecord
    relative_difference: float | None
    drop_points: float | None


class McNemarRecord(Strict):
    """Exact McNemar test of two engines on the same images: the two kinds of discordant pairs, two-sided p."""

    only_reference_right: int
    only_engine_right: int
    p_value: float


class CostsRecord(Strict):
    """What each mistake costs: rows are true classes, columns predictions. source: the file, or the protected class."""

    source: str
    matrix: tuple[tuple[float, ...], ...]


class CostPairRecord(Strict):
    """What one kind of mistake, class `true` taken for class `predicted`, adds up to over its images."""

    true: int
    predicted: int
    count: int
    total: float


class CostRecord(Strict):
    """Expected cost of one engine on one set: the mean over all images.

    low, high: normal 95 % interval of the mean, null where all images cost the same. per_class: mean over the images of
    each true class, null without images. pairs: the mistakes made, the dearest in all first; an image without a
    prediction costs what the dearest mistake of its class does and is in no pair.
    """

    mean: float | None
    low: float | None
    high: float | None
    total: float
    count: int
    per_class: tuple[float | None, ...]
    pairs: tuple[CostPairRecord, ...]


class DispersionRecord(Strict):
    """How an engine's predictions on a set spread over the classes.

    dominant: the class predicted most, the first of equals; top1, top3: images predicted as it, or as one of the three
    predicted most; entropy: of the predicted classes, over log K. class_error_min, _max, _std: of the error rates of the true
    classes that have images, as fractions.
    """

    dominant: int
    top1: RateRecord
    top3: RateRecord
    entropy: float | None
    class_error_min: float | None
    class_error_max: float | None
    class_error_std: float | None


class CellRecord(Strict):
    """One engine on one set.

    accuracy: all images. success: attack success rate over the images that this engine classifies rightly when clean.
    transfer: over the images on which the attack succeeded on the source and that this engine classifies rightly when
    clean, those it now gets wrong. transfer_ratio: success on the engine over success on the source, both on the images
    that both classify rightly when clean. agreement: same prediction as the reference engine.
    confusion: rows are true classes, columns predictions. threat: see `Threat`; null in the clean cell.
    """

    engine: str
    set: str
    accuracy: RateRecord
    success: RateRecord | None
    transfer: RateRecord | None
    transfer_ratio: float | None
    agreement: RateRecord | None
    mcnemar: McNemarRecord | None
    relative_difference: float | None
    drop_points: float | None
    worst_class: int | None
    per_class: tuple[ClassRecord, ...]
    confusion: tuple[tuple[int, ...], ...]
    threat: Threat | None = None
    fooling: RateRecord | None = Field(None, description="images predicted as another class than when clean")
    dispersion: DispersionRecord | None = Field(None, description="how the predictions spread over the classes")
    cost: CostRecord | None = Field(None, description="where costs were given")


class PairRecord(Strict):
    """Two engines on one set, image by image; in the test the first one is the reference."""

    set: str
    first: str
    second: str
    agreement: RateRecord
    mcnemar: McNemarRecord


class WorstRecord(Strict):
    """One engine against all attacks of one norm and budget at once: an image counts where it is right in every set."""

    engine: str
    norm: str
    eps: float
    sets: tuple[str, ...]
    accuracy: RateRecord


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
    """A sign of masked gradients (docs/masking.md): the worst value over the attacks, null where none measured it.

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


class Results(Strict):
    """Everything that a report needs; a pure function of the saved logits."""

    schema_version: int = SCHEMA_VERSION
    tool: dict[str, str]
    data: dict[str, Any] = Field(description="name, split, count, input_shape, class_counts")
    classes: tuple[str, ...]
    reference: str
    costs: CostsRecord | None = Field(None, description="what mistakes cost, where that was given")
    engines: tuple[EngineRecord, ...]
    sets: tuple[SetRecord, ...]
    cells: tuple[CellRecord, ...]
    pairs: tuple[PairRecord, ...] = Field((), description="every two engines on every set")
    worst: tuple[WorstRecord, ...] = Field((), description="per image over attacks, by engine, norm and budget")
    gaps: tuple[GapRecord, ...] = Field((), description="what knowing more of an engine gained an attack")
    masking: tuple[IndicatorRecord, ...] = Field((), description="signs of masked gradients; none without an attack")
    gates: tuple[GateRecord, ...]
    warnings: tuple[str, ...]
    environment: dict[str, str]

    def cell(self, engine: str, set_: str) -> CellRecord:
        """Return the cell of an engine and a set."""
        return next(cell for cell in self.cells if cell.engine == engine and cell.set == set_)

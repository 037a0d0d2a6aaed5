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

from typing import Any, Literal

from pydantic import Field

from toolkit.config import Strict

SCHEMA_VERSION = 1


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


class CellRecord(Strict):
    """One engine on one set.

    accuracy: all images. success: attack success rate over the images that this engine classifies rightly when clean.
    transfer: over the images on which the attack succeeded on the source and that this engine classifies rightly when
    clean, those it now gets wrong. transfer_ratio: success on the engine over success on the source, both on the images
    that both classify rightly when clean. agreement: same prediction as the reference engine.
    confusion: rows are true classes, columns predictions.
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


class PairRecord(Strict):
    """Two engines on one set, image by image; in the test the first one is the reference."""

    set: str
    first: str
    second: str
    agreement: RateRecord
    mcnemar: McNemarRecord


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
    engines: tuple[EngineRecord, ...]
    sets: tuple[SetRecord, ...]
    cells: tuple[CellRecord, ...]
    pairs: tuple[PairRecord, ...] = Field((), description="every two engines on every set")
    gates: tuple[GateRecord, ...]
    warnings: tuple[str, ...]
    environment: dict[str, str]

    def cell(self, engine: str, set_: str) -> CellRecord:
        """Return the cell of an engine and a set."""
        return next(cell for cell in self.cells if cell.engine == engine and cell.set == set_)

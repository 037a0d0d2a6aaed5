"""Labelled images, data sets and adversarial sets: what every stage takes and gives.

Images are float32 NCHW in [0, 1]. On disk they are uint8 where that loses nothing.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.errors import DataError, ToolkitError
from toolkit.registry import find
from toolkit.runs import Run, atomic
from toolkit.types import Array, Images, Labels, Logits

_TOLERANCE = 1e-6  # float rounding of other tools may leave [0, 1] by so much; it is clipped
_MAX_NPZ_BYTES = 64 * 2**30


@dataclass(frozen=True)
class LabelledImages:
    """Images with their labels.

    Attributes:
        images: (N, C, H, W) float32 in [0, 1].
        labels: (N,) int64, indices into `classes`.
        index: (N,) int64, position in the split of the data set that they came from.
        classes: The name of each class.
        name: The data set, for instance "digits".
        split: "train", "validation", "calibration" or "test".
    """

    images: Images
    labels: Labels
    index: Labels
    classes: tuple[str, ...]
    name: str
    split: str

    def __post_init__(self) -> None:
        check_images(self.images, what=f"{self.name}/{self.split}")
        check_labels(self.labels, count=len(self.images), classes=len(self.classes), what=f"{self.name}/{self.split}")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        return self.images.shape[1], self.images.shape[2], self.images.shape[3]

    @property
    def num_classes(self) -> int:
        """K, the number of classes."""
        return len(self.classes)

    def take(self, positions: Array) -> LabelledImages:
        """Return the images at these positions, in this order."""
        return replace(self, images=self.images[positions], labels=self.labels[positions], index=self.index[positions])

    def head(self, limit: int | None, *, seed: int = 0) -> LabelledImages:
        """Return at most `limit` images, stratified by class, in their original order."""
        if limit is None or limit >= len(self):
            return self
        return self.take(np.sort(stratified_sample(self.labels, limit, seed=seed)))


@dataclass(frozen=True)
class Dataset:
    """A data set as it is published: its training images, when it has any, and its test images."""

    train: LabelledImages | None
    test: LabelledImages


@dataclass(frozen=True)
class Splits:
    """Disjoint, stratified, seeded parts of a data set; `index` of each says which images they are."""

    train: LabelledImages
    validation: LabelledImages
    calibration: LabelledImages
    test: LabelledImages

    def part(self, name: str) -> LabelledImages:
        """Return a part by its name."""
        part: LabelledImages = getattr(self, name)
        return part


@dataclass(frozen=True)
class AdversarialSet:
    """Adversaries of one attack at one budget, beside the clean images that they were made from.

    Attributes:
        name: What tables show, for instance "pgd-linf 8/255".
        attack: The attack's registry name.
        norm: "linf" or "l2".
        eps: The budget in [0, 1] pixel units.
        images: (N, C, H, W) float32 in [0, 1], row for row beside `clean`.
        clean: The clean images.
        source: The model that was attacked, for people.
        source_logits: The source model's logits on `images`, when there was a source model.
        source_clean_logits: The same on the clean images.
        params: The attack's parameters, defaults resolved.
        pixels: "float" or "uint8".
        indicators: What the attack stage measured on the way, for instance the share of zero gradients.
    """

    name: str
    attack: str
    norm: str
    eps: float
    images: Images
    clean: LabelledImages
    source: str = ""
    source_logits: Logits | None = None
    source_clean_logits: Logits | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    pixels: str = "float"
    indicators: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_images(self.images, what=self.name)
        if self.images.shape != self.clean.images.shape:
            raise DataError(
                f"{self.name}: adversaries have shape {self.images.shape}, clean images {self.clean.images.shape}; expected equal"
            )


def check_images(images: Array, *, what: str) -> None:
    """Refuse arrays that are not images as this toolkit means them.

    Raises:
        DataError: When they are not float32 (N, C, H, W), not finite or outside [0, 1].
    """
    if images.ndim != 4:
        raise DataError(f"{what}: images have shape {images.shape}; expected (N, C, H, W)")
    if images.dtype != np.float32:
        raise DataError(f"{what}: images are {images.dtype}; expected float32 in [0, 1]")
    if images.size:
        low, high = float(images.min()), float(images.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise DataError(f"{what}: images hold NaN or infinite values; expected numbers in [0, 1]")
        if low < 0 or high > 1:
            hint = "; divide 0..255 pixels by 255" if high > 2 else "; normalisation belongs inside the model"
            raise DataError(f"{what}: images range over [{low:g}, {high:g}]; expected [0, 1]{hint}")


def check_labels(labels: Array, *, count: int, classes: int, what: str) -> None:
    """Refuse labels that do not fit their images and classes.

    Raises:
        DataError: When they are not (N,) integers from 0 to K - 1.
    """
    if labels.shape != (count,) or labels.dtype != np.int64:
        raise DataError(
            f"{what}: labels are {labels.dtype} of shape {labels.shape}; expected int64 of shape ({count},)"
        )
    if count and (labels.min() < 0 or labels.max() >= classes):
        raise DataError(
            f"{what}: labels range over {labels.min()}..{labels.max()}; expected 0..{classes - 1} for {classes} classes"
        )


def to_float(images: Array, *, what: str) -> Images:
    """Turn uint8 NCHW or float NCHW images into float32 in [0, 1]; the rounding of other tools (1e-6) is clipped.

    Raises:
        DataError: For another type, or values further outside [0, 1].
    """
    if images.dtype == np.uint8:
        return images.astype(np.float32) / np.float32(255)
    if not np.issubdtype(images.dtype, np.floating):
        raise DataError(f"{what}: images are {images.dtype}; expected uint8 in 0..255 or float in [0, 1]")
    result = images.astype(np.float32)
    if result.size and result.min() >= -_TOLERANCE and result.max() <= 1 + _TOLERANCE:
        np.clip(result, 0, 1, out=result)
    check_images(result, what=what)
    return result


def to_storage(images: Images) -> Array:
    """Return uint8 where the images are exactly on the 8-bit grid, else the float32 images."""
    levels = np.rint(images * np.float32(255)).astype(np.uint8)
    return levels if np.array_equal(levels.astype(np.float32) / np.float32(255), images) else images


def stratified_sample(labels: Labels, count: int, *, seed: int) -> Array:
    """Choose `count` positions with every class in proportion (largest remainders), in random order.

    Raises:
        DataError: When there are fewer than `count` images.
    """
    if count > len(labels):
        raise DataError(f"{count} images were asked for and there are {len(labels)}; ask for fewer")
    random = np.random.default_rng([seed, 1])
    classes, sizes = np.unique(labels, return_counts=True)
    exact = sizes * (count / len(labels))
    quota = np.floor(exact).astype(np.int64)
    for position in np.argsort(quota - exact, kind="stable")[: count - int(quota.sum())]:
        quota[position] += 1
    chosen = [
        random.permutation(np.flatnonzero(labels == label))[:wanted]
        for label, wanted in zip(classes, quota, strict=True)
    ]
    return random.permutation(np.concatenate(chosen)) if chosen else np.empty(0, np.int64)


def load_dataset(name: str) -> Dataset:
    """Load a data set by its registry name, or `npz:PATH`, `folder:PATH` and the like.

    Raises:
        ConfigError: For an unknown name.
        DataError: When its files are missing or not what they should be.
    """
    kind, colon, path = name.partition(":")
    entry = find("data", kind)
    takes_path = bool(entry.options.get("path"))
    if takes_path != bool(colon):
        raise DataError(f"data set {name!r}: expected {f'{kind}:PATH' if takes_path else kind}")
    dataset: Dataset = entry.load()(Path(path)) if takes_path else entry.load()()
    return dataset


def split_dataset(
    dataset: Dataset, *, seed: int, validation: float, calibration: int, limit_train: int | None = None
) -> Splits:
    """Split the training images into disjoint train, validation and calibration parts; the test images stay whole.

    Args:
        dataset: The data set. One without training images gives empty parts.
        seed: Seed of the split; the same seed gives the same indices.
        validation: Share of the training images held out, stratified.
        calibration: Number of training images held out, as equal per class as the data allow.
        limit_train: Use at most so many of the training images, stratified.

    Raises:
        DataError: When a class has too few images to appear in each part that is asked for.
    """
    if dataset.train is None:
        empty = dataset.test.take(np.empty(0, np.int64))
        return Splits(
            *(replace(empty, split=part) for part in ("train", "validation", "calibration")), test=dataset.test
        )
    pool = dataset.train.head(limit_train, seed=seed)
    calibration = min(calibration, len(pool) // 4)
    sizes = np.bincount(pool.labels, minlength=pool.num_classes)
    wanted = 1 + (validation > 0) + (calibration > 0)
    for label in np.flatnonzero((sizes > 0) & (sizes < wanted)):
        raise DataError(
            f"{pool.name}: class {pool.classes[label]!r} has {sizes[label]} training images; "
            f"expected at least {wanted} to fill train, validation and calibration; add images or set them to 0"
        )
    random = np.random.default_rng([seed, 2])
    taken: dict[str, list[Array]] = {"train": [], "validation": [], "calibration": []}
    present = np.flatnonzero(sizes)
    shares = _equal_shares(sizes[present], calibration)
    for label, share in zip(present, shares, strict=True):
        mine = random.permutation(np.flatnonzero(pool.labels == label))
        share = min(int(share), max(len(mine) - wanted + 1, 0)) if calibration else 0
        held = max(1, round(validation * len(mine))) if validation > 0 else 0
        held = min(held, len(mine) - share - 1)
        taken["calibration"].append(mine[:share])
        taken["validation"].append(mine[share : share + held])
        taken["train"].append(mine[share + held :])
    parts = {part: replace(pool.take(np.sort(np.concatenate(rows))), split=part) for part, rows in taken.items()}
    return Splits(**parts, test=dataset.test)


def _equal_shares(sizes: Array, total: int) -> Array:
    """Share `total` over classes as equally as their sizes allow."""
    shares = np.zeros(len(sizes), np.int64)
    while shares.sum() < min(total, sizes.sum()):
        open_ = np.flatnonzero(shares < sizes)
        each = max((total - int(shares.sum())) // len(open_), 1)
        for position in open_[: total - int(shares.sum())]:
            shares[position] += min(each, sizes[position] - shares[position])
    return shares


def write_npz(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write arrays atomically as compressed npz; equal arrays give equal bytes."""
    with atomic(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **{name: np.asarray(value) for name, value in arrays.items()})


def read_npz(path: Path, *, required: tuple[str, ...] = ()) -> dict[str, Array]:
    """Read an npz without executing anything in it.

    Raises:
        DataError: When it is not an npz, holds pickled objects, is absurdly large or lacks an array.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > _MAX_NPZ_BYTES:
            raise DataError(f"{path} would unpack to {size} bytes; the limit is {_MAX_NPZ_BYTES}")
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except ToolkitError:
        raise
    except (OSError, ValueError, zipfile.BadZipFile, EOFError, KeyError, NotImplementedError) as error:
        raise DataError(f"{path} cannot be read as an npz of plain arrays ({error})") from error
    missing = [name for name in required if name not in arrays]
    if missing:
        raise DataError(f"{path} has no array {missing[0]!r}; it has: {', '.join(arrays) or 'nothing'}")
    return arrays


def save_adversarial_set(run: Run, adversaries: AdversarialSet) -> None:
    """Write `adversaries.npz`, `clean.npz` and `set.json` into an attack run that is being written."""
    clean = adversaries.clean
    logits = {} if adversaries.source_logits is None else {"logits": adversaries.source_logits}
    clean_logits = {} if adversaries.source_clean_logits is None else {"logits": adversaries.source_clean_logits}
    write_npz(
        run.path / "adversaries.npz",
        {"x_adv": to_storage(adversaries.images), "y": clean.labels, "index": clean.index, **logits},
    )
    write_npz(
        run.path / "clean.npz", {"x": to_storage(clean.images), "y": clean.labels, "index": clean.index, **clean_logits}
    )
    about = {
        "name": adversaries.name, "attack": adversaries.attack, "norm": adversaries.norm, "eps": adversaries.eps,
        "source": adversaries.source, "params": dict(adversaries.params), "pixels": adversaries.pixels,
        "indicators": dict(adversaries.indicators), "classes": list(clean.classes), "data": clean.name, "split": clean.split,
    }  # fmt: skip
    with atomic(run.path / "set.json") as temporary:
        temporary.write_text(json.dumps(about, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def load_adversarial_set(run: Run) -> AdversarialSet:
    """Read the adversarial set of a finished attack run; hashes are verified.

    Raises:
        RunError: For a changed or missing file.
        DataError: For arrays that do not fit together.
    """
    about = json.loads(run.file("set.json").read_text(encoding="utf-8"))
    attacked = read_npz(run.file("adversaries.npz"), required=("x_adv", "y", "index"))
    original = read_npz(run.file("clean.npz"), required=("x", "y", "index"))
    if not (np.array_equal(attacked["y"], original["y"]) and np.array_equal(attacked["index"], original["index"])):
        raise DataError(f"{run.path}: adversaries and clean images are not of the same samples; repeat the attack")
    clean = LabelledImages(
        images=to_float(original["x"], what=f"{run.path}/clean.npz"),
        labels=original["y"],
        index=original["index"],
        classes=tuple(about.pop("classes")),
        name=about.pop("data"),
        split=about.pop("split"),
    )
    return AdversarialSet(
        images=to_float(attacked["x_adv"], what=f"{run.path}/adversaries.npz"),
        clean=clean,
        source_logits=attacked.get("logits"),
        source_clean_logits=original.get("logits"),
        **about,
    )

"""Labelled images, data sets and adversarial sets: what every stage takes and gives.

Images are float32 NCHW in [0, 1]. On disk they are uint8 where that loses nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from edgeproof.config import DataConfig
from edgeproof.data.arrays import check_images, check_labels, read_npz, to_float, to_storage, write_npz
from edgeproof.data.records import SetAbout, SetFields
from edgeproof.data.sampling import equal_shares, held_out, stratified_sample
from edgeproof.errors import ConfigError, DataError, nearest
from edgeproof.plugins.parameters import read_params
from edgeproof.plugins.registry import find
from edgeproof.runs import Run, atomic
from edgeproof.system.untrusted import is_text, read_record
from edgeproof.types import Array, Images, Labels, Logits

PARTS = ("train", "validation", "calibration", "test")
_CALIBRATION_SHARE = 4  # calibration takes at most a quarter of a class, so that a rare class is still learned


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
        if self.index.shape != self.labels.shape or self.index.dtype != np.int64:
            raise DataError(
                f"{self.name}/{self.split}: index is {self.index.dtype} of shape {self.index.shape}; "
                f"expected int64 of shape {self.labels.shape}"
            )
        for name in self.classes:
            if not is_text(name):
                raise DataError(
                    f"{self.name}/{self.split}: the class name {name!a} is no Unicode text; rename the class"
                )

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

    @classmethod
    def from_arrays(
        cls, images: Array, labels: Array, *, classes: tuple[str, ...], name: str, split: str
    ) -> LabelledImages:
        """Take a split as it is published, indexed by its order.

        Args:
            images: (N, C, H, W), uint8 or float in [0, 1].
            labels: (N,) or (N, 1) integers.
            classes: The name of each class.
            name: The data set.
            split: "train" or "test".

        Raises:
            DataError: When images and labels do not fit together or are out of range.
        """
        what = f"{name}/{split}"
        if not np.issubdtype(labels.dtype, np.integer):
            raise DataError(
                f"{what}: labels are {labels.dtype} of shape {labels.shape}; expected integers of shape (N,)"
            )
        plain = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
        index = np.arange(len(images), dtype=np.int64)
        return cls(to_float(images, what=what), plain.astype(np.int64), index, classes, name, split)

    def take(self, positions: Array, *, split: str | None = None) -> LabelledImages:
        """Return the images at these positions, in this order, under the name of another split if one is given."""
        return replace(
            self,
            images=self.images[positions],
            labels=self.labels[positions],
            index=self.index[positions],
            split=split or self.split,
        )

    def head(self, limit: int | None, *, seed: int = 0) -> LabelledImages:
        """Return at most `limit` images, stratified by class, in their original order."""
        if limit is None or limit >= len(self):
            return self
        return self.take(np.sort(stratified_sample(self.labels, limit, seed=seed)))


@dataclass(frozen=True)
class Dataset:
    """A data set as it is published.

    Attributes:
        test: The test images.
        load_train: Reads the training images, or None where there are none; attacks and evaluations need not read them.
    """

    test: LabelledImages
    load_train: Callable[[], LabelledImages] | None = None

    def __post_init__(self) -> None:
        self._check(self.test)

    @cached_property
    def train(self) -> LabelledImages | None:
        """The training images, read when they are first asked for."""
        train = self.load_train() if self.load_train else None
        if train is not None:
            self._check(train)
        return train

    def _check(self, part: LabelledImages) -> None:
        if not len(part):
            raise DataError(f"{part.name}: there are no {part.split} images; expected at least one of each class")
        if part.input_shape != self.test.input_shape:
            raise DataError(
                f"{part.name}: {part.split} images are {part.input_shape} and test images {self.test.input_shape}; "
                "expected the same (C, H, W)"
            )
        if part.classes != self.test.classes:
            raise DataError(f"{part.name}: {part.split} and test images have different classes; expected the same")


@dataclass(frozen=True)
class Splits:
    """Disjoint, stratified, seeded parts of a data set; `index` of each says which images they are."""

    train: LabelledImages
    validation: LabelledImages
    calibration: LabelledImages
    test: LabelledImages

    def part(self, name: str) -> LabelledImages:
        """Return a part by its name.

        Raises:
            ConfigError: For an unknown name.
        """
        if name not in PARTS:
            raise ConfigError(f"unknown split {name!r}{nearest(name, PARTS)}; known: {', '.join(PARTS)}")
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
        clipped: Whether the images stay in [0, 1]; False only where the attack reproduces a paper that did not clip.
        access: What the attack needed of its source: "gradients", "queries", "data" or "none"; "" where not recorded.
        source_sha256: The hash of each file that was attacked: a graph or a checkpoint's weights.
        findings: Counts beyond images: "queries" (success against queries), "builds" (right in one build, wrong in another).
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
    clipped: bool = True
    access: str = ""
    source_sha256: tuple[str, ...] = ()
    findings: Mapping[str, Any] = field(default_factory=dict)

    def fields(self) -> dict[str, Any]:
        """Return what is known of the set besides its images, as `SetFields` names it."""
        return {name: getattr(self, name) for name in SetFields.model_fields}

    def __post_init__(self) -> None:
        inside = self.clipped or self.images.dtype != np.float32
        check_images(self.images if inside else np.clip(self.images, 0, 1), what=self.name)
        if self.images.shape != self.clean.images.shape:
            raise DataError(
                f"{self.name}: adversaries have shape {self.images.shape}, clean images {self.clean.images.shape}; expected equal"
            )
        for logits in (self.source_logits, self.source_clean_logits):
            if logits is None:
                continue
            if logits.shape != (len(self.clean), self.clean.num_classes) or logits.dtype.kind != "f":
                raise DataError(
                    f"{self.name}: the source's logits are {logits.dtype} of shape {logits.shape}; "
                    f"expected numbers of shape ({len(self.clean)}, {self.clean.num_classes})"
                )


def load_dataset(name: str, *, params: Mapping[str, Any] | None = None) -> Dataset:
    """Load a data set by its registry name, or `npz:PATH`, `folder:PATH` and the like.

    Args:
        name: What `list data` shows; those that read a path take it after a colon.
        params: Keyword parameters of the data set, for instance the test fraction of `folder:PATH`.

    Raises:
        ConfigError: For an unknown name or parameter.
        DataError: When its files are missing or not what they should be.
    """
    kind, colon, path = name.partition(":")
    entry = find("data", kind)
    takes_path = bool(entry.options.get("path"))
    if takes_path != bool(path) or takes_path != bool(colon):
        raise ConfigError(f"data set {name!r}: expected {f'{kind}:PATH' if takes_path else kind}")
    args = (Path(path),) if takes_path else ()
    dataset = entry.load()(*args, **read_params(entry, params or {}))
    if not isinstance(dataset, Dataset):
        raise DataError(f"data set {name!r} returned a {type(dataset).__name__}; expected a Dataset")
    return dataset


def load_splits(config: DataConfig) -> Splits:
    """Load the data set of a configuration and split it as the configuration says.

    Raises:
        ConfigError: For an unknown name.
        DataError: When the data cannot be used, or a class is too small for the split.
    """
    return split_dataset(
        load_dataset(config.name, params=config.params),
        seed=config.split_seed,
        validation=config.validation,
        calibration=config.calibration,
        limit_train=config.limit_train,
        imbalance=config.imbalance,
    )


def load_part(config: DataConfig, part: str) -> LabelledImages:
    """Load one part of the data set of a configuration; the test images without reading or splitting the others.

    The part "all" is for data sets that can be taken undivided, such as a folder that has no test/ of its own.

    Raises:
        ConfigError: For an unknown name.
        DataError: When the data cannot be used, or a class is too small for the split.
    """
    if part == "all":
        return load_dataset(config.name, params={**config.params, "split": "all"}).test
    return load_dataset(config.name, params=config.params).test if part == "test" else load_splits(config).part(part)


def split_dataset(
    dataset: Dataset,
    *,
    seed: int,
    validation: float,
    calibration: int,
    limit_train: int | None = None,
    imbalance: str | None = None,
) -> Splits:
    """Split the training images into disjoint train, validation and calibration parts; the test images stay whole.

    Args:
        dataset: The data set. One without training images gives empty parts.
        seed: Seed of the split; the same seed gives the same indices.
        validation: Share of each class of the training images held out, at least one image.
        calibration: Number of training images held out, as equal per class as the data allow: at least one and at most
            a quarter of a class, so that fewer are held out where the data are few.
        limit_train: Use at most so many of the training images, stratified.
        imbalance: Keep other numbers of each class of these, as `data.imbalance` reads it; every part is imbalanced alike.

    Raises:
        DataError: When a class has too few images to appear in each part that is asked for.
    """
    if dataset.train is None:
        none = np.empty(0, np.int64)
        train, validated, calibrated = (dataset.test.take(none, split=part) for part in PARTS[:3])
        return Splits(train=train, validation=validated, calibration=calibrated, test=dataset.test)
    pool = _pool(dataset.train, limit_train, imbalance, seed=seed)
    classes, sizes = np.unique(pool.labels, return_counts=True)
    _check_class_sizes(dataset.train, pool, wanted=1 + (validation > 0) + (calibration > 0))
    shares = equal_shares(np.maximum(sizes // _CALIBRATION_SHARE, 1), calibration)
    held = np.minimum(held_out(sizes, validation), sizes - shares - 1) if validation > 0 else np.zeros_like(sizes)
    random = np.random.default_rng([seed, 2])
    rows: list[list[Array]] = [
        np.split(random.permutation(np.flatnonzero(pool.labels == label)), [share, share + hold])
        for label, share, hold in zip(classes, shares, held, strict=True)
    ]
    calibrated, validated, train = (
        pool.take(np.sort(np.concatenate(part)), split=name)
        for part, name in zip(zip(*rows, strict=True), ("calibration", "validation", "train"), strict=True)
    )
    return Splits(train=train, validation=validated, calibration=calibrated, test=dataset.test)


def _pool(train: LabelledImages, limit: int | None, imbalance: str | None, *, seed: int) -> LabelledImages:
    from edgeproof.data.imbalance import imbalanced  # it is made of LabelledImages

    pool = train.head(limit, seed=seed)
    return pool if imbalance is None else imbalanced(pool, imbalance, seed=seed)


def _check_class_sizes(whole: LabelledImages, pool: LabelledImages, *, wanted: int) -> None:
    had, has = (np.bincount(part.labels, minlength=part.num_classes) for part in (whole, pool))
    for label in np.flatnonzero((had > 0) & (has < wanted)):
        raise DataError(
            f"{pool.name}: class {pool.classes[label]!r} has {has[label]} training images; expected at least {wanted}, "
            "one for each of train, validation and calibration that is asked for; add images or raise limit_train"
        )


def save_adversarial_set(run: Run, adversaries: AdversarialSet) -> None:
    """Write `adversaries.npz`, `clean.npz` and `set.json` into an attack run that is being written."""
    clean = adversaries.clean
    logits = {} if adversaries.source_logits is None else {"logits": adversaries.source_logits}
    clean_logits = {} if adversaries.source_clean_logits is None else {"logits": adversaries.source_clean_logits}
    stored = to_storage(adversaries.images) if adversaries.clipped else adversaries.images
    write_npz(run.path / "adversaries.npz", {"x_adv": stored, "y": clean.labels, "index": clean.index, **logits})
    write_npz(
        run.path / "clean.npz", {"x": to_storage(clean.images), "y": clean.labels, "index": clean.index, **clean_logits}
    )
    about = SetAbout(
        **adversaries.fields(), classes=clean.classes, data=clean.name, split=clean.split, clipped=adversaries.clipped
    )
    with atomic(run.path / "set.json") as temporary:
        temporary.write_text(
            json.dumps(about.model_dump(mode="json"), indent=1, allow_nan=False) + "\n", encoding="utf-8"
        )


def load_adversarial_set(run: Run) -> AdversarialSet:
    """Read the adversarial set of a finished attack run; hashes are verified.

    Raises:
        RunError: For a changed or missing file.
        DataError: For arrays that do not fit together.
    """
    about = read_record(run.file("set.json"), SetAbout)
    attacked = read_npz(run.file("adversaries.npz"), required=("x_adv", "y", "index"))
    original = read_npz(run.file("clean.npz"), required=("x", "y", "index"))
    if not (np.array_equal(attacked["y"], original["y"]) and np.array_equal(attacked["index"], original["index"])):
        raise DataError(f"{run.path}: adversaries and clean images are not of the same samples; repeat the attack")
    clean = LabelledImages(
        images=to_float(original["x"], what=f"{run.path}/clean.npz"),
        labels=original["y"],
        index=original["index"],
        classes=about.classes,
        name=about.data,
        split=about.split,
    )
    images = to_float(attacked["x_adv"], what=f"{run.path}/adversaries.npz") if about.clipped else attacked["x_adv"]
    return AdversarialSet(
        images=images,
        clean=clean,
        source_logits=attacked.get("logits"),
        source_clean_logits=original.get("logits"),
        **about.model_dump(exclude={"classes", "data", "split"}),
    )

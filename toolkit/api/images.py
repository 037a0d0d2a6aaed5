"""Labelled images as one object: a data set by its name, files, or arrays."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np

from edgeproof.config import DataConfig, build_config
from edgeproof.config.names import IN_MEMORY
from edgeproof.data.arrays import to_float
from edgeproof.data.base import PARTS, LabelledImages, load_part
from edgeproof.data.npz import read_classes, to_nchw
from edgeproof.errors import ConfigError, DataError, nearest
from edgeproof.types import Array, Labels
from edgeproof.types import Images as Pixels


class Images:
    """Labelled images, read when they are first looked at; `images` makes it.

    Attributes:
        config: The data set and how it is split, or None for arrays.
        split: "test", "train", "validation" or "calibration".
        limit: At most so many of them, stratified by class.
        seed: Of that choice.
    """

    def __init__(
        self,
        config: DataConfig | None,
        *,
        split: str,
        limit: int | None,
        seed: int,
        arrays: LabelledImages | None = None,
    ) -> None:
        self.config = config
        self.split = split
        self.limit = limit
        self.seed = seed
        self._arrays = arrays

    @cached_property
    def data(self) -> LabelledImages:
        """The images with their labels, class names and positions in the data set.

        Raises:
            DataError: When they cannot be read, or there are none.
        """
        if self._arrays is None and self.config is None:
            raise ConfigError("there are neither arrays nor a data set; make it with images(...)")
        whole = self._arrays if self.config is None else load_part(self.config, self.split)
        if whole is None or not len(whole):
            raise DataError(f"the {self.split} split of {self.name} is empty; choose another part")
        return whole.head(self.limit, seed=self.seed)

    @property
    def name(self) -> str:
        """The data set."""
        return self.config.name if self.config else self._arrays.name if self._arrays else ""

    @property
    def images(self) -> Pixels:
        """(N, C, H, W) float32 in [0, 1]."""
        return self.data.images

    @property
    def labels(self) -> Labels:
        """(N,) int64, indices into `classes`."""
        return self.data.labels

    @property
    def classes(self) -> tuple[str, ...]:
        """The name of each class."""
        return self.data.classes

    def text(self, *, seed: int) -> str:
        """Return how the command line names the data set, or "in memory: NAME" where these images are not what it would take.

        Args:
            seed: By which the command line chooses where there is a limit.
        """
        plain = self.config is not None and self.config == DataConfig(name=self.config.name)
        return self.name if plain and (self.limit is None or self.seed == seed) else f"{IN_MEMORY}{self.name}"

    def part(self, name: str) -> Images:
        """Return another part of the same data set, with the same limit: train, validation, calibration or test.

        Raises:
            ConfigError: For an unknown part, or arrays, which have one part only.
        """
        if name not in PARTS:
            raise ConfigError(f"unknown part {name!r}{nearest(name, PARTS)}; known: {', '.join(PARTS)}")
        if self.config is None and name != self.split:
            raise ConfigError(f"arrays have no {name!r} part; give images(x, y) of those images instead")
        return Images(self.config, split=name, limit=self.limit, seed=self.seed, arrays=self._arrays)

    def __len__(self) -> int:
        return len(self.data)

    def __repr__(self) -> str:
        return f"Images({self.name}/{self.split}{'' if self.limit is None else f', at most {self.limit}'})"


#: What stands for images: `images` makes it, or the source of a data set.
ImagesLike: TypeAlias = "Images | str"


def images(
    source: str | Array | LabelledImages,
    labels: Sequence[int] | Array | None = None,
    *,
    classes: Sequence[str] | None = None,
    split: str = "test",
    limit: int | None = None,
    seed: int = 0,
    name: str = "arrays",
    **options: Any,
) -> Images:
    """Choose labelled images; a data set is read when its images are first looked at.

    Args:
        source: A data set that `edgeproof list data` shows, `folder:PATH`, `npz:PATH`; or an array (N, C, H, W) of uint8 or of
            floats in [0, 1], or (N, H, W, C) of uint8.
        labels: (N,) whole numbers, with an array.
        classes: The name of each class of an array (default: "0", "1", ...).
        split: Which part of a data set: test, train, validation or calibration.
        limit: At most so many, stratified by class.
        seed: Of that choice.
        name: What tables call an array.
        **options: How a data set is split, as `train` takes it: params, split_seed, validation, calibration, limit_train, imbalance.

    Raises:
        ConfigError: For an unknown part or option.
        DataError: For arrays that are no images and labels.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"limit = {limit}; expected at least one image, or None for all")
    if isinstance(source, str):
        if labels is not None or classes is not None:
            raise ConfigError(
                f"{source!r} is a data set, which has labels and classes of its own; leave labels and classes out"
            )
        config = build_config(DataConfig, options={"name": source, **options})
        return Images(config, split="test", limit=limit, seed=seed).part(split)
    if options:
        raise ConfigError(f"{next(iter(options))} is for data sets; these are arrays: leave it out")
    if isinstance(source, LabelledImages):
        return Images(None, split=source.split, limit=limit, seed=seed, arrays=source)
    if labels is None:
        raise DataError("an array needs labels: images(x, y), y of shape (N,)")
    x, y = np.asarray(source), np.asarray(labels)
    what = f"{name}/{split}"
    names = {} if classes is None else {"classes": np.array([str(word) for word in classes])}
    pixels = to_float(to_nchw(x, what=what), what=what)
    known, first = read_classes(names, labels=y, what=what)
    arrays = LabelledImages.from_arrays(pixels, y - first if first else y, classes=known, name=name, split=split)
    return Images(None, split=split, limit=limit, seed=seed, arrays=arrays)


def as_images(like: ImagesLike) -> Images:
    """Return the images that something stands for.

    Raises:
        ConfigError: For what stands for none.
    """
    if isinstance(like, Images):
        return like
    if isinstance(like, str):
        return images(like)
    raise ConfigError(
        f"{type(like).__name__} is no set of images; give what images(...) returns, or the name of a data set"
    )

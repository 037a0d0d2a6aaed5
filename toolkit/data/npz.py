"""A user's own images in one npz file."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from edgeproof.data.arrays import read_npz
from edgeproof.data.base import Dataset, LabelledImages
from edgeproof.data.source import MAX_CLASSES, parsing
from edgeproof.errors import DataError, one_line
from edgeproof.plugins.registry import register
from edgeproof.types import Array

LOG = logging.getLogger(__name__)
_CHANNELS = (1, 3)


@register("npz", path=True)
def npz(path: Path) -> Dataset:
    """Images from one npz: x_train y_train x_test y_test, or only x_test y_test; `classes` names the classes.

    Images are uint8 (N, H, W, C), (N, C, H, W) or (N, H, W), or float (N, C, H, W) or (N, H, W) in [0, 1].

    Raises:
        DataError: When it lacks an array, or images and labels are not as described.
    """
    arrays = read_npz(path, required=("x_test", "y_test"))
    if ("x_train" in arrays) != ("y_train" in arrays):
        raise DataError(f"{path} has only one of x_train and y_train; expected both or neither")
    parts = [part for part in ("train", "test") if f"x_{part}" in arrays]
    labels = [_whole_numbers(arrays[f"y_{part}"], what=f"{path}: y_{part}") for part in parts]
    classes, first = read_classes(arrays, labels=np.concatenate(labels), what=str(path))

    def read(part: str) -> LabelledImages:
        return LabelledImages.from_arrays(
            to_nchw(arrays[f"x_{part}"], what=f"{path}: x_{part}"),
            arrays[f"y_{part}"].astype(np.int64) - first,
            classes=classes,
            name=f"npz:{path.name}",
            split=part,
        )

    return Dataset(read("test"), partial(read, "train") if "train" in parts else None)


def to_nchw(images: Array, *, what: str) -> Array:
    """Bring images into the order (N, C, H, W); the type and the values stay.

    Args:
        images: As the data set `npz` describes them.
        what: The array, for messages.

    Raises:
        DataError: When the layout is none of these, or could be two of them.
    """
    if images.ndim == 3:
        return images[:, None]
    if images.ndim != 4:
        raise DataError(f"{what} has shape {images.shape}; expected (N, H, W, C), (N, C, H, W) or (N, H, W)")
    first, last = images.shape[1] in _CHANNELS, images.shape[3] in _CHANNELS
    if images.dtype != np.uint8:
        if last and not first:
            raise DataError(f"{what} is {images.dtype} of shape {images.shape}; expected (N, C, H, W): transpose it")
        return images
    if not first and not last:
        raise DataError(f"{what} has shape {images.shape}; expected 1 or 3 channels on the second or the last axis")
    if first and last:
        raise DataError(
            f"{what}: the layout of shape {images.shape} is ambiguous, (N, C, H, W) or (N, H, W, C); "
            "store float32 in [0, 1], which is always (N, C, H, W)"
        )
    return images if first else images.transpose(0, 3, 1, 2)


def read_classes(arrays: Mapping[str, Array], *, labels: Array, what: str) -> tuple[tuple[str, ...], int]:
    """Return the names in the array `classes`, or "0", "1", ... up to the largest label, and the label of the first class.

    Labels that count from 1 are said in one line, as are classes without an image where there are no names.

    Raises:
        DataError: When `classes` is not a row of names, or there are no labels.
    """
    if "classes" in arrays:
        if arrays["classes"].ndim != 1 or len(arrays["classes"]) > MAX_CLASSES:
            raise DataError(
                f"{what}: classes has shape {arrays['classes'].shape}; expected (K,) names, at most {MAX_CLASSES}"
            )
        with parsing(what, kind="class names"):  # text in a file may hold numbers that are no character
            names = tuple(str(name) for name in arrays["classes"])
        # A label of K is no position among K classes, so that labels from 1 to K can only be counted from 1.
        if labels.size and np.issubdtype(labels.dtype, np.integer) and labels.min() >= 1 and labels.max() == len(names):
            LOG.info(one_line(f"edgeproof: {what}: labels are counted from 1: label 1 is {names[0]!r}"))
            return names, 1
        return names, 0
    if not labels.size or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"{what}: labels are {labels.dtype} of shape {labels.shape}; expected one integer an image")
    if labels.max() >= MAX_CLASSES:
        raise DataError(f"{what}: a label is {labels.max()}; expected less than {MAX_CLASSES}")
    first = 1 if labels.min() == 1 else 0
    known = tuple(str(label) for label in range(first, int(labels.max()) + 1))
    if first:
        LOG.info(
            f"edgeproof: {what}: labels are counted from 1: class '1' is the first of {len(known)}, and there is no class '0'"
        )
    elif empty := sorted(set(known) - set(map(str, np.unique(labels).tolist())), key=int):
        more = f" and {len(empty) - 1} more" if len(empty) > 1 else ""
        LOG.info(f"edgeproof: {what}: no image has the label {empty[0]}{more}, which is a class all the same")
    return known, first


def _whole_numbers(labels: Array, *, what: str) -> Array:
    if not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"{what}: labels are {labels.dtype} of shape {labels.shape}; expected one integer an image")
    return labels.ravel().astype(np.int64)

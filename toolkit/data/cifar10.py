"""CIFAR-10: the official binary version, the official Python version, and Parquet as dataset hubs publish it."""

from __future__ import annotations

import gzip
import tarfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, cast

import numpy as np

from edgeproof.data.base import Dataset, LabelledImages
from edgeproof.data.parquet import read_parquet
from edgeproof.data.pickles import read_pickled_dict
from edgeproof.data.source import LimitedReader, RemoteFile, find_dataset, parsing
from edgeproof.errors import DataError
from edgeproof.plugins.registry import register
from edgeproof.types import Array

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_BATCHES = {"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",)}
_SHAPE = (3, 32, 32)
_PIXELS = 3 * 32 * 32
_MAX_BATCH_BYTES = 2**26  # the official ones are 31 MB
_MAX_ARCHIVE_BYTES = 2**29  # the official ones unpack to 186 MB
_MAX_MEMBERS = 100
_BINARY = ("", "cifar-10-batches-bin", "cifar-10-binary.tar.gz")
_PYTHON = ("", "cifar-10-batches-py", "cifar-10-python.tar.gz")
_PARQUET = ("", "data", "plain_text")
_FILES = (
    RemoteFile(
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        170_052_171,
    ),
)


@register("cifar10")
def cifar10() -> Dataset:
    """Small photographs of ten kinds of things, 50,000 + 10,000, 3x32x32 (Krizhevsky, 2009).

    Of several forms in the folder, the original pixels come first: binary, then Python, then Parquet. Images that are
    JPEG copies give the data set the name "cifar10 (JPEG)", since a network does not score the same on them.

    Raises:
        DataError: When the files are missing and cannot be fetched, or are not what they should be.
    """
    folder = find_dataset("cifar10", complete=lambda folder: _form(folder) is not None, remote=_FILES)
    return Dataset(read_cifar10(folder, "test"), partial(read_cifar10, folder, "train"))


def read_cifar10(folder: Path, split: str) -> LabelledImages:
    """Read one split from a folder that holds CIFAR-10 in any of its forms.

    Raises:
        DataError: When there is none, or its files are damaged.
    """
    form = _form(folder)
    if form is None:
        raise DataError(f"{folder} does not hold CIFAR-10; put cifar-10-binary.tar.gz there")
    kind, place = form
    name = "cifar10"
    if kind == "parquet":
        images, labels, jpeg = read_parquet(_shards(place, split))
        name = "cifar10 (JPEG)" if jpeg else name
    else:
        images, labels = _read_batches(place, _BATCHES[split], binary=kind == "binary")
    if images.shape[1:] != _SHAPE:
        raise DataError(f"{place}: images are {images.shape[1:]}; expected {_SHAPE}")
    return LabelledImages.from_arrays(images, labels, classes=CLASSES, name=name, split=split)


def _form(folder: Path) -> tuple[str, Path] | None:
    """Return the first form of the data set that a folder holds, and where."""
    names = [name for batches in _BATCHES.values() for name in batches]
    for kind, places, suffix in (("binary", _BINARY, ".bin"), ("python", _PYTHON, "")):
        for place in (folder / name for name in places):
            if place.is_file() or all((place / f"{name}{suffix}").is_file() for name in names):
                return kind, place
    for place in (folder / name for name in _PARQUET):
        if all(_shards(place, split) for split in _BATCHES):
            return "parquet", place
    return None


def _shards(folder: Path, split: str) -> list[Path]:
    return sorted(folder.glob(f"{split}-*.parquet"))


def _read_batches(place: Path, names: Sequence[str], *, binary: bool) -> tuple[Array, Array]:
    """Return images (N, 3, 32, 32) uint8 and labels (N,)."""
    files = _read_files(place, [f"{name}.bin" for name in names] if binary else names)
    decode = _decode_binary if binary else _decode_python
    batches = [decode(data, what=f"{place}/{name}") for name, data in files.items()]
    pixels = np.concatenate([images for images, _ in batches])
    return pixels.reshape(-1, *_SHAPE), np.concatenate([labels for _, labels in batches])


def _read_files(place: Path, names: Sequence[str]) -> dict[str, bytes]:
    """Return the contents of the named files of a folder or a tar archive, in that order."""
    if place.is_dir():
        sizes = {name: (place / name).stat().st_size for name in names}
        _check_sizes(place, sizes)
        return {name: (place / name).read_bytes() for name in names}
    found: dict[str, bytes] = {}
    with (
        parsing(str(place), kind="a tar archive"),
        gzip.open(place) as unpacked,
        tarfile.open(
            fileobj=cast("IO[bytes]", LimitedReader(unpacked, _MAX_ARCHIVE_BYTES, what=str(place))), mode="r:"
        ) as archive,
    ):
        for number, member in enumerate(archive):
            if number > _MAX_MEMBERS:
                raise DataError(f"{place} has more than {_MAX_MEMBERS} members; expected {len(names)} batches")
            _check_sizes(place, {member.name: member.size})
            name = PurePosixPath(member.name).name
            content = archive.extractfile(member) if member.isreg() and name in names else None
            if content is not None:
                found[name] = content.read()
            if len(found) == len(names):
                return {name: found[name] for name in names}
    missing = next(name for name in names if name not in found)
    raise DataError(f"{place} holds no {missing}; fetch it again")


def _check_sizes(place: Path, sizes: Mapping[str, int]) -> None:
    for name, size in sizes.items():
        if size > _MAX_BATCH_BYTES:
            raise DataError(f"{place}: {name} has {size} bytes; expected at most {_MAX_BATCH_BYTES}")


def _decode_binary(data: bytes, *, what: str) -> tuple[Array, Array]:
    """Split records of a label byte and 3,072 pixel bytes."""
    if not data or len(data) % (1 + _PIXELS):
        raise DataError(f"{what} has {len(data)} bytes; expected a multiple of {1 + _PIXELS}; fetch it again")
    records = np.frombuffer(data, np.uint8).reshape(-1, 1 + _PIXELS)
    return records[:, 1:], records[:, 0]


def _decode_python(data: bytes, *, what: str) -> tuple[Array, Array]:
    """Take the pixels and labels out of a pickled dictionary."""
    batch = read_pickled_dict(data, what=what)
    pixels, labels = batch.get("data"), batch.get("labels")
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != _PIXELS:
        raise DataError(f"{what}: 'data' is not a uint8 array of shape (N, {_PIXELS}); fetch it again")
    if not isinstance(labels, list) or not all(isinstance(label, int) for label in labels):
        raise DataError(f"{what}: 'labels' is not a list of integers; fetch it again")
    return pixels, np.array(labels, np.int64)

"""MNIST and Fashion-MNIST: the official four IDX files, compressed with gzip or unpacked."""

from __future__ import annotations

import gzip
import math
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from edgeproof.data.base import Dataset, LabelledImages
from edgeproof.data.source import RemoteFile, find_dataset, parsing, read_exactly
from edgeproof.errors import DataError
from edgeproof.plugins.registry import register
from edgeproof.types import Array

_STEMS = {"train": "train", "test": "t10k"}
_UNSIGNED_BYTES = 0x08  # IDX's code for the type of the elements
_MNIST_PLACE = "https://ossci-datasets.s3.amazonaws.com/mnist"  # the authors' own server has closed
_MNIST_FILES = tuple(
    RemoteFile(f"{_MNIST_PLACE}/{name}", sha256, size)
    for name, sha256, size in (
        ("train-images-idx3-ubyte.gz", "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609", 9_912_422),
        ("train-labels-idx1-ubyte.gz", "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c", 28_881),
        ("t10k-images-idx3-ubyte.gz", "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6", 1_648_877),
        ("t10k-labels-idx1-ubyte.gz", "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6", 4_542),
    )
)
_FASHION_PLACE = "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion"
_FASHION_FILES = tuple(
    RemoteFile(f"{_FASHION_PLACE}/{name}", sha256, size)
    for name, sha256, size in (
        ("train-images-idx3-ubyte.gz", "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84", 26_421_880),
        ("train-labels-idx1-ubyte.gz", "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845", 29_515),
        ("t10k-images-idx3-ubyte.gz", "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073", 4_422_102),
        ("t10k-labels-idx1-ubyte.gz", "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5", 5_148),
    )
)
_DIGITS = tuple("0123456789")
_GARMENTS = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


@register("mnist")
def mnist() -> Dataset:
    """Handwritten digits, 60,000 + 10,000, 1x28x28 (LeCun et al., 1998).

    Raises:
        DataError: When the files are missing and cannot be fetched, or are not what they should be.
    """
    folder = find_dataset("mnist", complete=_complete, remote=_MNIST_FILES)
    read = partial(read_idx_split, folder, name="mnist", classes=_DIGITS)
    return Dataset(read("test"), partial(read, "train"))


@register("fashion-mnist")
def fashion_mnist() -> Dataset:
    """Photographs of clothing, 60,000 + 10,000, 1x28x28 (Xiao et al., 2017, arXiv:1708.07747).

    Raises:
        DataError: When the files are missing and cannot be fetched, or are not what they should be.
    """
    folder = find_dataset("fashion-mnist", complete=_complete, remote=_FASHION_FILES)
    read = partial(read_idx_split, folder, name="fashion-mnist", classes=_GARMENTS)
    return Dataset(read("test"), partial(read, "train"))


def read_idx_split(folder: Path, split: str, *, name: str, classes: tuple[str, ...]) -> LabelledImages:
    """Read the images and labels of one split from its two IDX files.

    Raises:
        DataError: When a file is damaged or the two do not fit together.
    """
    images = read_idx(_file(folder, f"{_STEMS[split]}-images-idx3-ubyte"), ndim=3)
    labels = read_idx(_file(folder, f"{_STEMS[split]}-labels-idx1-ubyte"), ndim=1)
    return LabelledImages.from_arrays(images[:, None], labels, classes=classes, name=name, split=split)


def read_idx(path: Path, *, ndim: int) -> Array:
    """Read an IDX file of unsigned bytes, compressed when its name ends in `.gz`.

    Args:
        path: The file.
        ndim: Number of dimensions that it must have.

    Returns:
        A uint8 array of `ndim` dimensions.

    Raises:
        DataError: When it is not such a file, is truncated, goes on too long or asks for absurdly much.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    with parsing(str(path), kind="an IDX file"), opener(path, "rb") as file:
        header = file.read(4 + 4 * ndim)
        if len(header) < 4 + 4 * ndim or header[:4] != bytes([0, 0, _UNSIGNED_BYTES, ndim]):
            raise DataError(
                f"{path} begins with {header[:4].hex() or 'nothing'}; "
                f"expected 000008{ndim:02x}, an IDX file of unsigned bytes with {ndim} dimension(s)"
            )
        shape = [int(size) for size in np.frombuffer(header, ">u4", offset=4)]
        data = read_exactly(cast(BinaryIO, file), math.prod(shape), what=str(path))
        return np.frombuffer(data, np.uint8).reshape(shape)


def _complete(folder: Path) -> bool:
    stems = [f"{stem}-{part}" for stem in _STEMS.values() for part in ("images-idx3-ubyte", "labels-idx1-ubyte")]
    return all(_file(folder, stem).is_file() for stem in stems)


def _file(folder: Path, stem: str) -> Path:
    unpacked = folder / stem
    return unpacked if unpacked.is_file() else folder / f"{stem}.gz"

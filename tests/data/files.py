"""Tiny data sets in the official formats, written from arrays by code that shares nothing with the readers."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from edgeproof.data.base import LabelledImages
from edgeproof.errors import DataError
from edgeproof.types import Array


def pixels(count: int, shape: tuple[int, ...] = (3, 32, 32), *, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def labelled(sizes: Sequence[int], *, shape: tuple[int, int, int] = (1, 4, 4), split: str = "train") -> LabelledImages:
    """Random images, so many of each class, in a mixed order."""
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(len(sizes)), sizes))
    classes = tuple(f"c{label}" for label in range(len(sizes)))
    return LabelledImages.from_arrays(pixels(len(labels), shape), labels, classes=classes, name="toy", split=split)


def idx_bytes(array: Array) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def write_mnist(folder: Path, *, packed: bool = True) -> dict[str, tuple[Array, Array]]:
    """Write the four files with 12 training and 10 test images of 28x28; return what they hold."""
    folder.mkdir(parents=True)
    held = {}
    for split, stem, count in (("train", "train", 12), ("test", "t10k", 10)):
        images, labels = pixels(count, (28, 28), seed=count), np.arange(count) % 10
        for name, array in ((f"{stem}-images-idx3-ubyte", images), (f"{stem}-labels-idx1-ubyte", labels)):
            data = idx_bytes(array)
            if packed:
                (folder / f"{name}.gz").write_bytes(gzip.compress(data))
            else:
                (folder / name).write_bytes(data)
        held[split] = (images, labels)
    return held


def cifar_batches() -> dict[str, tuple[Array, Array]]:
    """Return the six official batches with four images each."""
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    return {name: (pixels(4, seed=seed), np.arange(seed, seed + 4) % 10) for seed, name in enumerate(names)}


def cifar_binary(images: Array, labels: Array) -> bytes:
    return b"".join(bytes([label]) + image.tobytes() for image, label in zip(images, labels, strict=True))


def cifar_pickle(images: Array, labels: Array) -> bytes:
    """Write a batch as Python 2 did: protocol 2, text as byte strings, a NumPy array in NumPy's old module."""
    count = len(images)
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x04cnumpy\nndarray\nq\x05K\x00\x85q\x06U\x01bq\x07\x87q\x08Rq\x09"
        + (b"(K\x01J" + struct.pack("<i", count) + b"J" + struct.pack("<i", images[0].size) + b"\x86q\x0a")
        + b"cnumpy\ndtype\nq\x0bU\x02u1q\x0cK\x00K\x01\x87q\x0dRq\x0e"
        + b"(K\x03U\x01|q\x0fNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x10b"
        + (b"\x89T" + struct.pack("<i", images.size) + images.tobytes() + b"q\x11tq\x12b")
    )
    numbers = b"".join(b"K" + bytes([label]) for label in labels)
    return (
        b"\x80\x02}q\x01(U\x0bbatch_labelq\x02U\x06a test"
        + (b"U\x04dataq\x03" + array)
        + (b"U\x06labelsq\x13]q\x14(" + numbers + b"eu.")
    )


def refusal(read: Callable[[], object]) -> str:
    """Return the line with which a reader refuses a file, or "" when it reads it."""
    try:
        read()
    except DataError as error:
        return str(error)
    return ""


def write_tar(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def encode(image: Array, *, kind: str = "PNG") -> bytes:
    """Encode a (C, H, W) or (H, W) uint8 image."""
    buffer = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0) if image.ndim == 3 else image).save(buffer, kind)
    return buffer.getvalue()


def write_image(path: Path, image: Array, *, kind: str = "PNG") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(image, kind=kind))

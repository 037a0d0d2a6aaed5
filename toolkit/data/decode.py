"""Encoded images to arrays, many at a time and without trusting them."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from edgeproof.data.source import MAX_BYTES, MAX_PIXELS, parsing
from edgeproof.errors import DataError
from edgeproof.system.environment import usable_cores
from edgeproof.types import Array

_IMAGES_A_TASK = 256
_THREADED_BYTES = 2**16  # below it, threads wait for each other's Python more than they decode beside each other
_GREY = ("1", "L")
_COLOUR = ("RGB", "P")
#: What is read, by content. Of what else Pillow knows, much is written for documents and printers.
_FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "TIFF", "BMP", "GIF", "PPM")
#: A file of one of these endings is meant to be an image: damaged, it is refused and not left out.
ENDINGS = (
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".pgm", ".ppm",
)  # fmt: skip


def decode_images(encoded: Sequence[bytes | Path], *, name: Callable[[int], str]) -> Array:
    """Decode images of one size: PNG, JPEG, WebP, AVIF, TIFF, BMP, GIF, PGM or PPM, whatever their names say.

    Args:
        encoded: The images, as bytes or files.
        name: What to call the image at a position in a message.

    Returns:
        (N, C, H, W) uint8; C is 1 where all are grey and 3 where all are in colour.

    Raises:
        DataError: For an image that cannot be read, or is unlike the first in size or channels.
    """
    first = _decode(encoded[0], name=name(0))
    if first.nbytes * len(encoded) > MAX_BYTES:
        raise DataError(
            f"{name(0)} and {len(encoded) - 1} more of {first.shape} are over the limit of {MAX_BYTES} bytes"
        )
    images = np.empty((len(encoded), *first.shape), np.uint8)

    def fill(start: int) -> None:
        for position in range(start, min(start + _IMAGES_A_TASK, len(encoded))):
            image = _decode(encoded[position], name=name(position))
            if image.shape != first.shape:
                raise DataError(
                    f"{name(position)} is {image.shape} and {name(0)} is {first.shape}; expected one (C, H, W): "
                    "resize the images, or make them all grey or all colour"
                )
            images[position] = image

    workers = usable_cores() if first.nbytes >= _THREADED_BYTES else 1
    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(fill, range(0, len(encoded), _IMAGES_A_TASK)):
            pass  # the loop raises what a task has raised, the first image's error first
    return images


def _readable() -> list[str]:
    Image.init()  # an older Pillow has no AVIF
    return [name for name in _FORMATS if name in Image.OPEN]


def holds_image(path: Path) -> bool:
    """Return whether a file begins as an image that can be read here; nothing is decoded."""
    try:
        with Image.open(path, formats=_readable()):
            return True
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False


def _decode(source: bytes | Path, *, name: str) -> Array:
    """Return one image as (C, H, W) uint8."""
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    start = source[:12] if isinstance(source, bytes) else _start(source)
    if start[4:8] == b"ftyp" and start[8:12] in (b"heic", b"heix", b"hevc", b"mif1", b"msf1"):
        raise DataError(f"{name} is a HEIC image, which is not read here; convert it to PNG or JPEG")
    with parsing(name, kind="an image"), Image.open(file, formats=_readable()) as image:
        if image.width * image.height > MAX_PIXELS:
            raise DataError(f"{name} has {image.width}x{image.height} pixels; expected at most {MAX_PIXELS} in all")
        if (
            frames := getattr(image, "n_frames", 1)
        ) > 1 and image.format != "MPO":  # a camera's MPO has a preview behind it
            raise DataError(f"{name} is {image.format} of {frames} images; expected one: save the one that is meant")
        if image.mode not in (*_GREY, *_COLOUR) or "transparency" in image.info:
            raise DataError(f"{name} has mode {image.mode} or transparency; expected 8-bit grey or RGB: convert it")
        plain = image if image.mode in ("L", "RGB") else image.convert("L" if image.mode in _GREY else "RGB")
        # np.asarray(image) gives the same array in three times the time, which small images feel.
        pixels = np.frombuffer(plain.tobytes(), np.uint8).reshape(plain.height, plain.width, -1)
    return pixels.transpose(2, 0, 1)


def _start(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(12)
    except OSError:  # which is said where it is opened as an image
        return b""

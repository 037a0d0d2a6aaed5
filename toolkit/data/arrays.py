"""Image and label arrays, checked and converted, and the npz files that hold them.

An npz that is read is not trusted: it holds plain arrays only and nothing in it is executed. Equal arrays give equal bytes.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from edgeproof.data.source import MAX_BYTES, check_ordinary, parsing
from edgeproof.errors import DataError
from edgeproof.runs import atomic
from edgeproof.types import Array, Images

_TOLERANCE = 1e-6  # float rounding of other tools may leave [0, 1] by so much; it is clipped
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_COMPRESSION = 1  # level 6 takes twice as long on float adversaries and saves a tenth


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
            hint = "; divide 0..255 pixels by 255" if low >= 0 else "; normalisation belongs inside the model"
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
        scaled = images.astype(np.float32)
        scaled /= np.float32(255)
        return scaled
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


def write_npz(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write arrays atomically as compressed npz; equal arrays give equal bytes.

    Raises:
        RunError: When the file cannot be written.
    """
    options: Any = {"compression": zipfile.ZIP_DEFLATED, "compresslevel": _COMPRESSION}
    with atomic(path) as temporary, zipfile.ZipFile(temporary, "w", **options) as archive:
        for name, array in arrays.items():
            # A member opened by name is dated 1980, so that the bytes do not depend on the clock.
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)


def read_npz(path: Path, *, required: tuple[str, ...] = ()) -> dict[str, Array]:
    """Read an npz without executing anything in it.

    Raises:
        DataError: When it is not an npz, holds pickled objects, is absurdly large or lacks an array.
    """
    check_ordinary(path)
    with parsing(str(path), kind="an npz of plain arrays"), zipfile.ZipFile(path) as archive:
        members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
        size = sum(member.file_size for member in members)
        if size > MAX_BYTES:
            raise DataError(f"{path} would unpack to {size} bytes; the limit is {MAX_BYTES}")
        arrays = {member.filename.removesuffix(".npy"): _read_member(archive, member) for member in members}
    missing = [name for name in required if name not in arrays]
    if missing:
        raise DataError(f"{path} has no array {missing[0]!r}; it has: {', '.join(arrays) or 'nothing'}")
    return arrays


def read_npy(path: Path) -> Array:
    """Read an npy file without executing anything in it.

    Raises:
        DataError: When it is not one, holds pickled objects, or claims more than it holds.
    """
    check_ordinary(path)
    with parsing(str(path), kind="an npy array"), path.open("rb") as file:
        _check_header(file, path.stat().st_size)
        file.seek(0)
        array: Array = np.lib.format.read_array(file, allow_pickle=False)
    return array


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Array:
    with archive.open(member) as file:
        _check_header(file, member.file_size)
    with archive.open(member) as file:
        array: Array = np.lib.format.read_array(file, allow_pickle=False)
    return array


def _check_header(file: IO[bytes], size: int) -> None:
    """Refuse an array that claims more than its member holds, since NumPy allocates what is claimed."""
    header: tuple[tuple[int, ...], bool, np.dtype[Any]] = _HEADERS[np.lib.format.read_magic(file)](file)
    shape, _, dtype = header
    claimed = math.prod(shape) * dtype.itemsize
    if not dtype.hasobject and claimed != size - file.tell():
        raise ValueError(f"an array of shape {shape} and type {dtype} in {size} bytes")

"""Where data sets lie, how they are fetched when they lie nowhere, and how a damaged file becomes one clear line.

Each data set has a folder of its name, looked for under `EDGEPROOF_DATA`, then under `../shared/data` beside the project,
then in the cache, which is where downloads go.
"""

from __future__ import annotations

import contextlib
import gzip
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO

from edgeproof.errors import DataError, ToolkitError
from edgeproof.system.files import cache_folder
from edgeproof.system.optional import require
from edgeproof.system.progress import Advance, progress

MAX_PIXELS = 2**24  # of one image: 4096 x 4096
MAX_CLASSES = 25_000  # ImageNet-21k has 21,843; a label of 2**40 is no class
#: Largest array that a file may unpack to: ImageNet's validation images at 224x224 are 7.5 GB of uint8, 30 GB of float32.
#: Never more than this machine's memory (16 GiB where the system does not say), so that a bomb is refused by its header.
MAX_BYTES = min(
    64 * 2**30, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 2**34
)
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class RemoteFile:
    """A file of a data set in its official place; the size in bytes is for the progress bar."""

    url: str
    sha256: str
    size: int

    @property
    def name(self) -> str:
        """The file's name, last part of its address."""
        return self.url.rsplit("/", 1)[1]


def data_folders() -> list[Path]:
    """Return the folders in which data sets are looked for, first one first; they need not exist."""
    chosen = os.environ.get("EDGEPROOF_DATA")
    shared = Path(__file__).resolve().parents[3] / "shared" / "data"
    return [*([Path(chosen)] if chosen else []), shared, cache_folder()]


def find_dataset(name: str, *, complete: Callable[[Path], bool], remote: Sequence[RemoteFile]) -> Path:
    """Return the folder that holds a data set, downloading it into the cache when it is nowhere.

    Args:
        name: The data set, and the name of its folder.
        complete: Whether a folder holds every file.
        remote: The files to fetch otherwise.

    Raises:
        DataError: When EDGEPROOF_DATA is no folder or holds only a part of the data set, or a download fails.
        UnavailableError: When a download is needed and pooch is not installed.
    """
    chosen = os.environ.get("EDGEPROOF_DATA")
    if chosen and not Path(chosen).is_dir():
        raise DataError(f"EDGEPROOF_DATA = {chosen!r} is no folder; set it to the one that holds {name}/, or unset it")
    if chosen and (Path(chosen) / name).is_dir() and not complete(Path(chosen) / name):
        wanted = ", ".join(file.name for file in remote)
        raise DataError(f"{Path(chosen) / name} does not hold all of {name}; expected {wanted}")
    for root in data_folders():
        if complete(root / name):
            return root / name
    for file in remote:
        download(file, cache_folder() / name)
    return cache_folder() / name


def download(file: RemoteFile, folder: Path) -> Path:
    """Fetch a file, check its SHA-256 and put it into a folder; one that is there with that hash is kept.

    Raises:
        DataError: When it cannot be fetched or is not the file that was expected.
        UnavailableError: When pooch is not installed.
    """
    advice = f"put {file.name} into {folder} yourself"
    pooch = require("pooch", extra="data", purpose=f"download {file.name} (or {advice})")
    pooch.get_logger().setLevel("ERROR")  # it would announce each file beside our own bar
    try:
        with progress(f"download {file.name}", total=file.size) as advance:
            downloader = pooch.HTTPDownloader(progressbar=_Bar(advance, file.size), chunk_size=_CHUNK_BYTES)
            pooch.retrieve(
                file.url, known_hash=f"sha256:{file.sha256}", fname=file.name, path=folder, downloader=downloader
            )
    except (OSError, ValueError) as error:  # requests' errors are OSErrors; a wrong hash is a ValueError
        reason = str(error).splitlines()[0]
        raise DataError(f"{file.url} cannot be downloaded ({reason}); {advice}") from error
    return folder / file.name


class _Bar:
    """A progress bar as pooch calls it."""

    total = 0  # pooch assigns what the server says

    def __init__(self, advance: Advance, size: int) -> None:
        self._advance = advance
        self._left = size

    def update(self, count: int) -> None:
        # pooch counts whole chunks and then the whole file once more, so more than the size arrives here.
        step = min(count, self._left)
        self._left -= step
        self._advance(step)

    def reset(self) -> None:
        """Called by pooch at the end, before the whole size."""

    def close(self) -> None:
        """Called by pooch at the end."""


@contextlib.contextmanager
def parsing(what: str, *, kind: str) -> Iterator[None]:
    """Turn whatever a library raises on a damaged file into one line; our own errors pass.

    Args:
        what: The file, for the message.
        kind: What it was read as, for instance "an IDX file".

    Raises:
        DataError: In place of any other exception.
    """
    try:
        yield
    except ToolkitError:
        raise
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise DataError(f"{what} cannot be opened ({error.strerror}); expected {kind}") from error
    except Exception as error:  # zlib, zipfile, tarfile, NumPy, Arrow and Pillow raise a dozen unrelated types
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"{what} cannot be read as {kind} ({reason}); it may be damaged: fetch or write it again"
        ) from error


def check_ordinary(path: Path) -> None:
    """Refuse pipes and devices, which would be waited for or have no end; what is missing is for the reader to say.

    Raises:
        DataError: When it is one.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise DataError(f"{path} is a pipe or a device; expected an ordinary file")


def read_exactly(file: BinaryIO, size: int, *, what: str) -> bytearray:
    """Read `size` bytes and make sure that the file ends there, without trusting `size` for an allocation.

    Raises:
        DataError: When the size is absurd, the file is shorter or it goes on.
    """
    if size > MAX_BYTES:
        raise DataError(f"{what}: its header asks for {size} bytes; the limit is {MAX_BYTES}")
    data = bytearray()
    while len(data) < size and (piece := file.read(min(_CHUNK_BYTES, size - len(data)))):
        data += piece
    if len(data) < size:
        raise DataError(f"{what} ends after {len(data)} of {size} bytes; fetch it again")
    if file.read(1):
        raise DataError(f"{what} goes on after the {size} bytes that its header announces; fetch it again")
    return data


class LimitedReader:
    """An unpacked file, no byte of which is read behind a limit: what a header asks for is not trusted.

    Raises:
        DataError: On reading or seeking further.
    """

    def __init__(self, file: IO[bytes] | gzip.GzipFile, limit: int, *, what: str) -> None:
        self._file, self._limit, self._what = file, limit, what

    def read(self, size: int = -1) -> bytes:
        """Read up to `size` bytes."""
        left = self._limit + 1 - self._file.tell()
        data = self._file.read(left if size < 0 else min(size, left))
        self._check(self._file.tell())
        return data

    def seek(self, position: int, whence: int = 0) -> int:
        """Go to a position."""
        self._check(position)
        return self._file.seek(position, whence)

    def tell(self) -> int:
        """Return the position."""
        return self._file.tell()

    def _check(self, position: int) -> None:
        if position > self._limit:
            raise DataError(f"{self._what} unpacks to more than {self._limit} bytes; fetch it again")

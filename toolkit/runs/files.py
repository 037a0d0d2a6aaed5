"""Files of a run folder: written atomically, by one process at a time."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from edgeproof.errors import RunError

# Neither is known to Windows, which has no links in a run folder either unless an administrator makes one.
_LOCK_FLAGS = os.O_WRONLY | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to, which replaces `path` when the block ends without an error."""
    # A name that can be foretold may already be a link to elsewhere, in a folder that is untrusted input.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    except OSError as error:
        raise RunError(
            f"{path} cannot be written ({error.strerror or error}); free space or choose another place"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, would survive a loss of power."""
    if os.name == "nt":  # Windows synchronises no folders, and files only where they are open for writing
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems know no synchronisation of folders
            raise
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically; NaN and infinities are refused, since JSON has none."""
    write_text(path, json.dumps(value, indent=1, sort_keys=False, allow_nan=False) + "\n")


def take_lock(path: Path) -> IO[str]:
    """Open a file and lock it until it is closed; the system drops the lock with the process, however that ends.

    Raises:
        BlockingIOError: When another process holds it.
        OSError: When it cannot be opened or locked.
    """
    file = os.fdopen(os.open(path, _LOCK_FLAGS, 0o666), "w")
    try:
        try:
            import fcntl
        except ModuleNotFoundError:  # Windows
            import msvcrt

            try:
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined, unused-ignore]
            except PermissionError as error:
                raise BlockingIOError(errno.EWOULDBLOCK, error.strerror) from error
        else:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        file.close()
        raise
    return file

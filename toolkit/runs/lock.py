"""One process at a time in a run folder, by a lock that the system drops with the process that holds it, however that ends."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import IO

# Neither is known to Windows, which has no links in a run folder either unless an administrator makes one.
_FLAGS = os.O_WRONLY | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


def take_lock(path: Path) -> IO[str]:
    """Open a file and lock it until it is closed.

    Raises:
        BlockingIOError: When another process holds it.
        OSError: When it cannot be opened or locked.
    """
    file = os.fdopen(os.open(path, _FLAGS, 0o666), "w")
    try:
        _lock(file.fileno())
    except BaseException:
        file.close()
        raise
    return file


def _lock(descriptor: int) -> None:
    try:
        import fcntl
    except ModuleNotFoundError:  # Windows
        import msvcrt

        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined, unused-ignore]
        except PermissionError as error:
            raise BlockingIOError(errno.EWOULDBLOCK, error.strerror) from error
    else:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

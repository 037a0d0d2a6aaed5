"""Files: their hash, and the refusal of links in a folder that may be untrusted input."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

from edgeproof.errors import RunError


def sha256_file(*paths: Path) -> str:
    """Return the hexadecimal SHA-256 of a file, or of several as one, read in pieces."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
    if len(paths) > 2:  # else bytes that move from the end of the second to the beginning of the third would not count
        digest.update(repr([path.stat().st_size for path in paths]).encode())
    return digest.hexdigest()


def refuse_links(folder: Path) -> None:
    """Refuse a run folder in which a link leads elsewhere or a pipe is waited for; the folder itself may be a link.

    A folder may be untrusted input, and what is written into it must not arrive elsewhere.

    Raises:
        RunError: With the first thing in it that is neither a file nor a folder.
    """
    pending = [str(folder)]
    while pending:
        # A folder that another process has deleted meanwhile holds no links.
        with contextlib.suppress(FileNotFoundError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                elif not entry.is_file(follow_symlinks=False):
                    what = "a link" if entry.is_symlink() else "a pipe or device"
                    name = Path(entry.path).relative_to(folder)
                    raise RunError(
                        f"{folder} holds {what}, {name}; no stage makes one: remove it or choose another folder"
                    )


def cache_folder() -> Path:
    """Return where downloads and remembered hashes are kept: `edgeproof` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "edgeproof"

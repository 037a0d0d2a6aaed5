"""Folders from strangers: what is written into one shall not arrive elsewhere."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from edgeproof.errors import RunError


def refuse_links(folder: Path) -> None:
    """Refuse a run folder in which a link leads elsewhere or a pipe is waited for; the folder itself may be a link.

    Raises:
        RunError: With the first thing in it that is neither a file nor a folder.
    """
    pending = [str(folder)]
    while pending:
        # What another process has deleted meanwhile holds no links.
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

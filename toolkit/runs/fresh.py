"""A run that `--fresh` replaces is set aside in its folder until the new one is finished: a command may be refused yet."""

from __future__ import annotations

import shutil
from pathlib import Path

LOCK, IDENTITY, MANIFEST = ".lock", ".identity", "manifest.json"
REPLACED, ASIDE = ".replaced", ".replaced.tmp"


def remove(path: Path) -> None:
    """Delete a file or a folder, if it is there; of a link, the link."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def set_aside(folder: Path) -> None:
    """Put what is in a run folder aside, at once or not at all; what an unfinished replacement has made is deleted instead.

    A kill in the middle leaves `.replaced.tmp`, and the identity, which goes last, still says whose folder it is.
    """
    place, part = folder / REPLACED, folder / ASIDE
    if (folder / MANIFEST).exists():
        remove(place)  # of a run that was killed when it had finished
    unfinished = place.exists()
    part.mkdir(exist_ok=True)
    for path in sorted(folder.iterdir(), key=lambda path: path.name == IDENTITY):
        if path.name not in (LOCK, REPLACED, ASIDE):
            path.rename(part / path.name)
    if unfinished:
        remove(part)
    else:
        part.rename(place)


def bring_back(folder: Path) -> None:
    """Undo the beginning of a run that has written nothing: what it was to replace comes back, and else the folder is free."""
    place = folder / REPLACED
    if any(path.name not in (LOCK, IDENTITY, REPLACED) for path in folder.iterdir()):
        return
    remove(folder / IDENTITY)
    if place.is_dir():
        for path in sorted(place.iterdir(), key=lambda path: path.name == MANIFEST):
            path.rename(folder / path.name)
        place.rmdir()

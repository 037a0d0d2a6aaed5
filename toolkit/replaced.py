"""What `--fresh` replaces is set aside in the run folder until the new run is finished: a command may be refused yet."""

from __future__ import annotations

import shutil
from pathlib import Path

LOCK, IDENTITY, MANIFEST, REPLACED = ".lock", ".identity", "manifest.json", ".replaced"


def remove(path: Path) -> None:
    """Delete a file or a folder, if it is there; of a link, the link."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def set_aside(folder: Path) -> None:
    """Put what is in a run folder aside. What an unfinished replacement has made is deleted: the first run is what is kept."""
    place = folder / REPLACED
    again = place.exists()
    place.mkdir(exist_ok=True)
    # A manifest without its files would be worse than files without their manifest; the identity says whose folder it is.
    for path in sorted(folder.iterdir(), key=lambda path: (path.name != MANIFEST, path.name == IDENTITY)):
        if again and path.name not in (LOCK, REPLACED):
            remove(path)
        elif path.name not in (LOCK, REPLACED):
            path.rename(place / path.name)


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

"""Hashes of many files, which are remembered while a file's size and time of change stay."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from edgeproof.errors import DataError, RunError
from edgeproof.runs.files import write_text
from edgeproof.system.files import cache_folder, sha256_file
from edgeproof.system.untrusted import read_json

#: A file that changes in the moment in which it is hashed could keep its time; a hash is remembered once the file is older than this.
_SETTLED_NS = 2 * 10**9


def hash_tree(path: Path) -> str:
    """Return the SHA-256 of a file, or of a folder: of the path, size and hash of every file in it that is not hidden."""
    if path.is_file():
        return sha256_file(path)
    names: list[str] = []
    for folder, folders, files in os.walk(path, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        names += [os.path.relpath(os.path.join(folder, name), path) for name in files if not name.startswith(".")]
    digest = hashlib.sha256()
    for name, sha256 in file_hashes(path, names).items():
        digest.update(f"{name}\0{(path / name).stat().st_size}\0{sha256}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def file_hashes(root: Path, names: Iterable[str]) -> dict[str, str]:
    """Return the SHA-256 of files under a folder, by their names there, in the order of the names.

    The hashes are kept in the user's cache folder by path, size and time of change, so that fifty thousand images are read once and
    only looked at afterwards. Without a cache that can be written they are read each time.
    """
    key = hashlib.sha256(str(root.resolve()).encode("utf-8", "surrogatepass")).hexdigest()[:32]
    cache = cache_folder() / "hashes" / f"{key}.json"
    known: dict[str, list[Any]] = {}
    with contextlib.suppress(DataError):
        found = read_json(cache) if cache.is_file() else {}
        known = found if isinstance(found, dict) else {}
    hashes, kept = {}, {}
    for name in sorted(names):
        stat = (root / name).stat()
        entry = known.get(name)
        if not entry or entry[:2] != [stat.st_size, stat.st_mtime_ns]:
            entry = [stat.st_size, stat.st_mtime_ns, sha256_file(root / name)]
        if time.time_ns() - stat.st_mtime_ns > _SETTLED_NS:
            kept[name] = entry
        hashes[name] = str(entry[2])
    if kept and kept != known:
        with contextlib.suppress(RunError, UnicodeEncodeError):
            write_text(cache, json.dumps(kept))
    return hashes

"""`manifest.json`: the inputs of a run, its configuration and environment, and the hash of each file that it has written."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from edgeproof.config import Strict

SCHEMA_VERSION = 1


class InputRecord(Strict):
    """An input of a run; the hash of a run folder is that of its manifest."""

    role: str
    path: str
    sha256: str


class FileRecord(Strict):
    """A file that a run has written; the path is relative to the folder."""

    path: str
    sha256: str
    size: int

    @property
    def inside(self) -> bool:
        """Return whether the path stays in the folder."""
        path = PurePosixPath(self.path)
        return bool(path.parts) and not path.is_absolute() and ".." not in path.parts


class Manifest(Strict):
    """`manifest.json`."""

    schema_version: int
    kind: str
    name: str
    command: tuple[str, ...]
    config: dict[str, Any]
    inputs: tuple[InputRecord, ...]
    outputs: tuple[FileRecord, ...]
    environment: dict[str, str]
    seed: int | None
    seconds: float
    created: str

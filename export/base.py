"""What every export shares and what needs no package: the error, and the hash of a file."""

from __future__ import annotations

import hashlib
from pathlib import Path


class ExportError(Exception):
    """A module, a graph or a setting that cannot be exported: what is wrong, what was expected, what to do, in one line."""


class MissingDeviceError(ExportError):
    """What has to be built on a device, where there is none."""


def sha256_file(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()

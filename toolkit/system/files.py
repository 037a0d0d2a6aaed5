"""What a file holds, as a hash."""

from __future__ import annotations

import hashlib
from pathlib import Path


def sha256_file(*paths: Path) -> str:
    """Return the hexadecimal SHA-256 of a file, or of several as one, read in pieces."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
    if len(paths) > 2:  # else what moves from the end of the second to the beginning of the third would not be seen
        digest.update(repr([path.stat().st_size for path in paths]).encode())
    return digest.hexdigest()

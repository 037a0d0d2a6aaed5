"""The files of a model: a graph may keep its weights beside it, and then they are as much the model as it is."""

from __future__ import annotations

from pathlib import Path

from edgeproof.errors import ModelError
from edgeproof.onnx_files.loading import external_files, parse_model
from edgeproof.system.files import sha256_file


def files_of(path: Path) -> tuple[Path, ...]:
    """Return a model's files, the one that is named first: an ONNX graph with its external data, an `.xml` with its `.bin`.

    Raises:
        ModelError: When it is no ONNX file, or one of its files is missing or outside its folder.
    """
    if path.suffix == ".onnx":
        return (path, *external_files(parse_model(path), path))
    if path.suffix == ".xml":
        weights = path.with_suffix(".bin")
        if not weights.is_file():
            raise ModelError(f"{path} has no {weights.name} beside it, which holds its weights; copy both files")
        return path, weights
    described = path.with_name(f"{path.name}.json")
    return (path, described) if path.suffix in (".plan", ".engine") and described.is_file() else (path,)


def hash_model(path: Path) -> str:
    """Return the SHA-256 of a model's content: of a single file its own, else of all its files, one after the other.

    Raises:
        ModelError: As `files_of` does.
    """
    return sha256_file(*files_of(path))


def size_of(path: Path) -> int:
    """Return the bytes of a model's files.

    Raises:
        ModelError: As `files_of` does.
    """
    return sum(file.stat().st_size for file in files_of(path))

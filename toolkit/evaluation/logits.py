"""Saved logits: one file per cell, written atomically, and used again where engine, images and settings are the same."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict
from pathlib import Path

import numpy as np

from edgeproof.engines.base import EngineInfo
from edgeproof.runs import atomic, sha256_file, write_json
from edgeproof.types import Logits

_INDEX = "logits/index.json"


def logits_name(engine: str, set_: str) -> str:
    """Return the name of a cell's file in the run folder, `logits/<engine>--<set>.npy`."""
    return f"logits/{engine}--{re.sub(r'[^A-Za-z0-9._-]+', '-', set_)}.npy"


def logits_key(info: EngineInfo, *, images: str, batch_size: int) -> str:
    """Return a hash of everything that the logits depend on: the file, what is active, the images, the batches."""
    parts = {**asdict(info), "versions": dict(info.versions), "options": dict(info.options)}
    del parts["made_from"]  # a record of where the file comes from, which changes no logits
    return hashlib.sha256(json.dumps([parts, images, batch_size], sort_keys=True, default=str).encode()).hexdigest()


def save_logits(folder: Path, name: str, logits: Logits, *, key: str) -> None:
    """Write one cell's logits and note what they depend on."""
    with atomic(folder / name) as temporary:
        np.save(temporary, logits)
    index = {**_read_index(folder), name: {"key": key, "sha256": sha256_file(folder / name)}}
    write_json(folder / _INDEX, index)


def load_saved_logits(folder: Path, name: str, *, key: str) -> Logits | None:
    """Return the logits that an earlier process saved, or None where they are absent, changed or of something else."""
    noted, path = _read_index(folder).get(name), folder / name
    if not noted or noted["key"] != key or not path.is_file() or sha256_file(path) != noted["sha256"]:
        return None
    logits: Logits = np.load(path, allow_pickle=False)
    return logits


def _read_index(folder: Path) -> dict[str, dict[str, str]]:
    path = folder / _INDEX
    index: dict[str, dict[str, str]] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return index

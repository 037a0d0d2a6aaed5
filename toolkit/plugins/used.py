"""Which code of the user's a run uses: his plug-ins and his networks, with the files that they stand in."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgeproof.errors import DataError
from edgeproof.plugins.entry import Entry
from edgeproof.plugins.importing import module_file, refresh, sources_of
from edgeproof.plugins.registry import entries, users
from edgeproof.plugins.trusted import is_factory
from edgeproof.system.untrusted import read_json

#: Which kind of plug-in a key of a configuration names.
_NAMES: Mapping[str, str] = {
    "attack": "attack", "attacks": "attack", "objective": "objective", "study": "study", "data": "data", "calibration": "data",
    "model": "model", "victim": "model",
}  # fmt: skip
_ENGINES = ("engines", "model", "deployed", "ensemble_builds")
_SPEC = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9._-]*=)?(?:([a-z][a-z0-9-]*)(?:\+[a-z0-9]+)?:)?(.+)", re.DOTALL)
_MANIFEST = "manifest.json"
_DEEPEST = 4  # checkpoint, graph, plan: a run is made from a few others


def used_code(kind: str, config: Mapping[str, Any], inputs: Mapping[str, Path]) -> list[tuple[str, str, str]]:
    """Return the user's code that a run uses, each as what it is, its file and its SHA-256; changed modules are imported again.

    Args:
        kind: Of the run, for instance "attack".
        config: Its configuration.
        inputs: What it is made from. The network and the data set of a train run among them are used too.
    """
    found: dict[str, Entry | str] = {}
    for role, value in (*_of_config(kind, config), *_of_inputs(inputs)):
        found.setdefault(role, value)
    records = []
    for role, what in sorted(found.items()):
        if isinstance(what, Entry) and what.text:
            records.append((role, what.module, hashlib.sha256(what.text.encode()).hexdigest()))
            continue
        module, file = (what.module, what.file) if isinstance(what, Entry) else (what, module_file(what))
        if file is None:
            continue  # it is not found, which whoever imports it says
        refresh(module, file)
        for number, path in enumerate(sources_of(file)):
            beside = path.relative_to(file.parent) if path.is_relative_to(file.parent) else path.name
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            records.append((f"{role}: {beside}" if number else role, str(path), digest))
    return records


def _of_config(kind: str, config: Mapping[str, Any]) -> Iterator[tuple[str, Entry | str]]:
    own = users()
    by_name = {(entry.kind, entry.name): entry for entry in own}
    for key, value in _pairs(config):
        for text in value.split(",") if key == "attacks" else (value,):
            entry = by_name.get((_NAMES.get(key, ""), text.strip().partition(":")[0]))
            if entry:
                yield f"plug-in {entry.kind} {entry.name}", entry
        if kind in ("train", "poison") and key in ("model", "victim") and is_factory(value):
            yield f"network {value}", value.partition(":")[0]
        if key in _ENGINES and (entry := _opener(value, own)):
            yield f"plug-in engine {entry.name}", entry


def _pairs(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Return every text of a configuration under its key; a data set's name stands under `data`."""
    for key, value in config.items():
        for each in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(each, str):
                yield key, each
            elif isinstance(each, Mapping):
                if key == "data" and isinstance(each.get("name"), str):
                    yield key, each["name"]
                else:
                    yield from _pairs(each)


def _opener(spec: str, own: tuple[Entry, ...]) -> Entry | None:
    """Return the engine of the user's that opens `[NAME=][BACKEND[+PRECISION]:]PATH`, or None."""
    engines = [entry for entry in own if entry.kind == "engine"]
    match = None if not engines or Path(spec).exists() else _SPEC.fullmatch(spec)
    backend, path = match.groups() if match else (None, spec)
    if backend:
        return next((entry for entry in engines if backend in (entry.name, entry.options["short"])), None)
    place = Path(path)
    for entry in engines:
        for suffix in entry.options["suffixes"]:
            readers = [other for other in entries("engine").values() if suffix in other.options["suffixes"]]
            first = max(readers, key=lambda other: int(other.options.get("priority", 0)))
            if first is entry and (place.suffix == suffix or any(place.glob(f"model*{suffix}"))):
                return entry
    return None


def _of_inputs(inputs: Mapping[str, Path], depth: int = 0) -> Iterator[tuple[str, Entry | str]]:
    """Return the networks and data sets of the train runs that a run is made from, directly or through their graphs."""
    for path in inputs.values() if depth < _DEEPEST else ():
        folder = path if path.is_dir() else path.parent
        about = _manifest(folder)
        config = about.get("config")
        if not isinstance(config, dict):
            continue
        if about.get("kind") == "train":
            yield from _of_config("train", {key: config[key] for key in ("model", "data") if key in config})
        elif about.get("kind") == "export":
            made_from = {
                record["role"]: Path(record["path"])
                for record in about.get("inputs", ())
                if isinstance(record, dict) and record.get("role") in ("model", "source")
            }
            yield from _of_inputs(made_from, depth + 1)


def _manifest(folder: Path) -> Mapping[str, Any]:
    try:
        found = read_json(folder / _MANIFEST) if (folder / _MANIFEST).is_file() else {}
    except DataError:  # whoever opens the run says what is wrong with it
        return {}
    return found if isinstance(found, dict) else {}

"""The user's code that may be run, and the user's code that a run uses, with the files that it stands in.

A factory, `module:factory`, is run when the user names it: as the model on the command line, as the argument of a function, or in
EDGEPROOF_FACTORIES, separated by commas. A checkpoint, a manifest or a configuration file alone may be untrusted input, and runs no
code.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgeproof.errors import DataError, ModelError
from edgeproof.plugins.importing import module_file, refresh, sources_of
from edgeproof.plugins.kinds import Entry
from edgeproof.plugins.registry import entries, users
from edgeproof.system.untrusted import read_json

FACTORIES = "EDGEPROOF_FACTORIES"


def is_factory(name: str) -> bool:
    """Return whether a model's name is `module:factory`, code that is not part of this toolkit."""
    kind, colon, _ = name.partition(":")
    return bool(colon) and kind not in entries("model")


def name_factory(name: str) -> None:
    """Note that the user has named a model, for this process and those that it starts."""
    if is_factory(name) and name not in _factories():
        os.environ[FACTORIES] = ",".join([*_factories(), name])


def check_named(name: str, *, source: object) -> None:
    """Refuse a factory that the user has not named.

    Args:
        name: Of a model, of whatever kind.
        source: The file that asks for it, for the message.

    Raises:
        ModelError: With the way to name it.
    """
    if is_factory(name) and name not in _factories():
        raise ModelError(
            f"{source} asks for the network {name!r}, code that is not part of this toolkit and that would be run; if you trust it, name "
            f"it: {FACTORIES}={name}"
        )


def _factories() -> list[str]:
    return [spec.strip() for spec in os.environ.get(FACTORIES, "").split(",") if spec.strip()]


#: The kind of plug-in that a key of a configuration names.
_NAMES: Mapping[str, str] = {
    "attack": "attack",
    "attacks": "attack",
    "objective": "objective",
    "study": "study",
    "data": "data",
    "calibration": "data",
    "model": "model",
    "victim": "model",
}
_ENGINES = ("engines", "model", "deployed", "ensemble_builds")
_SPEC = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9._-]*=)?(?:([a-z][a-z0-9-]*)(?:\+[a-z0-9]+)?:)?(.+)", re.DOTALL)
_MANIFEST = "manifest.json"
_DEEPEST = 4  # checkpoint, graph, plan: a run is made from a few others


def used_code(kind: str, config: Mapping[str, Any], inputs: Mapping[str, Path]) -> list[tuple[str, str, str]]:
    """Return the user's code that a run uses, each as what it is, its file and its SHA-256; changed modules are imported again.

    Args:
        kind: Of the run, for instance "attack".
        config: Its configuration.
        inputs: The files and runs that it is made from. The network and the data set of a train run among them count too.
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
            continue  # it is not found, which the code that imports it reports
        refresh(module, file)
        for number, path in enumerate(sources_of(file)):
            inside = path.relative_to(file.parent) if path.is_relative_to(file.parent) else path.name
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            records.append((f"{role}: {inside}" if number else role, str(path), digest))
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
        manifest = (path if path.is_dir() else path.parent) / _MANIFEST
        try:
            about = read_json(manifest) if manifest.is_file() else {}
        except DataError:  # the code that opens the run reports what is wrong with it
            continue
        config = about.get("config") if isinstance(about, dict) else None
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

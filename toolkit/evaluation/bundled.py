"""An edge bundle on the device: where it is unpacked, and which engines open its graphs there."""

from __future__ import annotations

import importlib.util
import logging
import re
from collections.abc import Sequence
from pathlib import Path

from edgeproof.config import EvalConfig
from edgeproof.engines.base import find_backend, reader_of
from edgeproof.evaluation.bundle import open_bundle
from edgeproof.plugins.registry import Entry, entries
from edgeproof.runs import runs_root, sha256_file

LOG = logging.getLogger(__name__)

_GRAPH = ".onnx"


def unpack_bundle(bundle: Path, *, backends: Sequence[str] = ()) -> EvalConfig:
    """Unpack a bundle among the run folders and return the evaluation that it asks for.

    Args:
        bundle: The zip.
        backends: Engines that open its graphs, each `NAME[+PRECISION]`; by default the first that is installed here.

    Raises:
        ConfigError: For an unknown backend.
        DataError: When the bundle is not what it says.
    """
    for backend in backends:
        find_backend(backend.partition("+")[0])
    name = re.sub(r"[^A-Za-z0-9._-]", "-", bundle.stem)
    digest = sha256_file(bundle)[:10] if bundle.is_file() else ""
    config = open_bundle(bundle, runs_root() / f"bundle-{name}-{digest}")
    engines = [spec for folder in config.engines for spec in _specs(Path(folder), backends)]
    return config.model_copy(update={"engines": tuple(engines)})


def _specs(folder: Path, backends: Sequence[str]) -> list[str]:
    """Name the engines of one packed run: what is no graph is opened by the one engine that reads it."""
    if not any(folder.glob(f"model*{_GRAPH}")):
        return [str(folder)]
    return [f"{backend}:{folder}" for backend in backends] or [_default(folder)]


def _default(folder: Path) -> str:
    """Choose the first engine that is installed, and say so where it is not the usual one."""
    usual = reader_of(Path(_GRAPH.join(("model", ""))))
    readers = [entry for entry in entries("engine").values() if _GRAPH in entry.options["suffixes"]]
    chosen = max(filter(_installed, readers), key=lambda entry: int(entry.options.get("priority", 0)), default=usual)
    if chosen.name == usual.name:
        return str(folder)
    LOG.warning(f"edgeproof: {usual.name} is not installed here; {chosen.name} opens the graphs")
    return f"{chosen.name}:{folder}"


def _installed(entry: Entry) -> bool:
    module = entry.options.get("module")
    return module is None or importlib.util.find_spec(module) is not None

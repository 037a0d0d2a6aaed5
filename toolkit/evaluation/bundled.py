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
    engines = [text for folder in config.engines for text in _engines(Path(folder), backends)]
    return config.model_copy(update={"engines": tuple(engines)})


def _engines(folder: Path, backends: Sequence[str]) -> list[str]:
    """Name the engines of one packed run: a graph is opened by those asked for, or the first that is installed; a plan by its own."""
    if not any(folder.glob(f"model*{_GRAPH}")):
        return [str(folder)]
    if backends:
        return [f"{backend}:{folder}" for backend in backends]

    def priority(entry: Entry) -> int:
        module = entry.options.get("module")
        there = module is None or importlib.util.find_spec(module) is not None
        return int(entry.options.get("priority", 0)) if there else -1

    usual = reader_of(Path(f"model{_GRAPH}"))
    chosen = max((entry for entry in entries("engine").values() if _GRAPH in entry.options["suffixes"]), key=priority)
    if chosen.name == usual.name or priority(chosen) < 0:
        return [str(folder)]
    LOG.warning(f"edgeproof: {usual.name} is not installed here; {chosen.name} opens the graphs")
    return [f"{chosen.name}:{folder}"]

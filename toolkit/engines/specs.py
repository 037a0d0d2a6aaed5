"""Engines as users name them, `[NAME=][BACKEND[+PRECISION]:]PATH`, and what a run folder stands for."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgeproof.engines.base import Engine, EngineOptions, find_backend, open_engine, reader_of
from edgeproof.errors import ConfigError, ModelError
from edgeproof.onnx_files import files_of, size_of
from edgeproof.plugins.registry import Entry, entries
from edgeproof.runs import MANIFEST, Run

_NAME = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)=(.+)", re.DOTALL)
_BACKEND = re.compile(r"([a-z][a-z0-9-]*)(?:\+([a-z0-9]+))?:(.+)", re.DOTALL)

_SUFFIXES = (".onnx", ".plan", ".xml", ".safetensors")


@dataclass(frozen=True)
class EngineSpec:
    """One engine to open.

    Attributes:
        name: What tables and files call it.
        backend: Registry name.
        precision: The hint that was given, or None.
        path: The file; its hash has been verified when it belongs to a run.
    """

    name: str
    backend: str
    precision: str | None
    path: Path

    def open(
        self,
        *,
        device: str = "cpu",
        threads: int | None = None,
        mode: str = "latency",
        output: str | None = None,
    ) -> Engine:
        """Open it.

        Raises:
            ToolkitError: As `open_engine` does.
        """
        options = EngineOptions(threads=threads, precision=self.precision, mode=mode, output=output)
        return open_engine(self.path, backend=self.backend, device=device, options=options)

    @property
    def size(self) -> int:
        """Return the bytes of the file, with the weights that lie next to it."""
        return size_of(self.path)


@dataclass(frozen=True)
class _Parts:
    name: str | None
    backend: Entry | None
    precision: str | None
    path: Path


def spec_path(text: str) -> Path:
    """Return the path in a spec: a run folder or a file.

    Raises:
        ConfigError: For an unknown backend.
    """
    return _split(text).path


def read_specs(texts: Sequence[str]) -> tuple[EngineSpec, ...]:
    """Read specs and expand run folders: an export run to its graphs, a train run to its checkpoint.

    Args:
        texts: Each `[NAME=][BACKEND[+PRECISION]:]PATH`. Names that come twice get `-2`, `-3`.

    Raises:
        ConfigError: For an unknown backend, or a NAME for a folder of several graphs.
        ModelError: For a path that is not there or that no engine reads.
        RunError: For an unfinished run, or a file whose hash has changed.
    """
    found = [spec for text in texts for spec in _expand(_split(text))]
    names = distinct_names([spec.name for spec in found])
    return tuple(replace(spec, name=name) for spec, name in zip(found, names, strict=True))


def distinct_names(names: Sequence[str], *, taken: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the names with `-2`, `-3` behind those that come again or are taken already."""
    chosen: list[str] = []
    for name in names:
        candidates = (name, *(f"{name}-{count}" for count in range(2, len(names) + len(taken) + 2)))
        chosen.append(next(word for word in candidates if word not in chosen and word not in taken))
    return tuple(chosen)


def names_on_any_backend(spec: EngineSpec) -> tuple[str, ...]:
    """Return what the file of a spec is called by default, whichever engine opens it or what is built from it."""
    return (spec.name, *(_default_name(entry, spec.path, spec.precision) for entry in entries("engine").values()))


def _split(text: str) -> _Parts:
    if os.path.exists(text):  # a path may hold = and : itself, and a text may be too long for one
        return _Parts(None, None, None, Path(text))
    name = backend = precision = None
    rest = text
    if match := _NAME.fullmatch(rest):
        name, rest = match.groups()
    if not os.path.exists(rest) and (match := _BACKEND.fullmatch(rest)):
        backend, precision, rest = match.groups()
    return _Parts(name, find_backend(backend) if backend else None, precision, Path(rest))


def _expand(parts: _Parts) -> list[EngineSpec]:
    files = _files(parts)
    if parts.name and len(files) > 1:
        raise ConfigError(
            f"{parts.name}={parts.path} stands for {len(files)} graphs; name one file of it, such as {files[0]}"
        )
    specs = []
    for file in files:
        entry = parts.backend or reader_of(file)
        name = parts.name or _default_name(entry, file, parts.precision)
        specs.append(EngineSpec(name, entry.name, parts.precision, file))
    return specs


def _files(parts: _Parts) -> list[Path]:
    if parts.path.is_file():
        return [verified(parts.path)]
    if not parts.path.is_dir():
        raise ModelError(f"no model at {parts.path}; expected a file, a train run or an export run")
    run = Run.open(parts.path)
    suffixes = parts.backend.options["suffixes"] if parts.backend else _SUFFIXES
    if not parts.backend:
        others = (entry.options["suffixes"] for entry in entries("engine").values() if not entry.own)
        suffixes = tuple(dict.fromkeys((*suffixes, *(suffix for each in others for suffix in each))))
    names = [name for name in run.outputs() if name.startswith("model.") and Path(name).suffix in suffixes]
    if not names:
        raise ModelError(
            f"{run.path} has no model that can be opened ({', '.join(suffixes)}); it has: {', '.join(run.outputs())}; "
            "if an engine of your own opens it, name that by --plugin FILE.py"
        )
    return [verified(run.path / name) for name in sorted(names, key=_order)]


def verified(path: Path) -> Path:
    """Check the hashes of a file that stands in a finished run and of what belongs to it, and return its path.

    Raises:
        RunError: When one has changed or is missing.
    """
    if (path.parent / MANIFEST).is_file():
        run = Run.open(path.parent)
        listed = set(run.outputs())
        for name in {path.name, f"{path.name}.json"} & listed:
            run.file(name)
        for file in files_of(path):
            if (name := file.relative_to(path.parent).as_posix()) in listed:
                run.file(name)
    return path


def _order(name: str) -> tuple[int, str]:
    tags = ("fp32", "fp16", "bf16", "int8")
    return next((place for place, tag in enumerate(tags) if f".{tag}" in name), len(tags)), name


def _default_name(entry: Entry, path: Path, precision: str | None) -> str:
    """`ort-int8-trt` for model.int8-trt.onnx, `torch-fp32` for a checkpoint, `ov-fp32-bf16` where a hint was given."""
    stem = path.name.removesuffix(path.suffix)
    tag = stem.removeprefix("model").lstrip(".")
    if path.suffix == ".safetensors":
        tag = precision or "fp32"
    elif precision and precision != tag:
        tag = f"{tag or stem}-{precision}"
    return re.sub(r"[^A-Za-z0-9._-]", "-", f"{entry.options['short']}-{tag or stem}")

"""Which plug-ins of the user's there are: named by `--plugin` or EDGEPROOF_PLUGINS, or of installed packages.

Naming one, or installing it, is the consent to run its code. A configuration, a manifest, a checkpoint or a bundle alone may be
untrusted input, and names none.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from edgeproof.errors import PluginError
from edgeproof.plugins.importing import find_module

PLUGINS = "EDGEPROOF_PLUGINS"
GROUP = "edgeproof.plugins"
_SEPARATOR = re.compile(f"[,{re.escape(os.pathsep)}]")
_EXPECTED = "expected a Python file, or the name of a module that can be imported"


@dataclass(frozen=True)
class Source:
    """A file of plug-ins.

    Attributes:
        file: The file.
        module: What it is imported as.
        origin: Who has named it, for people.
    """

    file: Path
    module: str
    origin: str


def name_plugin(text: str) -> None:
    """Note that the user has named a file or a module of plug-ins, for this process and those that it starts.

    Raises:
        PluginError: When there is no such file or module.
    """
    spec = str(Path(text).resolve()) if _is_path(text) else text
    if odd := _SEPARATOR.search(spec):
        raise PluginError(f"plug-in {spec!r} has a {odd[0]!r} in its path, which stands between plug-ins; rename it")
    tuple(_find(spec, f"--plugin {text}"))
    if spec not in _named():
        os.environ[PLUGINS] = ",".join([*_named(), spec])


def named_files() -> tuple[Path, ...]:
    """Return the files that are named by their path."""
    return tuple(Path(spec).resolve() for spec in _named() if _is_path(spec))


def sources() -> tuple[Source, ...]:
    """Return every file of plug-ins once: of installed packages first, then what is named.

    Raises:
        PluginError: For one that is missing, or two files of one name.
    """
    found = {source.file: source for source in _installed(tuple(sys.path))}
    for spec in _named():
        found |= {source.file: source for source in _find(spec, PLUGINS) if source.file not in found}
    modules: dict[str, Source] = {}
    for source in found.values():
        other = modules.setdefault(source.module, source)
        if other is not source:
            raise PluginError(f"two plug-ins are called {source.file.name}: {other.file} and {source.file}; rename one")
    return tuple(found.values())


def _named() -> list[str]:
    return [spec.strip() for spec in _SEPARATOR.split(os.environ.get(PLUGINS, "")) if spec.strip()]


def _is_path(spec: str) -> bool:
    return spec.endswith(".py") or os.sep in spec


def _find(spec: str, origin: str) -> Iterator[Source]:
    if not _is_path(spec):
        yield from _find_module(spec, origin)
        return
    file = Path(spec).resolve()
    if file.suffix != ".py" or not file.is_file():
        raise PluginError(f"{origin}: no plug-in at {file}; {_EXPECTED}")
    if "." in file.stem:
        raise PluginError(f"{origin}: {file.name} cannot be imported, because of the '.' in its name; rename it")
    yield Source(file, f"edgeproof.plugins.files.{file.stem}", origin)


def _find_module(name: str, origin: str) -> Iterator[Source]:
    """Return the file of a module, or of a package every file that stands in its folder."""
    spec = find_module(name)
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        raise PluginError(f"{origin}: no module {name!r} is found; {_EXPECTED}")
    file = Path(spec.origin).resolve()
    if file.name != "__init__.py":
        yield Source(file, name, origin)
        return
    for each in sorted(file.parent.glob("*.py")):
        yield Source(each, name if each == file else f"{name}.{each.stem}", origin)


@cache
def _installed(path: tuple[str, ...]) -> tuple[Source, ...]:
    """Return the files of the entry points of the packages on this `sys.path`."""
    found: list[Source] = []
    for point in importlib.metadata.entry_points(group=GROUP):
        package = f"package {point.dist.name} {point.dist.version}" if point.dist else "an installed package"
        found += _find_module(point.module, f"entry point {point.name!r} of {package}")
    return tuple(found)

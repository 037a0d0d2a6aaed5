"""Plug-ins: a function with a decorator, in a file of the right folder here, or in any file that the user names.

The files are read with `ast`, so that names, parameters and documentation are known without importing torch; the module
itself is imported when the function is asked for.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from edgeproof.errors import ConfigError, PluginError, nearest
from edgeproof.plugins.importing import Source, is_imported_here, sources
from edgeproof.plugins.kinds import CALLERS, FOLDERS, REQUIRED, Entry, Param
from edgeproof.plugins.reading import read_own, read_text, read_users

__all__ = ["CALLERS", "FOLDERS", "REQUIRED", "Entry", "Param", "entries", "find", "register", "users"]

F = TypeVar("F", bound=Callable[..., Any])

#: Functions registered by a module that the user has imported: a script or a notebook.
_REGISTERED: dict[tuple[str, str], Callable[..., Any]] = {}


def register(name: str, *, kind: str | None = None, **options: Any) -> Callable[[F], F]:
    """Mark a function as a plug-in: `@edgeproof.register("my-attack", kind="attack", norm="linf", access="gradients")`.

    Args:
        name: Its name on the command line, in small letters, digits and `-`.
        kind: "attack", "data", "model", "engine", "objective" or "study". Ours leave it out: theirs is the folder of the file.
        options: Its properties, by its kind; docs/extending.md has the table. They must be literals, since files are read
            without running them.

    Raises:
        PluginError: When it is not what its kind takes, or the name is taken.
    """

    def mark(function: F) -> F:
        function.registered = (name, options)  # type: ignore[attr-defined]
        if kind is not None:
            _REGISTERED[kind, name] = function
            try:
                users()
            except PluginError:
                del _REGISTERED[kind, name]
                raise
        return function

    return mark


def entries(kind: str) -> Mapping[str, Entry]:
    """List the plug-ins of a kind by name, in alphabetical order, without importing them.

    Raises:
        PluginError: For a plug-in of the user's that cannot be read, or whose name is taken.
    """
    others = {entry.name: entry for entry in users() if entry.kind == kind}
    return dict(sorted({**_own(kind), **others}.items())) if others else _own(kind)


def find(kind: str, name: str) -> Entry:
    """Return the plug-in of that kind and name.

    Raises:
        ConfigError: When there is none; the message names the nearest one and lists all.
    """
    known = entries(kind)
    if name not in known:
        raise ConfigError(
            f"unknown {kind} {name!r}{nearest(name, known)}; known: {', '.join(known)}; one of your own is named by --plugin FILE.py"
        )
    return known[name]


def users() -> tuple[Entry, ...]:
    """Return the plug-ins that are not part of this toolkit: of installed packages, named files and imported modules.

    Raises:
        PluginError: As `entries`.
    """
    named = sources()
    files = {source.file for source in named}
    stamps = []  # the files are read again when one has changed
    for source in named:
        about = source.file.stat() if source.file.exists() else None
        stamps.append((about.st_mtime_ns, about.st_size) if about else (0, 0))
    live = []  # what no file gives: not ours, and not of a module that is imported as a plug-in
    for function in _REGISTERED.values():
        if not is_imported_here(function) and not function.__module__.startswith("edgeproof."):
            file = inspect.getsourcefile(function)
            if file is None or Path(file).resolve() not in files:
                live.append(function)
    return _users(named, tuple(stamps), tuple(live))


@cache
def _own(kind: str) -> Mapping[str, Entry]:
    package = FOLDERS[kind]
    folder = Path(__file__).resolve().parents[1].joinpath(*package.split(".")[1:])
    files = folder.glob("*/study.py" if kind == "study" else "*.py")  # a study has a folder of its own
    found = []
    for file in sorted(files):
        inside = file.relative_to(folder).with_suffix("").parts
        found += read_own(kind, ".".join((package, *inside)), file)
    return {entry.name: entry for entry in sorted(found, key=lambda entry: entry.name)}


@cache
def _users(
    named: tuple[Source, ...], stamps: tuple[tuple[int, int], ...], live: tuple[Callable[..., Any], ...]
) -> tuple[Entry, ...]:
    found: dict[str, list[Entry]] = {}
    for source in named:
        found.setdefault(source.origin, []).extend(read_users(source.file, source.module))
    for origin, group in found.items():
        if not group:
            file = next(source.file for source in named if source.origin == origin)
            raise PluginError(
                f'{origin}: {file} registers nothing; expected a function under @edgeproof.register("NAME", kind="attack", ...)'
            )
    read = [entry for group in found.values() for entry in group] + [_live(function) for function in live]
    _refuse_clashes(read)
    return tuple(read)


def _refuse_clashes(read: Iterable[Entry]) -> None:
    taken: dict[tuple[str, str], str] = {}
    for kind in FOLDERS:
        for entry in _own(kind).values():
            taken |= {(kind, name): "this toolkit" for name in _words(entry)}
    for entry in read:
        where = str(entry.file or f"in {entry.module}")
        for name in _words(entry):
            if (entry.kind, name) in taken:
                raise PluginError(
                    f"plug-in {where}: the {entry.kind} name {name!r} is taken by {taken[entry.kind, name]}; rename it"
                )
        taken |= {(entry.kind, name): where for name in _words(entry)}


def _words(entry: Entry) -> set[str]:
    """Return the names that a plug-in is found by."""
    return {entry.name, str(entry.options.get("short", entry.name))}


def _live(function: Callable[..., Any]) -> Entry:
    """Read a plug-in of an imported module: by its file, or where it has none by its own source."""
    source = inspect.getsourcefile(function)
    file = Path(source).resolve() if source and Path(source).is_file() else None
    try:
        found = (
            read_users(file, function.__module__)
            if file
            else read_text(textwrap.dedent(inspect.getsource(function)), function.__module__)
        )
    except OSError as error:
        raise PluginError(
            f"the source of {function.__qualname__!r} is not found; put it into a file and name that by --plugin"
        ) from error
    return next(entry for entry in found if entry.function == function.__name__)

"""Code of the user's: which files hold plug-ins, and how a module is imported so that it is always what its file says now.

Plug-ins are named by `--plugin` or EDGEPROOF_PLUGINS, or are entry points of installed packages. Naming one, or installing it, is
the consent to run its code. A configuration, a manifest, a checkpoint or a bundle alone may be untrusted input, and names none.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.metadata
import importlib.util
import os
import re
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from edgeproof.errors import PluginError

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
        origin: The option, variable or package that names it, for messages.
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


_MARK = "__edgeproof_sha256__"  # of the sources that a module of the user's was imported from


def import_source(module: str, file: Path) -> ModuleType:
    """Import a module of the user's from its file. It raises whatever the module raises."""
    root = str(root_of(file, module))
    if root not in sys.path:
        sys.path.append(root)  # appended, so that a file of the user's cannot stand in for an installed package
    loaded = sys.modules.get(module)
    if loaded is not None:
        if _file_of(loaded) == file:
            return loaded
        _forget(module, (file,))
    digest = digest_of(sources_of(file))
    # No bytecode: Python compares its time with that of the source by whole seconds only.
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        found = _import(module, file)
    finally:
        sys.dont_write_bytecode = writes
    setattr(found, _MARK, digest)
    return found


def refresh(module: str, file: Path) -> None:
    """Forget a module of the user's that has changed since it was imported, so that a run is what its files say."""
    loaded, sources = sys.modules.get(module), sources_of(file)
    if loaded is not None and getattr(loaded, _MARK, None) not in (None, digest_of(sources)):
        _forget(module, sources)


def _forget(module: str, sources: Sequence[Path]) -> None:
    for name, other in list(sys.modules.items()):
        if name == module or _file_of(other) in sources:
            del sys.modules[name]
    importlib.invalidate_caches()


def _import(module: str, file: Path) -> ModuleType:
    package, _, _ = module.rpartition(".")
    if package == "edgeproof.plugins.files":
        folders = importlib.import_module(package).__path__
        if str(file.parent) not in folders:
            folders.append(str(file.parent))
        if module not in sys.modules:  # another folder may hold a file of that name too
            spec = importlib.util.spec_from_file_location(module, file)
            if spec is None or spec.loader is None:
                raise ImportError(f"{file} is no Python file")
            found = sys.modules[module] = importlib.util.module_from_spec(spec)
            try:
                spec.loader.exec_module(found)
            except BaseException:
                del sys.modules[module]
                raise
    return importlib.import_module(module)


def is_imported_here(function: object) -> bool:
    """Return whether a function stands in a module that `import_source` has imported."""
    return _MARK in getattr(function, "__globals__", {})


def find_module(name: str) -> ModuleSpec | None:
    """Find a module on `sys.path` or in the current folder without importing it or the packages around it."""
    path: Sequence[str] | None = None
    spec: ModuleSpec | None = None
    words = name.split(".")
    for count in range(1, len(words) + 1):
        part = ".".join(words[:count])
        try:
            found = (finder.find_spec(part, path) for finder in sys.meta_path)
            spec = next((spec for spec in found if spec is not None), None)
            if spec is None and path is None:
                spec = importlib.machinery.PathFinder.find_spec(part, [str(Path.cwd())])
        except (ImportError, ValueError):  # a name that no module can have
            return None
        if spec is None:
            return None
        path = list(spec.submodule_search_locations or ())
    return spec


def module_file(name: str) -> Path | None:
    """Return the source file of a module, without importing it; None where there is none."""
    spec = find_module(name)
    return Path(spec.origin).resolve() if spec and spec.origin and spec.origin.endswith(".py") else None


def root_of(file: Path, module: str) -> Path:
    """Return the folder from which a file's module is imported: that of the file, or of the packages around it."""
    if module.startswith("edgeproof.plugins.files."):
        return file.parent
    depth = module.count(".") + (file.name == "__init__.py")
    return file.parents[depth]


def sources_of(file: Path) -> tuple[Path, ...]:
    """Return a source file and what it imports from its own folder or package, and those again, without running any.

    Of an installed package the file alone counts: its version stands for the rest.
    """
    installed = {Path(sysconfig.get_path(scheme)).resolve() for scheme in ("purelib", "platlib", "stdlib")}
    found, waiting = [], [file.resolve()]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.append(path)
        if not installed & set(path.parents):
            waiting += _neighbours(path)
    return (found[0], *sorted(found[1:]))


def _neighbours(file: Path) -> Iterator[Path]:
    try:
        nodes = list(ast.walk(ast.parse(file.read_bytes())))
    except (OSError, SyntaxError, ValueError):
        return
    packages = [file.parent]
    while (packages[-1] / "__init__.py").is_file() and packages[-1].parent != packages[-1]:
        packages.append(packages[-1].parent)
    root = packages[-1]
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _files_of(root, alias.name.split("."))
        elif isinstance(node, ast.ImportFrom):
            words = node.module.split(".") if node.module else []
            place = root
            if node.level:
                place = file.parents[min(node.level, len(file.parents)) - 1]
            for alias in node.names:
                yield from _files_of(place, [*words, alias.name])


def _files_of(folder: Path, words: Sequence[str]) -> Iterator[Path]:
    """Return the files that importing `words` from a folder runs: each package on the way, and the module."""
    for word in words:
        for file in (folder / word / "__init__.py", folder / f"{word}.py"):
            if file.is_file():
                yield file.resolve()
        folder = folder / word


def digest_of(sources: Sequence[Path]) -> str:
    """Return one hash of several files, in their order."""
    return hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in sources)).hexdigest()


def _file_of(module: object) -> Path | None:
    origin = getattr(module, "__file__", None)
    return Path(origin).resolve() if isinstance(origin, str) else None

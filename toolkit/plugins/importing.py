"""Importing code of the user's: always what its file says now, and which files that is."""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

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
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # it is found stale by whole seconds only
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
        spec = _spec(".".join(words[:count]), path)
        if spec is None:
            return None
        path = list(spec.submodule_search_locations or ())
    return spec


def _spec(name: str, path: Sequence[str] | None) -> ModuleSpec | None:
    try:
        found = (finder.find_spec(name, path) for finder in sys.meta_path)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is None and path is None:
            spec = importlib.machinery.PathFinder.find_spec(name, [str(Path.cwd())])
    except (ImportError, ValueError):  # a name that no module can have
        return None
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

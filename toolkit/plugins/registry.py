"""Plug-ins: a function with a decorator, in a file of the right folder.

The files are read with `ast`, so that names, parameters and documentation are known without importing torch; the module
itself is imported when the function is asked for.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from edgeproof.errors import ConfigError, nearest

F = TypeVar("F", bound=Callable[..., Any])

#: Where each kind of plug-in lives.
FOLDERS: Mapping[str, str] = {
    "attack": "edgeproof.attacks",
    "data": "edgeproof.data",
    "model": "edgeproof.models",
    "engine": "edgeproof.engines",
    "objective": "edgeproof.training.objectives",
    "study": "edgeproof.studies",
}

#: Parameters of each kind that the toolkit sets itself.
CALLERS: Mapping[str, tuple[str, ...]] = {
    "attack": ("eps", "deployed", "stop", "journal", "draws", "trace"),
    "objective": ("draws",),
}


class _Required:
    def __repr__(self) -> str:
        return "required"


REQUIRED = _Required()


@dataclass(frozen=True)
class Param:
    """One keyword-only parameter of a plug-in, as it stands in the source."""

    name: str
    annotation: str
    default: Any = REQUIRED


@dataclass(frozen=True)
class Entry:
    """What is known of a plug-in without importing it."""

    kind: str
    name: str
    module: str
    function: str
    summary: str
    params: tuple[Param, ...]
    options: Mapping[str, Any] = field(default_factory=dict)  # the decorator's keyword arguments
    help: str = ""  # the whole docstring

    def load(self) -> Callable[..., Any]:
        """Import the module and return the function."""
        function: Callable[..., Any] = getattr(importlib.import_module(self.module), self.function)
        return function


def register(name: str, **options: Any) -> Callable[[F], F]:
    """Mark a function as a plug-in; the kind is the folder that its file stands in. The arguments must be literals."""

    def mark(function: F) -> F:
        function.registered = (name, options)  # type: ignore[attr-defined]
        return function

    return mark


@cache
def entries(kind: str) -> Mapping[str, Entry]:
    """List the plug-ins of a kind by name, in alphabetical order, without importing them."""
    package = FOLDERS[kind]
    folder = Path(__file__).resolve().parents[1].joinpath(*package.split(".")[1:])
    found = [entry for file in sorted(folder.glob("*.py")) for entry in _read(kind, package, file)]
    return {entry.name: entry for entry in sorted(found, key=lambda entry: entry.name)}


def find(kind: str, name: str) -> Entry:
    """Return the plug-in of that kind and name.

    Raises:
        ConfigError: When there is none; the message names the nearest one and lists all.
    """
    known = entries(kind)
    if name not in known:
        raise ConfigError(f"unknown {kind} {name!r}{nearest(name, known)}; known: {', '.join(known)}")
    return known[name]


def _read(kind: str, package: str, file: Path) -> list[Entry]:
    module = f"{package}.{file.stem}"
    found = []
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if not isinstance(node, ast.FunctionDef):
            continue
        for call in node.decorator_list:
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "register":
                options = {word.arg: ast.literal_eval(word.value) for word in call.keywords if word.arg}
                text = ast.get_docstring(node) or ""
                summary = text.split("\n", 1)[0]
                name = ast.literal_eval(call.args[0])
                found.append(Entry(kind, name, module, node.name, summary, _params(node), options, text))
    return found


def _params(node: ast.FunctionDef) -> tuple[Param, ...]:
    def param(arg: ast.arg, default: ast.expr | None) -> Param:
        annotation = ast.unparse(arg.annotation) if arg.annotation else ""
        return Param(arg.arg, annotation, REQUIRED if default is None else ast.literal_eval(default))

    return tuple(param(arg, default) for arg, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True))

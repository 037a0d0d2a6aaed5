"""The kinds of plug-in, and the record of one: known without importing it, imported when it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeproof.errors import PluginError, first_line
from edgeproof.plugins.importing import import_source


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
    """A plug-in, as it is known without importing it.

    Attributes:
        kind: "attack", "data", "model", "engine", "objective" or "study".
        name: Registry name.
        module: Where the function is imported from.
        function: Its name there.
        summary: The first line of its documentation.
        params: Its keyword-only parameters.
        options: The other arguments of its `register`.
        help: The whole docstring.
        file: The file of a user's plug-in; None for ours.
        text: The source of one that stands in no file, such as a notebook's; else "".
    """

    kind: str
    name: str
    module: str
    function: str
    summary: str
    params: tuple[Param, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    help: str = ""
    file: Path | None = None
    text: str = ""

    @property
    def own(self) -> bool:
        """Return whether it is part of this toolkit."""
        return self.file is None and not self.text

    def load(self) -> Callable[..., Any]:
        """Import the module and return the function.

        Raises:
            PluginError: When a plug-in of the user's cannot be imported.
        """
        if self.file is None:
            own: Callable[..., Any] = getattr(importlib.import_module(self.module), self.function)
            return own
        try:
            module = import_source(self.module, self.file)
        except (Exception, SystemExit) as error:
            raise PluginError(
                f"plug-in {self.file} cannot be imported ({type(error).__name__}: {first_line(error)}); fix it, or name it no longer"
            ) from error
        function: Callable[..., Any] | None = getattr(module, self.function, None)
        if function is None:
            raise PluginError(
                f"plug-in {self.file}: the imported module has no {self.function!r}; expected the function under @register"
            )
        return function


@dataclass(frozen=True)
class Option:
    """One keyword argument of `register`: what is expected, whether a value is that, and whether it must be given."""

    expected: str
    accepts: Callable[[Any], bool]
    required: bool = False


@dataclass(frozen=True)
class Kind:
    """One kind of plug-in.

    Attributes:
        folder: The package of ours that holds them.
        options: Of `register`, next to the name and the kind.
        signature: What the function takes, by its options, as it is written in a message.
        positional: How many parameters stand before the `*`, by its options.
        needed: Keyword-only parameters that it must have, since the toolkit gives them, by its options.
        callers: Keyword-only parameters that the toolkit sets itself, and that are no options of a command.
        defaults: Options that are not given, for a function of that name.
        shared: Module of ours whose classes explain, under `Attributes`, the parameters that functions of the kind share.
    """

    folder: str
    options: Mapping[str, Option]
    signature: Callable[[Mapping[str, Any]], str]
    positional: Callable[[Mapping[str, Any]], int]
    needed: Callable[[Mapping[str, Any]], tuple[str, ...]] = lambda options: ()
    callers: tuple[str, ...] = ()
    defaults: Callable[[str], Mapping[str, Any]] = field(default=lambda name: {})
    shared: str = ""


def _one_of(*choices: str, required: bool = False) -> Option:
    return Option(" or ".join(f'"{choice}"' for choice in choices), lambda value: value in choices, required)


def _is_words(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and bool(value) and all(isinstance(word, str) and word for word in value)


_TRUTH = Option("True or False", lambda value: isinstance(value, bool))
_WHOLE = Option("a whole number", lambda value: isinstance(value, int) and not isinstance(value, bool))
_TEXT = Option("text", lambda value: isinstance(value, str) and bool(value))

KINDS: Mapping[str, Kind] = {
    "attack": Kind(
        folder="edgeproof.attacks",
        options={
            "norm": _one_of("linf", "l2", required=True),
            "access": _one_of("gradients", "queries", "data", "none", required=True),
            "box": _TRUTH,
            "budget": _one_of("eps", "steps*eps"),
            "nested": _TRUTH,
            "least_classes": _WHOLE,
        },
        signature=lambda options: "(model, x, y, *, eps, ...)",
        positional=lambda options: 3,
        needed=lambda options: (
            "eps",
            *(("steps",) if options.get("budget") == "steps*eps" else ()),
            *(("checkpoint", "draws") if options.get("access") == "data" else ()),
        ),
        callers=("eps", "deployed", "stop", "checkpoint", "draws", "trace"),
        shared="options",
    ),
    "data": Kind(
        folder="edgeproof.data",
        options={"path": _TRUTH},
        signature=lambda options: "(path, *, ...)" if options.get("path") else "(*, ...)",
        positional=lambda options: 1 if options.get("path") else 0,
    ),
    "model": Kind(
        folder="edgeproof.models",
        options={"min_size": _WHOLE, "normalize": _TRUTH, "family": _TRUTH},
        signature=lambda options: f"({'name, ' if options.get('family') else ''}*, input_shape, num_classes)",
        positional=lambda options: 1 if options.get("family") else 0,
        needed=lambda options: ("input_shape", "num_classes"),
        callers=("input_shape", "num_classes"),
    ),
    "engine": Kind(
        folder="edgeproof.engines",
        options={
            "suffixes": Option(
                'suffixes such as (".onnx",)',
                lambda value: _is_words(value) and all(word.startswith(".") for word in value),
                required=True,
            ),
            "short": _TEXT,
            "module": _TEXT,
            "extra": _TEXT,
            "priority": _WHOLE,
            "modes": Option('modes such as ("latency", "throughput")', _is_words),
        },
        signature=lambda options: "(path, *, device, options)",
        positional=lambda options: 1,
        needed=lambda options: ("device", "options"),
        callers=("device", "options"),
        # Below all of ours: that a package is installed does not change what opens a file that names no engine.
        defaults=lambda name: {"short": name, "priority": -1},
    ),
    "objective": Kind(
        folder="edgeproof.training.objectives",
        options={"stateful": _TRUTH},
        signature=lambda options: "(task, *, ...)" if options.get("stateful") else "(model, x, y, *, draws, ...)",
        positional=lambda options: 1 if options.get("stateful") else 3,
        needed=lambda options: () if options.get("stateful") else ("draws",),
        callers=("draws",),
    ),
    "study": Kind(
        folder="edgeproof.studies",
        options={
            "presets": Option(
                'presets such as {"small": {"epochs": 2}}',
                lambda value: isinstance(value, dict) and all(isinstance(preset, dict) for preset in value.values()),
                required=True,
            )
        },
        signature=lambda options: "(*, ...)",
        positional=lambda options: 0,
    ),
}

#: Where each kind of plug-in lives.
FOLDERS: Mapping[str, str] = {name: kind.folder for name, kind in KINDS.items()}

#: Parameters of each kind that the toolkit sets itself.
CALLERS: Mapping[str, tuple[str, ...]] = {name: kind.callers for name, kind in KINDS.items() if kind.callers}

"""Parameters of a plug-in as users write them, read by the annotations of its signature."""

from __future__ import annotations

import sys
import types
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal

from edgeproof.config import parse_number
from edgeproof.errors import ConfigError, PluginError, nearest
from edgeproof.plugins.registry import REQUIRED, Entry


def read_params(entry: Entry, given: Mapping[str, Any], *, skip: Collection[str] = ()) -> dict[str, Any]:
    """Return every parameter of a plug-in with its value: what was given, read by its annotation, else the default.

    Args:
        entry: The plug-in; its module is imported.
        given: Name to value, as text (`8/255`, `true`) or as JSON has it.
        skip: Parameters that the caller sets itself: they are unknown here and are not returned.

    Raises:
        ConfigError: For an unknown name (the nearest and all known ones are named), a value that does not fit, or a
            parameter without a default that is missing.
    """
    known = {param.name: param for param in entry.params if param.name not in skip}
    for name in given:
        if name not in known:
            listed = ", ".join(known) or "none"
            raise ConfigError(
                f"{entry.kind} {entry.name!r} has no parameter {name!r}{nearest(name, known)}; known: {listed}"
            )
    missing = [name for name, param in known.items() if param.default is REQUIRED and name not in given]
    if missing:
        raise ConfigError(f"{entry.kind} {entry.name!r} needs a value for {missing[0]!r}")
    hints = _hints(entry, names=known)
    return {
        name: parse_value(given[name], hints[name], name=name) if name in given else param.default
        for name, param in known.items()
    }


def parse_value(value: Any, annotation: Any, *, name: str) -> Any:
    """Read one value by its annotation: float, int, bool, str, Literal, a tuple of one of these, or one of these or None; Any as it is.

    A tuple may be written with commas: `truck,ship`.

    Raises:
        ConfigError: When it does not fit; the message has the value and what was expected.
    """
    if annotation is Any:
        return value
    origin, choices = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        inner = next(choice for choice in choices if choice is not type(None))
        return None if value is None or value == "none" else parse_value(value, inner, name=name)
    if origin is Literal:
        if value in choices:
            return value
        near = nearest(str(value), map(str, choices))
        raise ConfigError(f"{name} = {value!r} is not known{near}; expected {', '.join(map(str, choices))}")
    if origin is tuple:
        single = isinstance(value, (int, float)) and len(choices) > 1 and choices[-1] is Ellipsis
        text = str(value) if single else value  # a command line's `protect=8` is a number by then
        parts = [part.strip() for part in text.split(",") if text.strip()] if isinstance(text, str) else text
        fixed = None if choices[-1] is Ellipsis else len(choices)
        if not isinstance(parts, (list, tuple)) or (fixed and len(parts) != fixed):
            raise ConfigError(f"{name} = {value!r} is not accepted; expected {fixed or 'a list of'} values")
        return tuple(parse_value(part, choices[0], name=name) for part in parts)
    if annotation not in _READERS:
        shown = getattr(annotation, "__name__", annotation)
        raise ConfigError(
            f"{name} is annotated {shown}, which cannot be read from a command line; expected float, int, bool, str, a Literal, "
            "a tuple of one of these, or one of these or None"
        )
    read, expected = _READERS[annotation]
    try:
        return read(value)
    except (ConfigError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{name} = {value!r} is not accepted; expected {expected}") from error


def _number(value: Any) -> float:
    if isinstance(value, bool):
        raise TypeError
    return parse_number(value)


def _whole(value: Any) -> int:
    number = int(value) if isinstance(value, str) else value
    if isinstance(number, bool) or not isinstance(number, int):
        raise TypeError
    return number


def _truth(value: Any) -> bool:
    return value if isinstance(value, bool) else {"true": True, "false": False}[value]


_READERS: Mapping[Any, tuple[Callable[[Any], Any], str]] = {
    float: (_number, "a number such as 8/255 or 0.03"),
    int: (_whole, "a whole number"),
    bool: (_truth, "true or false"),
    str: (str, "text"),
}


def _hints(entry: Entry, *, names: Collection[str]) -> dict[str, Any]:
    function = entry.load()
    # Only these parameters: the positional ones may be annotated with names that exist for the type checker alone.
    texts = {param.name: param.annotation for param in entry.params if param.name in names}
    try:
        names_in_module = getattr(function, "__globals__", None) or vars(sys.modules[function.__module__])
        return typing.get_type_hints(types.SimpleNamespace(__annotations__=texts), globalns=names_in_module)
    except (NameError, SyntaxError, TypeError) as error:
        if entry.own:
            raise
        raise PluginError(
            f"plug-in {entry.file or entry.module}: the annotations of {entry.function!r} cannot be read ({error}); "
            "expected names that the module imports at run time, such as float"
        ) from error

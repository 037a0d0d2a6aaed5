"""Configurations from a JSON file, `KEY=VALUE` assignments and options."""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from edgeproof.errors import ConfigError, DataError, nearest
from edgeproof.system.untrusted import read_json

_SHOWN = 200  # letters of a value or a name in a message

C = TypeVar("C", bound=BaseModel)


def build_config(
    kind: type[C],
    *,
    file: Path | None = None,
    sets: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    base: Mapping[str, Any] | None = None,
) -> C:
    """Build a configuration from `base`, then a JSON file, then `a.b=c` assignments, then options, later ones winning.

    Raises:
        ConfigError: For an unreadable file, an unknown key (the nearest one is named) or a value out of range.
    """
    values: dict[str, Any] = {**(base or {}), **(_read_json(file) if file else {})}
    for key, value in parse_assignments(sets).items():
        _assign(values, key.split("."), _literal(value))
    for key, value in (options or {}).items():
        _assign(values, key.split("."), value)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_first_problem(kind, error)) from error


#: Short: a fraction is computed exactly, and 1e99999999 has a hundred million digits.
_DECIMAL = re.compile(r"[+-]?(?:\d{1,40}\.?\d{0,40}|\.\d{1,40})(?:[eE][+-]?\d{1,3})?")


def parse_number(text: str | float) -> float:
    """Read a number that may be written as a fraction: `8/255`, `0.5/255`, `0.03`, `1e-4`. Nothing is evaluated.

    Raises:
        ConfigError: When it is neither a number nor a fraction.
    """
    try:
        if isinstance(text, (int, float)):
            return float(text)
        numerator, slash, denominator = text.replace(" ", "").partition("/")
        if not (_DECIMAL.fullmatch(numerator) and (_DECIMAL.fullmatch(denominator) or not slash)):
            raise ValueError(text)
        return float(Fraction(numerator) / Fraction(denominator if slash else 1))
    except (ValueError, ZeroDivisionError, OverflowError, AttributeError) as error:
        shown = reprlib.repr(text)
        raise ConfigError(f"{shown} is not a number; expected one such as 8/255 or 0.03") from error


def parse_assignments(sets: Sequence[str]) -> dict[str, str]:
    """Read what stands behind `--set`, key to text.

    Raises:
        ConfigError: For one without `=`.
    """
    for text in sets:
        if "=" not in text:
            raise ConfigError(f"--set {text!r} has no '='; expected KEY=VALUE such as data.name=digits")
    return {key.strip(): value for key, _, value in (text.partition("=") for text in sets)}


def _read_json(file: Path) -> dict[str, Any]:
    try:
        values = read_json(file)
    except DataError as error:
        raise ConfigError(f'{error}; expected an object such as {{"epochs": 5}}') from error
    if isinstance(values, dict) and "schema_version" in values:
        values = values.get("config", values)  # a manifest repeats its run
    if not isinstance(values, dict):
        raise ConfigError(f'{file} holds a {type(values).__name__}; expected a JSON object such as {{"epochs": 5}}')
    return values


def _assign(values: dict[str, Any], path: list[str], value: Any) -> None:
    for depth, key in enumerate(path[:-1], start=1):
        inner = values.setdefault(key, {})
        if not isinstance(inner, dict):
            where = ".".join(path[:depth])
            raise ConfigError(f"{where} = {_shown(inner)} has no {path[depth]!r}; give {where} no value of its own")
        values = inner
    values[path[-1]] = value


def _shown(value: Any) -> str:
    """Return a value as a message shows it, however large it is."""
    return repr(value[:_SHOWN]) if isinstance(value, str) else reprlib.repr(value)


def _literal(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _first_problem(kind: type[BaseModel], error: ValidationError) -> str:
    problem = error.errors(include_url=False)[0]
    where = [str(part) for part in problem["loc"]]
    name = ".".join(where)
    if problem["type"] == "missing":
        return f"{name} is missing; give it with --{name.replace('_', '-')} or in --config"
    if problem["type"] != "extra_forbidden":
        return f"{name} = {_shown(problem['input'])} is not accepted: {problem['msg'][:_SHOWN]}"
    fields = kind.model_fields
    for part in where[:-1]:
        annotation = fields[part].annotation if part in fields else None
        kinds = (annotation, *get_args(annotation))  # `QatConfig | None` too
        inner = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
        fields = inner.model_fields if inner else {}
    return f"unknown key {name[:_SHOWN]!r}{nearest(where[-1], fields)}; known: {', '.join(fields)}"


def split_at_commas(value: Any) -> Any:
    """Split `3,32,32`, alone or as the only item of a list, which is how the command line gives it."""
    if isinstance(value, (tuple, list)) and len(value) == 1 and isinstance(value[0], str):
        value = value[0]
    return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value

"""Configurations from a JSON file, `KEY=VALUE` assignments and options."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from toolkit.errors import ConfigError, nearest

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
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f'{file} cannot be read as JSON ({error}); expected an object such as {{"epochs": 5}}'
        ) from error
    if not isinstance(values, dict):
        raise ConfigError(f'{file} holds a {type(values).__name__}; expected a JSON object such as {{"epochs": 5}}')
    return dict(values.get("config", values)) if "schema_version" in values else values  # a manifest repeats its run


def _assign(values: dict[str, Any], path: list[str], value: Any) -> None:
    for key in path[:-1]:
        values = values.setdefault(key, {})
    values[path[-1]] = value


def _literal(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _first_problem(kind: type[BaseModel], error: ValidationError) -> str:
    problem = error.errors(include_url=False)[0]
    where = [str(part) for part in problem["loc"]]
    name = ".".join(where)
    if problem["type"] == "missing":
        return f"{name} is missing; give it with --{name.replace('_', '-')} or in --config"
    if problem["type"] != "extra_forbidden":
        return f"{name} = {problem['input']!r} is not accepted: {problem['msg']}"
    fields = kind.model_fields
    for part in where[:-1]:
        inner = fields[part].annotation
        fields = inner.model_fields if isinstance(inner, type) and issubclass(inner, BaseModel) else {}
    return f"unknown key {name!r}{nearest(where[-1], fields)}; known: {', '.join(fields)}"

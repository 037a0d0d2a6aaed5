"""Click options made from configurations and from plug-ins' signatures, so that nothing is declared twice."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import click
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from edgeproof.config import ImportConfig, PoisonConfig, Strict, TrainConfig, build_config, parse_assignments
from edgeproof.config.base import Counts
from edgeproof.config.names import SHORT
from edgeproof.errors import ConfigError, PluginError, one_line
from edgeproof.plugins.registry import REQUIRED, Entry, Param, entries, find
from edgeproof.plugins.trusted import check_named, name_factory

#: Where a run goes, and how it is begun and shown.
RUN_OPTIONS = [
    click.Option(
        ["--out"], type=click.Path(path_type=Path), help="run folder (default: under $EDGEPROOF_RUNS, else runs/)"
    ),
    click.Option(["--fresh/--resume"], default=False, help="start over, or continue what is unfinished (default)"),
    click.Option(["--json", "as_json"], is_flag=True, help="print a JSON object instead of the path"),
]


def config_options(kind: type[Strict], *, hidden: Iterable[str] = ()) -> list[click.Option]:
    """Return one option per field of a configuration, nested ones included, with `--config` and `--set`.

    Args:
        kind: The configuration.
        hidden: Dotted names of fields that get no option of their own.
    """
    return [
        *field_options(kind, hidden=hidden),
        click.Option(
            ["--config", "config_file"], type=click.Path(path_type=Path), help="JSON file with the configuration"
        ),
        click.Option(["--set", "overrides"], multiple=True, metavar="KEY=VALUE", help="set any key: a.b=c"),
    ]


def field_options(kind: type[Strict], *, hidden: Iterable[str] = (), when: str = "") -> list[click.Option]:
    """Return the options of the fields alone, their help beginning with when they count."""
    options = [_field_option(path, field, when) for path, field in _fields(kind) if path not in set(hidden)]
    return [option for option in options if option]


def given_options(kind: type[Strict], values: Mapping[str, Any]) -> list[str]:
    """Return the names of a configuration's options that were given on the command line."""
    return [f"--{_word(path)}" for path, _ in _fields(kind) if values.get(_dest(path)) not in (None, ())]


def read_config(
    kind: type[Strict],
    values: dict[str, Any],
    *,
    base: Mapping[str, Any] | None = None,
    counts: Sequence[Counts] = (),
    **fixed: Any,
) -> Any:
    """Build the configuration from what click parsed, removing its entries from `values`.

    Args:
        kind: The configuration.
        values: What click parsed.
        base: Values that count where nothing else is given.
        counts: When options have an effect, beyond what the configuration says itself.
        fixed: Values that count in any case, by dotted name.

    Raises:
        ConfigError: As `build_config` and `refuse_unused` do.
        ModelError: When a file alone names code of the user's.
    """
    file, overrides = values.pop("config_file"), values.pop("overrides")
    given = {path: values.pop(_dest(path)) for path, _ in _fields(kind) if _dest(path) in values}
    explicit = {path: value for path, value in given.items() if value not in (None, ())}
    config = build_config(kind, file=file, sets=overrides, options={**explicit, **fixed}, base=base)
    typed = {**parse_assignments(overrides), **explicit}
    refuse_unused(config, typed, counts=counts)
    if key := _NAMES_A_NETWORK.get(kind):
        if key in typed:
            name_factory(typed[key])
        else:
            check_named(getattr(config, key), source=file)
    return config


def refuse_unused(config: Strict, given: Mapping[str, Any], *, counts: Sequence[Counts] = ()) -> None:
    """Refuse an option that has no effect together with the others.

    A file (`--config`) may hold such values: a manifest repeats every option with its default.

    Args:
        config: All that was chosen.
        given: Value by dotted name, of what was given on the command line.
        counts: When options have an effect, beyond what the configuration says itself.

    Raises:
        ConfigError: With the option, why it has no effect and what to add or leave out.
    """
    options = {path for path, field in _fields(type(config)) if _field_option(path, field)}
    for path, value in given.items():
        if value is False or value in ("false", "null"):  # what is off already may be switched off
            continue
        for each in (*type(config).counts, *counts):
            if any(path == name or path.startswith(f"{name}.") for name in each.options) and not each.when(config):
                shown = f"--{_word(path)}" if path in options else f"--set {path}"
                because = one_line(each.because.format(config))
                advice = f"add {each.add} or leave {shown} out" if each.add else f"leave {shown} out"
                raise ConfigError(f"{shown} has no effect here: {because}; {advice}")


_NAMES_A_NETWORK = {TrainConfig: "model", ImportConfig: "model", PoisonConfig: "victim"}


def plugin_options(entry: Entry, *, skip: Iterable[str] = (), taken: Iterable[click.Option] = ()) -> list[click.Option]:
    """Return one option per parameter of a plug-in; values are text, which the plug-in's caller reads by its annotation.

    Args:
        entry: The plug-in.
        skip: Parameters without an option.
        taken: The other options of its command.

    Raises:
        PluginError: When a plug-in of the user's has a parameter whose option is taken.
    """
    skip = set(skip)
    meaning = documented_params(entry.help)
    options = [_param_option(param, meaning.get(param.name, "")) for param in entry.params if param.name not in skip]
    words = {word for option in taken for word in (*option.opts, *option.secondary_opts)} | {"--plugin"}
    for option in options if not entry.own else ():
        if option.opts[0] in words:
            raise PluginError(
                f"plug-in {entry.file or entry.module}: {entry.kind} {entry.name!r} has a parameter for {option.opts[0]}, which is an "
                f"option of every {entry.kind}; rename the parameter"
            )
    return options


def introduction(text: str) -> str:
    """Return a Google-style docstring up to its first section."""
    return re.split(r"\n(?:Args|Returns|Raises):\n", text, maxsplit=1)[0].strip()


def documented_params(text: str) -> dict[str, str]:
    """Return what the `Args` section of a Google-style docstring says of each parameter."""
    section = re.search(r"^Args:\n(.*?)(?=^\S|\Z)", text, flags=re.DOTALL | re.MULTILINE)
    pieces = re.split(r"^ {4}(\w+): ", section.group(1), flags=re.MULTILINE)[1:] if section else []
    return {name: " ".join(words.split()) for name, words in zip(pieces[::2], pieces[1::2], strict=True)}


def given_params(entry: Entry, values: dict[str, Any]) -> dict[str, Any]:
    """Take the plug-in parameters that were given on the command line out of `values`."""
    taken = {param.name: values.pop(f"param_{param.name}", None) for param in entry.params}
    return {name: value for name, value in taken.items() if value is not None}


class PluginGroup(click.Group):
    """A group whose commands are the plug-ins of a kind: made when asked for, named without importing anything."""

    def __init__(self, *args: Any, plugins: str, make: Callable[[Entry], click.Command], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._plugins = plugins
        self._make = make

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the plug-ins' names."""
        return list(entries(self._plugins))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of a plug-in; an unknown one is an error that names the nearest."""
        return self._make(find(self._plugins, cmd_name))


def _fields(kind: type[BaseModel], prefix: str = "") -> Iterable[tuple[str, FieldInfo]]:
    for name, field in kind.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _fields(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def _word(path: str) -> str:
    return SHORT.get(path, path.rpartition(".")[2]).replace("_", "-")


def _dest(path: str) -> str:
    return "config_" + path.replace(".", "_")


def _field_option(path: str, field: FieldInfo, when: str = "") -> click.Option | None:
    word = _word(path)
    kind, multiple = _click_type(field.annotation)
    if kind is None:
        return None
    default = field.get_default(call_default_factory=True) if not field.is_required() else None
    shown = "" if default in (None, (), "") else f"  [default: {_show(default)}]"
    help_text = f"{when}{field.description or ''}{shown}"
    if kind is bool:
        return click.Option([f"--{word}/--no-{word}", _dest(path)], default=None, help=help_text)
    return click.Option([f"--{word}", _dest(path)], type=kind, multiple=multiple, default=None, help=help_text)


def _click_type(annotation: Any) -> tuple[Any, bool]:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _click_type(arguments[0])
    if origin is tuple:
        kind = _click_type(arguments[0])[0]
        return (str if kind is int else kind), True  # read by pydantic, which understands 3,32,32
    if origin is Literal:
        return click.Choice(arguments), False
    if origin in (typing.Union, types.UnionType):
        return _click_type(next(argument for argument in arguments if argument is not type(None)))
    if annotation is float:
        return str, False  # read by pydantic, which understands 8/255
    return (annotation, False) if annotation in (str, int, bool) else (None, False)


def _param_option(param: Param, meaning: str) -> click.Option:
    required = param.default is REQUIRED
    shown = "" if required or param.default is None else f"  [default: {_show(param.default)}]"
    kinds = {"int": "INTEGER", "float": "NUMBER", "bool": "BOOL"}
    return click.Option(
        ["--" + param.name.replace("_", "-"), f"param_{param.name}"],
        required=required,
        metavar=kinds.get(param.annotation.split("|")[0].strip(), "TEXT"),
        help=f"{meaning}{shown}",
    )


def _show(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(_show, value))
    return f"{value:g}" if isinstance(value, float) else str(value)

"""Plug-ins read from their source with `ast`: names, parameters and documentation, without running the file."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from edgeproof.errors import PluginError, nearest
from edgeproof.plugins.kinds import KINDS, REQUIRED, Entry, Param

_NAME = re.compile(r"[a-z0-9][a-z0-9.-]*")
_Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
_HOMES = ("edgeproof", "edgeproof.plugins.registry")


def read_own(kind: str, module: str, file: Path) -> list[Entry]:
    """Return the plug-ins of one of our files; the kind is the folder that it stands in."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return [
        _entry(node, _literals(call), kind=kind, name=ast.literal_eval(call.args[0]), module=module, file=None)
        for node, call in _registered(tree)
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and isinstance(call, ast.Call)
    ]


def read_users(file: Path, module: str) -> list[Entry]:
    """Return the plug-ins of a file of the user's, checked as far as that is possible without running it.

    Raises:
        PluginError: For a file that cannot be read, or a plug-in that is not what its kind takes, with the line.
    """
    try:
        tree = ast.parse(file.read_bytes())
    except OSError as error:
        raise PluginError(
            f"plug-in {file} cannot be read ({error.strerror or error}); expected a Python file"
        ) from error
    except (SyntaxError, ValueError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        what = error.msg if isinstance(error, SyntaxError) else error
        raise PluginError(f"plug-in {file}{line}: {what}; expected Python that can be read; fix the file") from error
    return [_checked(tree, node, call, where=str(file), module=module, file=file) for node, call in _registered(tree)]


def read_text(text: str, module: str) -> list[Entry]:
    """Return the plug-ins of a piece of source that stands in no file, such as a notebook's cell."""
    tree = ast.parse(text)
    where = f"in {module}"
    return [
        _checked(tree, node, call, where=where, module=module, file=None, text=text)
        for node, call in _registered(tree, anyhow=True)
    ]


def _registered(tree: ast.Module, *, anyhow: bool = False) -> Iterator[tuple[_Function, ast.expr]]:
    """Return what stands under our decorator, by whatever name the file has imported it."""
    known = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            known |= {f"{alias.asname or alias.name}.register" for alias in node.names if alias.name in _HOMES}
        elif isinstance(node, ast.ImportFrom) and node.module in _HOMES:
            known |= {alias.asname or alias.name for alias in node.names if alias.name == "register"}
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            for decorator in node.decorator_list:
                text = ast.unparse(decorator.func if isinstance(decorator, ast.Call) else decorator)
                if text in known or (anyhow and text.rpartition(".")[2] == "register"):
                    yield node, decorator


def _checked(
    tree: ast.Module, node: _Function, call: ast.expr, *, where: str, module: str, file: Path | None, text: str = ""
) -> Entry:
    """Read a plug-in of the user's and refuse what its kind does not take."""

    def refuse(reason: str, at: ast.AST = node) -> NoReturn:
        raise PluginError(f"plug-in {where}, line {getattr(at, 'lineno', 0)}: {reason}")

    if not isinstance(node, ast.FunctionDef) or node not in tree.body:
        refuse(f"{node.name!r} is no function at the top level; expected @register above one: def {node.name}(...)")
    if not isinstance(call, ast.Call) or len(call.args) != 1:
        refuse('expected @register("NAME", kind="KIND", ...), with one name', call)
    try:
        name = ast.literal_eval(call.args[0])
        given = _literals(call)
    except (ValueError, TypeError) as error:
        refuse(
            f"{error} is not written out; expected literals in @register(...), which is read without running the file",
            call,
        )
    kind = given.pop("kind", None)
    if kind is None:
        refuse(
            f'{name!r} has no kind; expected @register({name!r}, kind="attack", ...), or {", ".join(list(KINDS)[1:])}',
            call,
        )
    if kind not in KINDS:
        refuse(f"kind = {kind!r} is not known{nearest(str(kind), KINDS)}; expected {', '.join(KINDS)}", call)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        refuse(f"the name {name!r} is not accepted; expected small letters, digits and '-', such as my-{kind}", call)
    _check_options(kind, name, given, refuse=lambda reason: refuse(reason, call))
    _check_signature(kind, node, given, refuse=refuse)
    options = {**KINDS[kind].defaults(name), **given}
    try:
        return _entry(node, options, kind=kind, name=name, module=module, file=file, text=text)
    except (ValueError, TypeError) as error:
        refuse(f"the default {error} is not written out; expected a literal, which is read without running the file")


def _check_options(kind: str, name: str, given: Mapping[str, Any], *, refuse: Any) -> None:
    known = KINDS[kind].options
    for key, value in given.items():
        if key not in known:
            refuse(f"{kind} {name!r} has the option {key!r}{nearest(key, known)}; known: {', '.join(known)}")
        if not known[key].accepts(value):
            refuse(f"{kind} {name!r}: {key} = {value!r} is not accepted; expected {known[key].expected}")
    for key, option in known.items():
        if option.required and key not in given:
            refuse(
                f"{kind} {name!r} does not say its {key}; expected @register({name!r}, kind={kind!r}, {key}=...), {option.expected}"
            )


def _check_signature(kind: str, node: ast.FunctionDef, given: Mapping[str, Any], *, refuse: Any) -> None:
    about, arguments = KINDS[kind], node.args
    expected = f"expected def {node.name}{about.signature(given)}"
    if arguments.vararg or arguments.kwarg:
        refuse(f"{node.name!r} takes *args or **kwargs, of which no options can be made; {expected}")
    before = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args)]
    if len(before) != about.positional(given):
        refuse(f"{node.name!r} has {', '.join(before) or 'nothing'} before the '*'; {expected}")
    named = [argument.arg for argument in arguments.kwonlyargs]
    if missing := [each for each in about.needed(given) if each not in named]:
        refuse(f"{node.name!r} has no parameter {missing[0]!r} behind the '*'; {expected}")
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        if argument.annotation is None and argument.arg not in about.callers:
            refuse(
                f"the parameter {argument.arg!r} has no annotation, by which its value is read; expected one such as "
                f"{argument.arg}: float",
                argument,
            )
        if default is not None:
            try:
                ast.literal_eval(default)
            except (ValueError, TypeError):
                refuse(
                    f"the default {argument.arg} = {ast.unparse(default)} is not written out; expected a literal, which is read "
                    "without running the file",
                    argument,
                )


def _literals(call: ast.Call) -> dict[str, Any]:
    found = {}
    for word in call.keywords:
        try:
            found[word.arg or "**"] = ast.literal_eval(word.value)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{word.arg or '**'} = {ast.unparse(word.value)}") from error
    return found


def _entry(
    node: ast.FunctionDef | ast.ClassDef,
    options: Mapping[str, Any],
    *,
    kind: str,
    name: str,
    module: str,
    file: Path | None,
    text: str = "",
) -> Entry:
    named: list[tuple[str, ast.expr | None, ast.expr | None]]
    if isinstance(node, ast.ClassDef):  # of a study: the fields of a dataclass
        fields = [field for field in node.body if isinstance(field, ast.AnnAssign)]
        named = [(ast.unparse(field.target), field.annotation, field.value) for field in fields]
    else:
        arguments = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
        named = [(argument.arg, argument.annotation, default) for argument, default in arguments]
    params = tuple(
        Param(
            each,
            ast.unparse(annotation) if annotation else "",
            REQUIRED if default is None else ast.literal_eval(default),
        )
        for each, annotation, default in named
    )
    documented, shared = ast.get_docstring(node) or "", _shared(kind)
    lines = [
        f"    {param.name}: {shared[param.name]}\n"
        for param in params
        if param.name in shared and f"\n    {param.name}: " not in documented
    ]
    if documented and lines:  # parameters that the docstring leaves to the options that plug-ins of the kind share
        head, section, rest = documented.partition("\nArgs:\n")
        if not section:
            head, section, rest = documented.rstrip() + "\n", "\nArgs:\n", ""
        documented = f"{head}{section}{''.join(lines)}{rest}".rstrip()
    summary = documented.split("\n", 1)[0]
    return Entry(kind, name, module, node.name, summary, params, options, documented, file, text)


@cache
def _shared(kind: str) -> Mapping[str, str]:
    """Return the meaning of the parameters that a kind shares: the `Attributes` of the classes in its module of options."""
    found: dict[str, str] = {}
    if KINDS[kind].shared:
        folder = Path(__file__).resolve().parents[1].joinpath(*KINDS[kind].folder.split(".")[1:])
        tree = ast.parse((folder / f"{KINDS[kind].shared}.py").read_text(encoding="utf-8"))
        for node in tree.body:
            text = ast.get_docstring(node) or "" if isinstance(node, ast.ClassDef) else ""
            section = re.search(r"^Attributes:\n(.*?)(?=^\S|\Z)", text, flags=re.DOTALL | re.MULTILINE)
            pieces = re.split(r"^ {4}(\w+): ", section.group(1), flags=re.MULTILINE)[1:] if section else []
            for name, words in zip(pieces[::2], pieces[1::2], strict=True):
                found.setdefault(name, " ".join(words.split()))
    return found

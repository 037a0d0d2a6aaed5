"""Every option and every command that a text of the program names exists, so that the advice of a message can be followed."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from edgeproof.commands import VERBS, cli

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted(path for folder in ("toolkit", "export") for path in (ROOT / folder).rglob("*.py"))
#: Of other programs, and the beginnings of names of jobs in studies.
OTHERS = {
    "--abbrev", "--always", "--dirty", "--force-reinstall", "--system-site-packages", "--help", "--no", "--eval", "--export", "--pgd",
}  # fmt: skip


def texts(path: Path) -> Iterator[str]:
    """Return the texts of a file; what is put into one when it is shown is `{}`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def commands(command: click.Command, ctx: click.Context) -> Iterator[click.Command]:
    yield command
    if isinstance(command, click.Group):
        for name in command.list_commands(ctx):
            found = command.get_command(ctx, name)
            assert found is not None
            yield from commands(found, ctx)


@pytest.fixture(scope="module")
def options() -> set[str]:
    every = commands(cli, click.Context(cli))
    return {name for command in every for param in command.params for name in (*param.opts, *param.secondary_opts)}


def named(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z]", text)) - OTHERS


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_option_that_a_text_names_exists(path: Path, options: set[str]) -> None:
    assert not {name for text in texts(path) for name in named(text)} - options


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_command_that_a_text_quotes_exists_with_its_options(path: Path) -> None:
    for text in texts(path):
        for line in re.findall(r"`edgeproof ([a-z][^`]*)`|: edgeproof ([a-z][^;,]*)", text):
            verb, *rest = "".join(line).split()
            assert verb in VERBS, text
            command = cli.get_command(click.Context(cli), verb)
            assert command is not None
            known = {
                name
                for each in commands(command, click.Context(command))
                for param in each.params
                for name in param.opts
            }
            assert {word for word in rest if word.startswith("--")} <= known, text


def test_an_option_that_does_not_exist_is_noticed(options: set[str]) -> None:
    assert named("give --no-such-option, or --data") - options == {"--no-such-option"}

"""The commands of docs/ci.md are commands of this program, its limits are limits that it reads."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest

from edgeproof.commands import cli
from edgeproof.commands.options import read_config
from edgeproof.config import EvalConfig
from edgeproof.evaluation.gates import parse_gates

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "ci.md"


def _commands() -> list[list[str]]:
    text = re.sub(r"\s*\\?\n\s+(?=--)", " ", DOCUMENT.read_text(encoding="utf-8"))
    return [shlex.split(line)[1:] for line in re.findall(r"edgeproof \w+ .*--.*", text)]


def _parsed(words: list[str]) -> tuple[str, dict[str, Any]]:
    """Let click read a command down to its last verb, without running it."""
    command: click.Command = cli
    name, rest = "cli", words
    while isinstance(command, click.Group):
        name, *rest = rest
        found = command.get_command(click.Context(command), name)
        assert found is not None, f"there is no command {name!r}"
        command = found
    return name, command.make_context(name, rest).params


def test_the_document_has_a_command_for_each_place() -> None:
    verbs = [words[0] for words in _commands()]
    assert verbs == ["attack", "attack", "eval", "eval", "eval", "diff"]


@pytest.mark.parametrize("words", _commands(), ids=lambda words: " ".join(words[:2]))
def test_every_command_is_read_by_the_program(words: list[str]) -> None:
    assert _parsed(words)[0] in ("eval", "diff", "pgd-linf", "noise")


@pytest.mark.parametrize(
    "words", [words for words in _commands() if words[0] == "eval"], ids=["shell", "github", "gitlab"]
)
def test_every_recipe_limits_what_int8_may_lose_on_one_class(words: list[str]) -> None:
    config = read_config(EvalConfig, _parsed(words)[1])
    gates = parse_gates(config.fail_under, config.max_drop)
    assert ("int8", "robust_accuracy", "cat", 0.02) in [(g.engine, g.metric, g.label, g.limit) for g in gates]
    assert config.reference == "fp32"


def test_an_option_that_does_not_exist_would_be_noticed() -> None:
    with pytest.raises(click.NoSuchOption, match="--max-loss"):
        _parsed(["eval", "--max-loss", "int8:robust_accuracy=0.02"])

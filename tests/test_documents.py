"""Commands in docs/*.md and in the README name verbs, plug-ins and options that exist; links are in tests/test_readme.py."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import click
import pytest

from edgeproof.commands import VERBS, cli
from edgeproof.errors import ToolkitError

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = ["README.md", *(path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").rglob("*.md")))]
#: Attacks of a user's own, in docs/extending.md.
OTHERS = {"my-sign"}


def commands(text: str) -> set[str]:
    """Return what follows `edgeproof` in every command: in code blocks, and in spans that begin with a verb and have an option."""
    text = text.replace("\\\n", " ")
    code = [
        *re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE),
        *re.findall(r"^    .*$", text, re.MULTILINE),
    ]
    found = {words for block in code for words in re.findall(r"(?:^|do |-m )\s*edgeproof (.+)$", block, re.MULTILINE)}
    verbs = "|".join(VERBS)
    return found | set(re.findall(rf"`(?:edgeproof )?((?:{verbs}) [^`]*--[^`]*)`", text))


@cache
def options_of(*names: str) -> frozenset[str]:
    command: click.Command = cli
    context = click.Context(command)
    for name in names:
        assert isinstance(command, click.Group)
        found = command.get_command(context, name)
        assert found is not None, name
        command = found
    return frozenset(option for param in command.params for option in (*param.opts, *param.secondary_opts))


def unknown(line: str) -> list[str]:
    """Return what is not known of a command."""
    words = line.partition(" # ")[0].partition("; done")[0].split()
    if words[:1] == ["--plugin"]:
        words = words[2:]
    if not words or words[0] not in VERBS:
        return words[:1]
    names = words[:1]
    if words[0] in ("attack", "study", "bench") and len(words) > 1 and re.fullmatch(r"[a-z][\w-]*", words[1]):
        names = words[:2]
    if set(words[1:2]) & {"NAME", *OTHERS}:
        return []
    try:
        known = options_of(*names)
    except ToolkitError:
        return names
    given = [word.partition("=")[0] for word in words if re.match(r"--[a-z]", word)]
    return [option for option in given if option not in known and option != "--plugin"]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_of_a_document_is_one_that_exists(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    wrong = {line: missing for line in commands(text) if (missing := unknown(line))}
    assert not wrong


def test_a_command_that_does_not_exist_is_noticed() -> None:
    text = "```sh\nedgeproof attack pgd-linf --model runs/model \\\n  --budget 1\n```\nand `export --nothing` or `attack pgd --eps 1`"
    assert sorted(word for line in commands(text) for word in unknown(line)) == [
        "--budget",
        "--nothing",
        "attack",
        "pgd",
    ]

"""Errors that a user can cause or mend, each with the exit status that the command line gives it.

A message says what was wrong (with the value), what was expected and what to do next, in one line.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LONGEST = 2000  # letters


class ToolkitError(Exception):
    """Root of every error that is reported as one line, without a traceback."""

    exit_code = 2

    def __str__(self) -> str:
        """Return one line that a terminal only shows: names come from files, which may hold anything at any length."""
        return one_line(super().__str__())


class ConfigError(ToolkitError):
    """An option, a configuration key or a name that is unknown or out of range."""


class PluginError(ToolkitError):
    """A plug-in that cannot be found, read or imported, or that breaks what its kind promises."""


class DataError(ToolkitError):
    """A data set, an image array or labels that cannot be used as they are."""


class ModelError(ToolkitError):
    """A checkpoint or a graph that cannot be used: unreadable, wrong shape, not finite."""


class RunError(ToolkitError):
    """A run folder that is missing, unfinished, locked, tampered with or of the wrong kind."""


class ProcessError(ToolkitError):
    """A command on several processes of which one has ended or does not answer."""


class StudyError(ToolkitError):
    """A study of which jobs have failed."""


class GateError(ToolkitError):
    """A limit that was asked for (a parity gate, `--fail-under`, `--max-drop`) does not hold."""

    exit_code = 1


class UnavailableError(ToolkitError):
    """An optional dependency, a device or a provider that was asked for and is not there."""

    exit_code = 3


class ExhaustedError(ToolkitError):
    """Disk or memory at their end; what was saved is named."""


class AttackContractError(ToolkitError):
    """An attack returned images that break its own promise; always our bug or the attack author's."""

    exit_code = 4


def one_line(text: str) -> str:
    """Return a text as one line of bounded length, with escapes for what a terminal would obey."""
    shown = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
    half = _LONGEST // 2
    return shown if len(shown) <= _LONGEST else f"{shown[:half]} ... {shown[-half:]}"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or its type where it has none."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return " (did you mean 'x'?)" for the nearest known name, or "" when none is near."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""

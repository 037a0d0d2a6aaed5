"""Progress on stderr, off when that is no terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Protocol

from edgeproof.errors import one_line


class Advance(Protocol):
    """The function that a loop calls after each step."""

    def __call__(self, steps: float = 1, *, note: str = "") -> None: ...


@contextlib.contextmanager
def progress(description: str, total: float, *, done: int = 0) -> Iterator[Advance]:
    """Show a bar with the rate, the time left and a short note; names are text, whatever they hold.

    Args:
        description: What is being done.
        total: Number of steps.
        done: Steps that an earlier process has already done.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(one_line(description), total=total, completed=done, note="")

        def advance(steps: float = 1, *, note: str = "") -> None:
            bar.update(task, advance=steps, note=one_line(note))

        yield advance

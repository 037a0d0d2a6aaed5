"""Progress on stderr, off when that is no terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Protocol


class Advance(Protocol):
    """What a loop calls after each step."""

    def __call__(self, steps: float = 1, *, note: str = "") -> None: ...


@contextlib.contextmanager
def progress(description: str, total: float, *, done: int = 0) -> Iterator[Advance]:
    """Show a bar with the rate, the time left and a short note.

    Args:
        description: What is being done.
        total: Number of steps.
        done: Steps that an earlier process has already done.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(description, total=total, completed=done, note="")

        def advance(steps: float = 1, *, note: str = "") -> None:
            bar.update(task, advance=steps, note=note)

        yield advance

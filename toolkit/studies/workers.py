"""Local processes that carry out jobs, one at a time each. They end with the process that started them, however it ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import TracebackType

from edgeproof.errors import ToolkitError, first_line
from edgeproof.studies.jobs import Job, carry_out
from edgeproof.system.environment import usable_cores
from edgeproof.system.lines import logged_to_stderr
from edgeproof.system.optional import missing

_PATIENCE = 10.0  # seconds for a job to leave its files in order once it is told to stop


class Workers:
    """Up to `count` processes, started when they are needed."""

    def __init__(self, count: int, *, folder: Path) -> None:
        self._count = count
        self._folder = folder
        self._idle: list[tuple[Connection, SpawnProcess]] = []
        self._busy: dict[Connection, tuple[SpawnProcess, Job]] = {}

    @property
    def free(self) -> bool:
        """Whether another job can be begun."""
        return len(self._busy) < self._count

    @property
    def busy(self) -> bool:
        """Whether a job is being done."""
        return bool(self._busy)

    @property
    def note(self) -> str:
        """What is being done, for people."""
        return ", ".join(job.name for _, job in self._busy.values())

    def give(self, job: Job) -> None:
        """Begin a job."""
        pipe, process = self._idle.pop() if self._idle else self._start()
        pipe.send(job)
        self._busy[pipe] = process, job

    def wait(self) -> tuple[Job, str | None]:
        """Return the next job that ends, and its error in one line if it failed."""
        pipe = next(pipe for pipe in wait(list(self._busy)) if isinstance(pipe, Connection))
        process, job = self._busy.pop(pipe)
        try:
            error: str | None = pipe.recv()
        except EOFError:
            process.join()
            return job, f"its process ended with status {process.exitcode}; was the memory short?"
        self._idle.append((pipe, process))
        return job, error

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pipe, _ in self._idle:
            pipe.close()
        for process, _ in self._busy.values():
            process.terminate()
        for process in [process for _, process in self._idle] + [process for process, _ in self._busy.values()]:
            process.join(_PATIENCE)
            process.kill()  # harmless to one that has ended
            process.join()

    def _start(self) -> tuple[Connection, SpawnProcess]:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        threads = max(usable_cores() // self._count, 1)
        process = context.Process(target=_work, args=(theirs, self._folder, threads), daemon=True)
        process.start()
        theirs.close()  # so that the worker's end closes with the worker
        return ours, process


def _work(pipe: Connection, folder: Path, threads: int) -> None:
    """Carry out jobs until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the starter answers Ctrl-C for all
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))  # before torch is imported, which reads it once
    while True:
        try:
            job: Job = pipe.recv()
        except EOFError:
            return
        pipe.send(do_job(job, folder))


def do_job(job: Job, folder: Path) -> str | None:
    """Carry out a job in a process that is there for it, which says everything in the job's log from here on.

    Returns:
        Its error in one line, if it failed.
    """
    _divert(folder / "logs" / f"{job.name}.log")
    try:
        with logged_to_stderr():
            carry_out(job, folder=folder)
    except ToolkitError as error:
        print(f"error: {error}", file=sys.stderr)
        return str(error)
    except ImportError as error:
        traceback.print_exc()
        return str(missing(error) or first_line(error))
    except Exception as error:
        traceback.print_exc()
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return None


def _divert(log: Path) -> None:
    """Send what this process and its libraries print to a file; the terminal belongs to the starter."""
    sys.stdout.flush()
    sys.stderr.flush()
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)

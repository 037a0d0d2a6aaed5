"""Local processes that carry out jobs, one at a time each. They end with the process that started them, however it ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from abc import ABC, abstractmethod
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import TracebackType
from typing import Any

from edgeproof.errors import ToolkitError, first_line
from edgeproof.studies.jobs import Job, carry_out
from edgeproof.system.environment import usable_cores
from edgeproof.system.lines import logged_to_stderr
from edgeproof.system.optional import missing

_PATIENCE = 10.0  # seconds for a job to leave its files in order after SIGTERM


class Workers(ABC):
    """The interface to workers that carry out up to `count` jobs at a time, wherever that is."""

    def __init__(self, count: int, *, folder: Path) -> None:
        self._count = count
        self._folder = folder
        self._busy: dict[Any, Job] = {}

    @property
    def free(self) -> bool:
        """Return whether another job can be begun."""
        return len(self._busy) < self._count

    @property
    def busy(self) -> bool:
        """Return whether a job is being done."""
        return bool(self._busy)

    @property
    def note(self) -> str:
        """The names of the jobs that are being done, for people."""
        return ", ".join(job.name for job in self._busy.values())

    @abstractmethod
    def give(self, job: Job) -> None:
        """Begin a job."""

    @abstractmethod
    def wait(self) -> tuple[Job, str | None]:
        """Return the next job that ends, and its error in one line if it failed."""

    def __enter__(self) -> Workers:
        return self

    @abstractmethod
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class ProcessWorkers(Workers):
    """Processes of this machine, started when they are needed."""

    def __init__(self, count: int, *, folder: Path) -> None:
        super().__init__(count, folder=folder)
        self._processes: dict[Connection, SpawnProcess] = {}

    def give(self, job: Job) -> None:
        """Begin a job."""
        idle = [pipe for pipe in self._processes if pipe not in self._busy]
        pipe = idle[0] if idle else self._start()
        pipe.send(job)
        self._busy[pipe] = job

    def wait(self) -> tuple[Job, str | None]:
        """Return the next job that ends, and its error in one line if it failed."""
        pipe = next(pipe for pipe in wait(list(self._busy)) if isinstance(pipe, Connection))
        job = self._busy.pop(pipe)
        try:
            error: str | None = pipe.recv()
        except EOFError:
            process = self._processes.pop(pipe)
            process.join()
            return job, f"its process ended with status {process.exitcode}; was the memory short?"
        return job, error

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pipe, process in self._processes.items():
            if pipe in self._busy:
                process.terminate()
            else:
                pipe.close()
        for process in self._processes.values():
            process.join(_PATIENCE)
            process.kill()  # harmless to one that has ended
            process.join()

    def _start(self) -> Connection:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        threads = max(usable_cores() // self._count, 1)
        process = context.Process(target=_work, args=(theirs, self._folder, threads), daemon=True)
        process.start()
        theirs.close()  # so that the worker's end closes with the worker
        self._processes[ours] = process
        return ours


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


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def do_job(job: Job, folder: Path) -> str | None:
    """Carry out a job in a process that is there for it; what the process prints from here on goes to the job's log.

    Returns:
        Its error in one line, if it failed.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    log = folder / "logs" / f"{job.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:  # the descriptors themselves, for what libraries print
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
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

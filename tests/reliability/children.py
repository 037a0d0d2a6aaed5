"""Commands run in forked children of a process that has imported everything, so that to kill one costs what it does and no more.

A child can be killed from outside at any time, or kills itself before the N-th thing that it does to its run folder.
"""

from __future__ import annotations

import contextlib
import importlib
import mmap
import os
import pkgutil
import signal
import struct
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: What Python tells an audit hook before it changes a file system.
_CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree", "os.truncate")
#: What the stages import when they run.
_PRELOADED = (
    "cli", "jinja2", "numpy.testing", "onnx", "onnxruntime", "onnxconverter_common.float16", "PIL.PngImagePlugin", "rich.progress",
    "scipy.stats", "torch._dynamo", "torch.onnx",
)  # fmt: skip


KILLED = -signal.SIGKILL
#: Seconds in which every child ends, many times what the longest takes.
LIMIT = 120.0


@dataclass(frozen=True)
class Outcome:
    """How a child ended: its exit status (-9 when it was killed), its wall time, and how often it changed its run folder."""

    status: int
    seconds: float
    moments: int


def preload() -> None:
    """Import what the stages import, and nothing that starts a thread: a forked child has only the one that forks."""
    import torch

    import edgeproof.system.environment

    for name in (*_PRELOADED, *(module.name for module in pkgutil.walk_packages(edgeproof.__path__, "edgeproof."))):
        importlib.import_module(name)
    torch.set_num_threads(1)
    # The revision is asked of git in a process of its own, and another commit may come while a hundred runs are made.
    edgeproof.system.environment._revision = lambda: "as preloaded"


def command(arguments: Sequence[str]) -> Callable[[], int]:
    """Return what runs `cli.py` with these arguments and gives its exit status."""

    def work() -> int:
        from edgeproof.__main__ import main

        sys.argv = ["cli.py", *arguments]
        try:
            main()
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0

    return work


def run_child(
    work: Callable[[], int], *, watched: Path, log: Path, after: float | None = None, moment: int | None = None
) -> Outcome:
    """Do some work in a forked child of a process in which torch has started no threads: their locks would stay held in the child.

    Args:
        work: Returns the child's exit status.
        watched: The run folder whose changes are counted.
        log: Gets what the child prints.
        after: Seconds after which it is killed.
        moment: The change before which it is killed, counted from 1. Where that is an fsync, half of the file is lost too.

    Raises:
        RuntimeError: When this process may not fork, or the child has not ended after two minutes.
    """
    if "torch" in sys.modules and sys.modules["torch"].get_num_threads() > 1:
        raise RuntimeError(
            "torch may have started threads here, and a forked child would wait for them for ever: fork a process that `preload` made"
        )
    count = mmap.mmap(-1, 8)
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        _be_the_child(work, watched=watched, log=log, moment=moment, count=count)
    if after is not None:
        time.sleep(max(0.0, began + after - time.monotonic()))
        os.kill(child, signal.SIGKILL)
    pid, status = os.waitpid(child, os.WNOHANG)
    while not pid:
        if time.monotonic() - began > LIMIT:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise RuntimeError(f"a child had not ended after {LIMIT:g} s; what it printed is in {log}")
        time.sleep(0.001)
        pid, status = os.waitpid(child, os.WNOHANG)
    return Outcome(os.waitstatus_to_exitcode(status), time.monotonic() - began, struct.unpack("q", count[:8])[0])


def _be_the_child(work: Callable[[], int], *, watched: Path, log: Path, moment: int | None, count: mmap.mmap) -> None:
    status = 70
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        _watch(str(watched), moment=moment, count=count)
        status = work()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)  # no handler of the parent's (pytest's, a thread pool's) runs in the child


def _watch(folder: str, *, moment: int | None, count: mmap.mmap) -> None:
    """Count what is done to a folder, and die before the chosen one."""

    def passed() -> bool:
        (seen,) = struct.unpack("q", count[:8])
        count[:8] = struct.pack("q", seen + 1)
        return seen + 1 == moment

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        changes = event in _CHANGES or (event == "open" and _writes(arguments))
        if changes and _path(arguments[0]).startswith(folder) and passed():
            os.kill(os.getpid(), signal.SIGKILL)

    fsync = os.fsync

    def torn_fsync(descriptor: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if path.startswith(folder) and passed():
            if os.path.isfile(path):
                os.truncate(path, os.path.getsize(path) // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        fsync(descriptor)

    sys.addaudithook(hook)
    os.fsync = torn_fsync


def _writes(arguments: tuple[Any, ...]) -> bool:
    flags = arguments[2]
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


def _path(value: Any) -> str:
    return os.fsdecode(value) if isinstance(value, (str, bytes, os.PathLike)) else ""

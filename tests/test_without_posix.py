"""What Windows lacks (fcntl, resource, O_NOFOLLOW, O_NONBLOCK, sysconf, getuid) is nowhere needed; tried in a child process without them."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

#: Takes these away, and puts an msvcrt in their place whose `locking` behaves as documented: a locked byte is a PermissionError.
WITHOUT = """
import os, subprocess, sys, types  # the standard library takes a system that has msvcrt for Windows
import fcntl as real

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name in ("fcntl", "resource"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
sys.modules.pop("fcntl")
sys.modules.pop("resource", None)
for name in ("O_NOFOLLOW", "O_NONBLOCK", "sysconf", "getuid"):
    delattr(os, name)

calls = []

def locking(descriptor, mode, count):
    calls.append((mode, count))
    try:
        real.flock(descriptor, real.LOCK_EX | real.LOCK_NB)
    except BlockingIOError:
        raise PermissionError(13, "Permission denied") from None

sys.modules["msvcrt"] = types.SimpleNamespace(locking=locking, LK_NBLCK=2)
"""


def run_without(program: str, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT + textwrap.dedent(program)], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_run_is_started_locked_and_finished_without_fcntl(tmp_path: Path) -> None:
    program = """
        from pathlib import Path
        from edgeproof.errors import RunError
        from edgeproof.runs import Run

        folder = Path("runs/one")
        with Run.start("eval", "one", config={"a": 1}, out=folder) as run:
            (folder / "result.txt").write_text("1")
            try:
                Run.start("eval", "one", config={"a": 1}, out=folder)
            except RunError as error:
                print(error)
        with Run.start("eval", "one", config={"a": 1}, out=folder) as again:
            print(again.done, again.outputs(), set(calls))
    """
    said = run_without(program, tmp_path).splitlines()
    assert said == [
        f"{Path('runs/one')} is being written by another process; wait for it or choose another --out",
        "True ['result.txt'] {(2, 1)}",
    ]


def test_the_evaluation_side_and_the_lists_do_without_what_windows_lacks(tmp_path: Path) -> None:
    program = """
        import edgeproof.data.source, edgeproof.evaluation.bench_engines, edgeproof.evaluation.bundled, edgeproof.evaluation.evaluate
        import edgeproof.reports.write, edgeproof.stages
        from edgeproof.__main__ import main

        sys.argv = ["edgeproof", "list", "attacks"]
        main()
    """
    listed = run_without(program, tmp_path)
    assert "pgd-linf" in listed
    assert "square" in listed

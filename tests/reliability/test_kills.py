"""Killed at any point, a run is continued to the same files; the long version is `make reliability`."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edgeproof.data.arrays import read_npz, write_npz
from edgeproof.runs import Run, write_json
from tests.reliability import children
from tests.reliability.children import KILLED, run_child
from tests.reliability.kills import differences, snapshot
from tests.reliability.stages import killed_stages

ROOT = Path(__file__).resolve().parent.parent.parent


def small_stage(out: Path) -> int:
    """Write two shards unless they are there, then their sum, a file that is not synchronised, and the manifest."""
    with Run.start("toy", "toy", config={}, out=out) as run:
        if run.done:
            return 0
        for number in range(2):
            shard = run.path / "shards" / f"{number}.npz"
            if not shard.exists():
                write_npz(shard, {"x": np.full(50, number)})
        found = [read_npz(file)["x"] for file in sorted((run.path / "shards").glob("*.npz"))]
        assert len(found) == 2
        write_json(run.path / "sum.json", int(np.sum(found)))
        (run.path / "plain.txt").write_text("not atomic", encoding="utf-8")
        run.intermediate("shards")
        run.finish()
    return 0


def kill_before_each_change(tmp_path: Path) -> None:
    """Kill the small stage before each of its changes in turn, and compare what the next run makes of it."""
    out, log = tmp_path / "run", tmp_path / "log"
    whole = run_child(lambda: small_stage(out), watched=out, log=log)
    assert whole.status == 0, log.read_text(encoding="utf-8")
    assert whole.moments > 20
    expected = snapshot(out)
    for moment in range(1, whole.moments + 1):
        shutil.rmtree(out)
        assert run_child(lambda: small_stage(out), watched=out, log=log, moment=moment).status == KILLED
        assert run_child(lambda: small_stage(out), watched=out, log=log).status == 0, log.read_text(encoding="utf-8")
        assert differences(expected, snapshot(out)) == [], f"killed before change {moment}"


def wait_for_ever(tmp_path: Path) -> str:
    """Give a child that only waits half a second, and return what is said of it."""
    children.LIMIT = 0.5
    with pytest.raises(RuntimeError) as refused:
        run_child(signal.pause, watched=tmp_path, log=tmp_path / "log")  # type: ignore[arg-type]
    return str(refused.value)


@pytest.fixture(scope="module")
def fresh_process() -> Iterator[ProcessPoolExecutor]:
    """What forks: this process may have torch's threads."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


def test_a_run_killed_before_any_of_its_changes_is_continued_to_the_same_files(
    fresh_process: ProcessPoolExecutor, tmp_path: Path
) -> None:
    fresh_process.submit(kill_before_each_change, tmp_path).result()


def test_a_child_that_does_not_end_is_killed_and_reported(fresh_process: ProcessPoolExecutor, tmp_path: Path) -> None:
    assert "a child had not ended after 0.5 s" in fresh_process.submit(wait_for_ever, tmp_path).result()


def test_a_process_with_threads_of_torch_does_not_fork(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(get_num_threads=lambda: 2))
    with pytest.raises(RuntimeError, match="torch may have started threads"):
        run_child(lambda: 0, watched=tmp_path, log=tmp_path / "log")


def test_a_difference_is_noticed(tmp_path: Path) -> None:
    small_stage(tmp_path)
    before = snapshot(tmp_path)
    (tmp_path / "sum.json").write_text("51\n", encoding="utf-8")
    (tmp_path / ".left.tmp").write_text("", encoding="utf-8")
    (tmp_path / "plain.txt").unlink()
    assert differences(before, snapshot(tmp_path)) == [
        ".left.tmp is left over",
        "plain.txt is missing",
        "sum.json differs",
    ]


@pytest.mark.slow
def test_every_stage_survives_a_few_kills(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    written = tmp_path / "figures.json"
    command = [sys.executable, "-m", "tests.reliability.kills", "--kills", "4", "--seed", "1", "--write", str(written)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads(written.read_text(encoding="utf-8"))
    assert [(each["stage"], each["by_time"], each["by_moment"]) for each in figures] == [
        (stage.name, 2, 2) for stage in killed_stages()
    ]


@pytest.mark.slow
def test_every_stage_survives_a_full_disk(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", tmp_path], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("this process may not mount a small disk")
    subprocess.run(["umount", tmp_path], check=True)
    command = [sys.executable, "-m", "tests.reliability.full_disks", "--sizes", "4"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

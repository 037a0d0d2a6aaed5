"""Jobs: in order, resumable, and honest about what failed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from edgeproof.errors import ConfigError, StudyError
from edgeproof.runs import Run
from edgeproof.studies.jobs import Job
from edgeproof.studies.schedule import run_jobs

ROOT = Path(__file__).resolve().parent.parent.parent
ADD, REFUSE, DIE = (f"tests.studies.counting:{name}" for name in ("add", "refuse", "die"))


def chain(folder: Path, **config: Any) -> list[Job]:
    """Three jobs; the last one needs the others."""
    calls = str(folder / "calls")
    return [
        Job("one", ADD, {"number": 1, "calls": calls, **config}),
        Job("two", ADD, {"number": 2, "calls": calls, **config}),
        Job("all", ADD, {"number": 10, "of": ["{one}", "{two}"], "calls": calls, **config}),
    ]


def total(runs: dict[str, Run]) -> int:
    return int(json.loads(runs["all"].file("sum.json").read_text()))


def calls(folder: Path) -> list[str]:
    return (folder / "calls").read_text().split()


def test_a_job_is_done_after_those_it_reads_and_never_twice(tmp_path: Path) -> None:
    for _ in range(2):
        runs = run_jobs(chain(tmp_path), folder=tmp_path / "study", processes=2)
        assert total(runs) == 13
    assert sorted(calls(tmp_path)) == ["all", "one", "two"]
    assert calls(tmp_path)[-1] == "all"


def test_a_study_may_be_moved(tmp_path: Path) -> None:
    run_jobs(chain(tmp_path), folder=tmp_path / "here", processes=1)
    shutil.move(tmp_path / "here", tmp_path / "there")
    assert total(run_jobs(chain(tmp_path), folder=tmp_path / "there", processes=1)) == 13
    assert len(calls(tmp_path)) == 3


def test_a_failed_job_names_itself_at_once_and_the_others_are_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = [Job("bad", REFUSE, {"what": "milk"}), Job("dead", DIE, {}), *chain(tmp_path)]
    jobs.append(Job("after", ADD, {"number": 0, "of": ["{bad}"], "calls": str(tmp_path / "calls")}))
    with pytest.raises(StudyError) as raised:
        run_jobs(jobs, folder=tmp_path / "study", processes=2)
    message = str(raised.value)
    assert "2 jobs failed, 3 others are finished and kept, 1 need what failed" in message
    assert "bad: no milk today; bring some" in message
    assert "bad failed, the others go on: no milk today; bring some" in caplog.text
    assert "no milk today; bring some" in (tmp_path / "study/logs/bad.log").read_text()
    assert "dead: its process ended with status 9" in message
    assert "\n" not in message
    assert Run.open(tmp_path / "study/jobs/all").done


def test_jobs_that_cannot_be_meant_are_refused_before_any_begins(tmp_path: Path) -> None:
    good = chain(tmp_path)
    for bad, message in (
        (Job("one", ADD, {}), "two jobs are called 'one'"),
        (Job("x", ADD, {"of": ["{on}"]}), r"reads 'on', which is no job before it \(did you mean 'one'\?\)"),
        (Job("x", "trian", {}), r"unknown stage 'trian' \(did you mean 'train'\?\)"),
        (Job("x", "train", {"epoch": 3}), "unknown key 'epoch'"),
    ):
        with pytest.raises(ConfigError, match=message):
            run_jobs([*good, bad], folder=tmp_path / "study", processes=1)
    assert not (tmp_path / "calls").exists()


@pytest.mark.slow
def test_a_killed_study_leaves_no_process_and_is_continued(tmp_path: Path) -> None:
    program = f"""
from pathlib import Path
from tests.studies.test_jobs import chain
from edgeproof.studies.schedule import run_jobs
if __name__ == "__main__":
    here = Path({str(tmp_path)!r})
    run_jobs(chain(here, seconds=1.5), folder=here / "study", processes=1)
"""
    (tmp_path / "program.py").write_text(program)
    command = [sys.executable, str(tmp_path / "program.py")]
    with subprocess.Popen(command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}) as process:
        while not (tmp_path / "study/jobs/one/manifest.json").exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.kill()
    time.sleep(1)  # a worker that lived on would hold the lock of the job that it is doing
    assert total(run_jobs(chain(tmp_path, seconds=1.5), folder=tmp_path / "study", processes=2)) == 13
    assert calls(tmp_path).count("one") == 1

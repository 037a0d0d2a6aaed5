"""The jobs of a study on a Ray cluster of one machine; skipped where Ray is not installed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from edgeproof.errors import StudyError, UnavailableError
from edgeproof.studies.jobs import Job
from edgeproof.studies.schedule import run_jobs
from tests.studies.test_jobs import ADD, DIE, REFUSE, calls, chain, total


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'edgeproof[ray]'")
    monkeypatch.setenv("RAY_ADDRESS", "local")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning")
@pytest.mark.usefixtures("cluster")
def test_jobs_on_ray_have_the_same_folders_and_are_never_done_twice(tmp_path: Path) -> None:
    jobs = [Job("bad", REFUSE, {"what": "milk"}), Job("dead", DIE, {}), *chain(tmp_path)]
    for _ in range(2):
        with pytest.raises(
            StudyError, match=r"2 jobs failed, 3 others are finished.*bad: no milk today.*dead: its process ended"
        ):
            run_jobs(jobs, folder=tmp_path / "study", processes=2, ray=True)
    assert sorted(calls(tmp_path)) == ["all", "one", "two"]
    assert total(run_jobs(chain(tmp_path), folder=tmp_path / "study", processes=2)) == 13
    assert (tmp_path / "study/logs/all.log").exists()


def test_ray_that_is_asked_for_and_not_there_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UnavailableError, match=r"ray is needed to run the jobs of a study on Ray.*edgeproof\[ray\]"):
        run_jobs(
            [Job("one", ADD, {"number": 1, "calls": str(tmp_path / "calls")})], folder=tmp_path, processes=1, ray=True
        )

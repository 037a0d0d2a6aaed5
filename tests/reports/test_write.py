"""The files of a report."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from edgeproof.commands.evaluate import report
from edgeproof.errors import RunError
from edgeproof.reports.write import write_reports
from edgeproof.runs import Run
from tests.reports.synthetic import make_eval_run


def test_three_files_are_written_and_belong_to_the_run(tmp_path: Path) -> None:
    run = make_eval_run(tmp_path)
    write_reports(run)
    run.finish()
    outputs = Run.open(run.path, kind="eval").outputs()
    assert outputs == ["junit.xml", "report.html", "report.md", "results.json", "samples.npz"]


def test_the_same_files_give_the_same_report(tmp_path: Path) -> None:
    first, second = (make_eval_run(tmp_path / name) for name in "ab")
    for run in (first, second):
        write_reports(run)
    for name in ("report.html", "report.md", "junit.xml"):
        assert (first.path / name).read_bytes() == (second.path / name).read_bytes()


def test_a_tampered_run_gives_no_report(tmp_path: Path) -> None:
    run = make_eval_run(tmp_path)
    run.finish()
    results = run.path / "results.json"
    results.write_text(results.read_text(encoding="utf-8").replace('"count": 200', '"count": 999'), encoding="utf-8")
    with pytest.raises(RunError, match="was changed after the run"):
        write_reports(Run.open(run.path))


def test_the_report_of_a_folder_with_a_link_is_not_made_again(tmp_path: Path) -> None:
    run = make_eval_run(tmp_path / "run")
    write_reports(run)
    run.finish()
    (tmp_path / "victim").write_text("mine", encoding="utf-8")
    (run.path / "report.md").unlink()
    (run.path / "report.md").symlink_to(tmp_path / "victim")
    done = CliRunner().invoke(report, [str(run.path)])
    assert isinstance(done.exception, RunError)
    assert "holds a link, report.md; no stage makes one" in str(done.exception)
    assert (tmp_path / "victim").read_text(encoding="utf-8") == "mine"

"""Two eval runs against each other."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from edgeproof.commands import cli
from edgeproof.data.arrays import read_npz, write_npz
from edgeproof.errors import RunError
from edgeproof.evaluation.metrics import mcnemar
from edgeproof.evaluation.significance import holm
from edgeproof.reports.content import read_eval_run
from edgeproof.reports.diff import Change, Diff, diff_runs
from edgeproof.reports.diff_text import class_table, diff_markdown, print_diff, verdict
from edgeproof.runs import Run
from edgeproof.types import Array
from tests.reports.conftest import HOSTILE
from tests.reports.synthetic import make_eval_run
from tests.reports.test_markdown import _parse


def _edit(run: Run, **changes: Array) -> Run:
    path = run.path / "samples.npz"
    write_npz(path, {**read_npz(path), **changes})
    return run


def _of(diff: Diff, engine: str, set_: str) -> Change:
    return next(change for change in diff.overall if (change.engine, change.set) == (engine, set_))


def test_a_run_is_no_worse_than_itself(tmp_path: Path) -> None:
    run = make_eval_run(tmp_path)
    diff = diff_runs(run, run)
    assert diff.paired
    assert diff.images == 200
    assert not diff.worse
    assert {change.p_holm for change in (*diff.overall, *diff.classes)} == {1.0}
    assert diff.notes == ()


def test_the_same_images_are_paired_in_whatever_order_they_stand(tmp_path: Path) -> None:
    before, after = make_eval_run(tmp_path / "a"), make_eval_run(tmp_path / "b", seed=1)
    expected = diff_runs(before, after)
    arrays = read_npz(after.path / "samples.npz")
    order = np.random.default_rng(0).permutation(200)
    shuffled = {name: values[order] if len(values) == 200 else values for name, values in arrays.items()}
    write_npz(after.path / "samples.npz", shuffled)
    assert diff_runs(before, after) == expected


def test_a_paired_change_has_the_counts_and_the_p_value_of_mcnemar(tmp_path: Path) -> None:
    before, after = make_eval_run(tmp_path / "a"), make_eval_run(tmp_path / "b", seed=1)
    change = _of(diff_runs(before, after), "ort-int8-trt", "fgsm 0.05")
    first, second = read_eval_run(before), read_eval_run(after)
    key = ("ort-int8-trt", "fgsm 0.05")
    expected = mcnemar(first.predictions[key], second.predictions[key], first.labels)
    assert (change.lost, change.gained) == (expected.only_reference_right, expected.only_engine_right)
    assert change.p_value == expected.p_value
    assert change.difference == pytest.approx((change.gained - change.lost) / 200)  # type: ignore[operator]


def test_each_table_is_corrected_by_holm(tmp_path: Path) -> None:
    diff = diff_runs(make_eval_run(tmp_path / "a"), make_eval_run(tmp_path / "b", seed=1))
    for changes in (diff.overall, diff.classes):
        assert [change.p_holm for change in changes] == holm([change.p_value or 0.0 for change in changes])


def test_a_loss_on_one_class_is_found_and_named(tmp_path: Path) -> None:
    before, after = (make_eval_run(tmp_path / name, count=400, sets=(("noise", 0.1),)) for name in "ab")
    run = read_eval_run(after)
    hurt = run.predictions["ort-int8-trt", "noise 0.1"].copy()
    hurt[(run.labels == 2) & (np.arange(400) % 8 < 6)] = 0
    diff = diff_runs(before, _edit(after, **{"pred/ort-int8-trt--noise 0.1": hurt}))
    assert diff.worse
    worse = [change for change in diff.classes if change.worse]
    assert [(change.engine, change.set, change.class_name) for change in worse] == [
        ("ort-int8-trt", "noise 0.1", "frog")
    ]
    assert [cell.text for cell in class_table(diff).rows[0]][:3] == ["noise 0.1", "ort-int8-trt", "frog"]
    assert verdict(diff).startswith("Significantly worse: 2, significantly better: 0, of ")


def test_other_images_are_compared_unpaired(tmp_path: Path) -> None:
    before, after = make_eval_run(tmp_path / "a"), make_eval_run(tmp_path / "b", seed=1)
    diff = diff_runs(before, _edit(after, clean_hash=np.arange(200, dtype=np.uint64)))
    assert not diff.paired
    assert {change.lost for change in diff.overall} == {None}
    assert "different images" in diff.notes[0]


def test_a_changed_label_breaks_the_pair(tmp_path: Path) -> None:
    before, after = make_eval_run(tmp_path / "a"), make_eval_run(tmp_path / "b")
    labels = read_eval_run(after).labels.copy()
    labels[0] = 3
    assert not diff_runs(before, _edit(after, labels=labels)).paired


def test_a_run_on_some_of_the_images_is_paired_with_these(tmp_path: Path) -> None:
    diff = diff_runs(make_eval_run(tmp_path / "a"), make_eval_run(tmp_path / "b", count=120))
    assert (diff.paired, diff.images) == (True, 120)
    assert "Only the 120 images that both runs have are compared." in diff.notes


def test_what_only_one_run_has_is_said(tmp_path: Path) -> None:
    before = make_eval_run(tmp_path / "a", engines={"torch-fp32": 0.0, "old": 0.1})
    after = make_eval_run(tmp_path / "b", engines={"torch-fp32": 0.0, "new": 0.1}, sets=(("fgsm", 0.05),))
    notes = diff_runs(before, after).notes
    assert "Engine old is only in the first run." in notes
    assert "Engine new is only in the second run." in notes
    assert "Set noise 0.1 is only in the first run." in notes


def test_a_class_without_images_has_no_difference(tmp_path: Path) -> None:
    run = make_eval_run(tmp_path, missing=(1,))
    dogs = [change for change in diff_runs(run, run).classes if change.class_name == "dog"]
    assert {(change.difference, change.p_holm) for change in dogs} == {(None, None)}


def test_other_classes_cannot_be_compared(tmp_path: Path) -> None:
    before, after = make_eval_run(tmp_path / "a"), make_eval_run(tmp_path / "b", classes=("x", "y"))
    with pytest.raises(RunError, match=r"other classes \(4 and 2\); expected the same names"):
        diff_runs(before, after)


def test_runs_without_a_common_engine_cannot_be_compared(tmp_path: Path) -> None:
    before, after = make_eval_run(tmp_path / "a", engines={"x": 0.0}), make_eval_run(tmp_path / "b", engines={"y": 0.0})
    with pytest.raises(RunError, match="share no engine on the same set; name engines alike with --engine NAME=PATH"):
        diff_runs(before, after)


def test_the_terminal_and_the_markdown_show_the_same_rows(tmp_path: Path) -> None:
    diff = diff_runs(make_eval_run(tmp_path / "a"), make_eval_run(tmp_path / "b", seed=1))
    text = io.StringIO()
    print_diff(diff, file=text)
    assert verdict(diff) in text.getvalue()
    rows = [token for token in _parse(diff_markdown(diff)) if token.type == "tr_open"]
    assert len(rows) == 1 + len(diff.overall) + 1 + len(class_table(diff).rows)


def test_hostile_names_stay_text_in_a_comparison(tmp_path: Path) -> None:
    run = make_eval_run(tmp_path, classes=(HOSTILE["class"], HOSTILE["control"]), engines={HOSTILE["engine"]: 0.0})
    diff = diff_runs(run, run)
    text = io.StringIO()
    print_diff(diff, file=text)
    assert "\x1b" not in text.getvalue()
    inline = [child for token in _parse(diff_markdown(diff)) for child in token.children or []]
    assert {child.type for child in inline} <= {"text", "strong_open", "strong_close"}


def test_a_comparison_is_json_that_reads_back(tmp_path: Path) -> None:
    diff = diff_runs(make_eval_run(tmp_path / "a"), make_eval_run(tmp_path / "b", seed=1))
    assert Diff.model_validate_json(diff.model_dump_json()) == diff


def _finished(run: Run) -> str:
    run.finish()
    return str(run.path)


@pytest.fixture
def worse(tmp_path: Path) -> tuple[str, str]:
    """Two finished runs, the second of which lost nearly everything on one engine."""
    before, after = (make_eval_run(tmp_path / name, sets=(("noise", 0.1),)) for name in "ab")
    return _finished(before), _finished(_edit(after, **{"pred/ort-int8-trt--clean": np.zeros(200, np.int64)}))


def test_the_command_fails_on_a_loss_only_when_asked(worse: tuple[str, str]) -> None:
    assert CliRunner().invoke(cli, ["diff", *worse]).exit_code == 0
    assert CliRunner().invoke(cli, ["diff", *worse, "--fail-on-loss"]).exit_code == 1
    assert CliRunner().invoke(cli, ["diff", *reversed(worse), "--fail-on-loss"]).exit_code == 0


def test_the_command_prints_a_table_markdown_or_json(worse: tuple[str, str]) -> None:
    diff = diff_runs(*map(Run.open, worse))
    assert verdict(diff) in CliRunner().invoke(cli, ["diff", *worse]).stdout
    assert CliRunner().invoke(cli, ["diff", *worse, "--markdown"]).stdout == diff_markdown(diff)
    assert Diff.model_validate_json(CliRunner().invoke(cli, ["diff", *worse, "--json"]).stdout) == diff

"""Reading an eval run's folder."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest

from edgeproof.data.arrays import read_npz, write_npz
from edgeproof.errors import DataError, RunError
from edgeproof.evaluation.results import Results
from edgeproof.reports.content import EvalRun, command_line, read_eval_run, worst_cell
from tests.reports.conftest import HOSTILE
from tests.reports.synthetic import make_eval_run


def test_predictions_and_counts_agree(run: EvalRun) -> None:
    for cell in run.results.cells:
        right = run.predictions[cell.engine, cell.set] == run.labels
        assert int(right.sum()) == cell.accuracy.hits


def test_the_worst_cell_is_the_attack_that_leaves_least_and_never_the_control(results: Results) -> None:
    for engine in results.engines:
        worst = worst_cell(results, engine.name)
        left = [
            cell.accuracy.hits
            for cell in results.cells
            if cell.engine == engine.name and cell.set[:4] in ("fgsm", "pgd-")
        ]
        assert worst is not None
        assert worst.accuracy.hits == min(left)


def test_a_run_with_the_control_alone_has_no_worst_cell(tmp_path: Path) -> None:
    run = read_eval_run(make_eval_run(tmp_path, sets=(("noise", 0.1),)))
    assert worst_cell(run.results, run.results.reference) is None


def test_names_are_visible_and_predictions_are_still_found_by_them(hostile: EvalRun) -> None:
    assert hostile.results.classes[2].startswith(r"bell\x07 esc\x1b[31m nul\x00 \u202eback\nline")
    assert {(cell.engine, cell.set) for cell in hostile.results.cells} == set(hostile.predictions)
    assert HOSTILE["set"] in {set_ for _, set_ in hostile.predictions}


def test_the_command_names_what_differs_from_the_defaults_and_quotes_it() -> None:
    config = {
        "engines": ["int8=runs/my export/model.onnx", "runs/b.onnx"],
        "sets": ["runs/attack; rm x"],
        "batch_size": 256,
        "threads": 2,
        "throughput": False,
        "reference": None,
    }
    assert shlex.split(command_line(config).replace("\\\n", "")) == [
        "edgeproof", "eval", "--engine", "int8=runs/my export/model.onnx", "--engine", "runs/b.onnx",
        "--adversaries", "runs/attack; rm x", "--threads", "2", "--no-throughput",
    ]  # fmt: skip


def test_results_that_are_none_are_refused(tmp_path: Path) -> None:
    run = make_eval_run(tmp_path)
    (run.path / "results.json").write_text('{"schema_version": 1', encoding="utf-8")
    with pytest.raises(RunError, match=r"cannot be read as results \(.*results\.json .* repeat the evaluation"):
        read_eval_run(run)


def test_samples_without_an_array_are_refused(tmp_path: Path) -> None:
    run = make_eval_run(tmp_path)
    arrays = read_npz(run.path / "samples.npz")
    del arrays["pred/ort-fp16--clean"]
    write_npz(run.path / "samples.npz", arrays)
    with pytest.raises(DataError, match="has no array 'pred/ort-fp16--clean'"):
        read_eval_run(run)


@pytest.mark.parametrize("key", ["labels", "pred/ort-fp16--clean"])
def test_classes_that_there_are_not_are_refused(key: str, tmp_path: Path) -> None:
    run = make_eval_run(tmp_path)
    arrays = read_npz(run.path / "samples.npz")
    classes = len(read_eval_run(run).results.classes)
    arrays[key][0] = classes
    write_npz(run.path / "samples.npz", arrays)
    with pytest.raises(
        RunError, match=rf"'{key}' holds 0 to {classes}; expected classes from -?\d to {classes - 1}; repeat"
    ):
        read_eval_run(run)


def test_samples_of_another_length_are_refused(tmp_path: Path) -> None:
    run = make_eval_run(tmp_path)
    arrays = read_npz(run.path / "samples.npz")
    write_npz(run.path / "samples.npz", {**arrays, "clean_hash": np.zeros(3, np.uint64)})
    with pytest.raises(
        RunError, match=r"'clean_hash' is uint64 of shape \(3,\); expected whole numbers of shape \(200,\)"
    ):
        read_eval_run(run)

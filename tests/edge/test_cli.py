"""The command line where there is no torch: eval, report, list, doctor and their exit statuses."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from edgeproof.commands.show import LISTED
from tests.edge.conftest import MakeSet

TORCH = importlib.util.find_spec("torch") is not None


@pytest.fixture
def evaluated(run, graphs: Path, make_set: MakeSet) -> Path:  # type: ignore[no-untyped-def]
    pytest.importorskip("onnxruntime")
    done = run(
        "eval", "--engine", graphs, "--adversaries", make_set(), "--adversaries", make_set("noise"), "--no-throughput"
    )
    assert done.status == 0, done.err
    return Path(done.out.splitlines()[-1])


def test_eval_writes_results_and_reports(evaluated: Path) -> None:
    written = {path.name for path in evaluated.iterdir()}
    assert {
        "results.json",
        "samples.npz",
        "report.html",
        "report.md",
        "junit.xml",
        "manifest.json",
        "logits",
    } <= written
    assert "ort-int8-trt" in (evaluated / "report.md").read_text(encoding="utf-8")


def test_eval_prints_the_folder_alone_on_stdout_and_a_table_on_stderr_or_json(
    run, evaluated: Path, graphs: Path, make_set: MakeSet
) -> None:  # type: ignore[no-untyped-def]
    again = run("eval", "--engine", graphs, "--adversaries", make_set("fgsm", 0.3), "--no-throughput", "--json")
    printed = json.loads(again.out.splitlines()[-1])
    assert Path(printed["run"]).is_dir()
    assert printed["gates"] == []


def test_report_is_written_again_from_the_files(run, evaluated: Path, graphs: Path) -> None:  # type: ignore[no-untyped-def]
    before = (evaluated / "report.md").read_bytes()
    for graph in graphs.glob("*.onnx"):
        graph.unlink()
    assert run("report", evaluated).status == 0
    assert (evaluated / "report.md").read_bytes() == before


def test_a_gate_that_fails_gives_status_one_and_names_itself(run, graphs: Path, make_set: MakeSet) -> None:  # type: ignore[no-untyped-def]
    pytest.importorskip("onnxruntime")
    common = ("eval", "--engine", graphs, "--adversaries", make_set(), "--no-throughput")
    failed = run(*common, "--fail-under", "ort-fp32:robust_accuracy=0.99")
    assert failed.status == 1
    assert "robust_accuracy" in failed.out + failed.err
    assert run(*common, "--fail-under", "int8:clean_accuracy=0.5").status == 0


def test_what_is_wrong_with_the_input_gives_status_two_in_one_line(
    run, graphs: Path, make_set: MakeSet, tmp_path: Path
) -> None:  # type: ignore[no-untyped-def]
    pytest.importorskip("onnxruntime")
    (tmp_path / "bad.onnx").write_bytes(b"this is no graph")
    for arguments, message in (
        (("--engine", tmp_path / "bad.onnx"), "is not a readable ONNX file"),
        (("--engine", tmp_path / "none.onnx"), "no finished run and no file at"),
        (("--engine", graphs, "--reference", "x"), "unknown reference engine"),
        (("--engine", graphs, "--max-drop", "x:clean_accuracy=0.1"), "unknown engine 'x'"),
    ):
        done = run("eval", *arguments, "--adversaries", make_set())
        assert done.status == 2
        assert message in done.err
        assert "Traceback" not in done.err
        assert len(done.err.strip().splitlines()) == 1


def test_a_provider_that_is_not_there_gives_status_three(run, graphs: Path, make_set: MakeSet) -> None:  # type: ignore[no-untyped-def]
    runtime = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" in runtime.get_available_providers():
        pytest.skip("this build has the CUDA provider")
    done = run("eval", "--engine", graphs, "--adversaries", make_set(), "--device", "cuda")
    assert done.status == 3
    assert "CUDAExecutionProvider was asked for (device 'cuda') and this onnxruntime offers only" in done.err


@pytest.mark.skipif(TORCH, reason="torch is installed here")
def test_a_checkpoint_without_torch_gives_status_three_and_the_line_that_installs_it(
    run, make_set: MakeSet, tmp_path: Path
) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "model.safetensors").write_bytes(b"x")
    done = run("eval", "--engine", tmp_path / "model.safetensors", "--adversaries", make_set())
    assert done.status == 3
    assert "pip install 'edgeproof[train]'" in done.err


def test_bench_engines_prints_a_table_on_stderr_and_the_folder_or_json_on_stdout(run, graphs: Path) -> None:  # type: ignore[no-untyped-def]
    pytest.importorskip("onnxruntime")
    command = (
        "bench",
        "engines",
        "--engine",
        graphs,
        "--batch-size",
        1,
        "--batch-size",
        4,
        "--rounds",
        3,
        "--no-memory",
    )
    done = run(*command)
    assert done.status == 0, done.err
    assert json.loads((Path(done.out.strip()) / "manifest.json").read_text())["kind"] == "bench"
    assert all(word in done.err for word in ("ort-int8-trt", "p99, ms", "batch 4", "not measured"))
    printed = json.loads(run(*command, "--json").out)
    assert [case["name"] for case in printed["cases"]] == ["ort-fp32", "ort-fp16", "ort-int8-trt"] * 2
    assert run("bench", "engines").status == 2


@pytest.mark.parametrize("kind", list(LISTED))
def test_list_names_plug_ins_without_importing_them(run, kind: str) -> None:  # type: ignore[no-untyped-def]
    done = run("list", kind, "--json")
    assert done.status == 0
    assert isinstance(json.loads(done.out), list)


def test_list_gives_the_parameters_with_their_types_and_defaults(run) -> None:  # type: ignore[no-untyped-def]
    attacks = {entry["name"]: entry["params"] for entry in json.loads(run("list", "attacks", "--json").out)}
    assert attacks["pgd-linf"]["steps"] == {"type": "int", "default": 20}
    assert attacks["pgd-linf"]["step_size"]["default"] is None
    assert not {"eps", "draws", "trace"} & attacks["square"].keys()  # the toolkit sets these


def test_help_and_doctor_run(run) -> None:  # type: ignore[no-untyped-def]
    assert "eval" in run("--help").out
    assert "--fail-under" in run("eval", "--help").out
    findings = {finding["name"]: finding for finding in json.loads(run("doctor", "--json").out)}
    assert findings["PyTorch"]["ok"] == TORCH


@pytest.mark.skipif(TORCH, reason="torch is installed here")
def test_no_torch_was_needed(evaluated: Path) -> None:
    assert "torch" not in sys.modules
    assert np.load(evaluated / "logits" / "ort-fp32--clean.npy").shape == (120, 3)

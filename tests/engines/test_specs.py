"""Engine specs: `[NAME=][BACKEND[+PRECISION]:]PATH` and what run folders stand for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeproof.engines.specs import EngineSpec, distinct_names, read_specs, spec_path
from edgeproof.errors import ConfigError, ModelError, RunError
from edgeproof.runs import Run
from tests.edge.tiny_onnx import write_linear


def make_run(folder: Path, kind: str, *names: str) -> Path:
    with Run.start(kind, "x", config={}, out=folder) as run:
        for name in names:
            if name.endswith(".onnx"):
                write_linear(folder / name, np.ones((16, 3), np.float32))
            else:
                (folder / name).write_bytes(name.encode())
        run.finish()
    return folder


@pytest.fixture
def export(tmp_path: Path) -> Path:
    graphs = ("model.int8-trt.onnx", "model.int8-cpu.onnx", "model.fp16.onnx", "model.fp32.onnx")
    return make_run(tmp_path / "export", "export", *graphs, "parity.json")


def names(*texts: str) -> list[str]:
    return [spec.name for spec in read_specs(texts)]


def test_an_export_run_stands_for_its_graphs_by_rising_compression(export: Path) -> None:
    assert names(str(export)) == ["ort-fp32", "ort-fp16", "ort-int8-cpu", "ort-int8-trt"]
    assert names(f"openvino:{export}") == ["ov-fp32", "ov-fp16", "ov-int8-cpu", "ov-int8-trt"]


def test_a_train_run_stands_for_its_checkpoint(tmp_path: Path) -> None:
    run = make_run(tmp_path / "train", "train", "model.safetensors", "history.json")
    (spec,) = read_specs([str(run)])
    assert spec == EngineSpec("torch-fp32", "pytorch", None, run / "model.safetensors")
    (half,) = read_specs([f"pytorch+fp16:{run}"])
    assert (half.name, half.precision) == ("torch-fp16", "fp16")


def test_a_file_is_opened_by_what_reads_it(tmp_path: Path) -> None:
    file = tmp_path / "resnet.onnx"
    file.touch()
    assert read_specs([str(file)]) == (EngineSpec("ort-resnet", "onnxruntime", None, file),)
    assert read_specs([f"mine=ov+bf16:{file}"]) == (EngineSpec("mine", "openvino", "bf16", file),)
    assert names(f"ov+bf16:{file}") == ["ov-resnet-bf16"]


def test_a_path_may_hold_signs_of_the_grammar(tmp_path: Path) -> None:
    odd = tmp_path / "a=b:c"
    odd.mkdir()
    file = odd / "m.onnx"
    file.touch()
    assert [spec.path for spec in read_specs([str(file), f"ort:{file}", f"x=ort:{file}"])] == [file] * 3
    assert spec_path(f"x=ort:{file}") == file


def test_names_that_come_again_get_a_number(export: Path) -> None:
    graph = str(export / "model.fp32.onnx")
    assert names(graph, graph, f"ov:{graph}", f"ort-fp32-2={graph}") == [
        "ort-fp32",
        "ort-fp32-2",
        "ov-fp32",
        "ort-fp32-2-2",
    ]
    assert distinct_names(["clean", "a", "a"], taken=("clean",)) == ("clean-2", "a", "a-2")


def test_a_name_for_several_graphs_is_refused(export: Path) -> None:
    with pytest.raises(ConfigError, match="stands for 4 graphs; name one file of it"):
        read_specs([f"mine={export}"])


def test_hashes_are_verified_for_runs_and_for_files_of_runs(export: Path) -> None:
    graph = export / "model.fp16.onnx"
    graph.write_bytes(b"other")
    for text in (str(export), str(graph)):
        with pytest.raises(RunError, match=r"model.fp16.onnx was changed after the run"):
            read_specs([text])


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("nowhere.onnx", ModelError, "no model at nowhere.onnx; expected a file, a train run or an export run"),
        ("onnxruntim:m.onnx", ConfigError, r"unknown engine 'onnxruntim' \(did you mean 'onnxruntime'\?\)"),
    ],
)
def test_what_is_not_there_is_told(text: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        read_specs([text])


def test_a_run_without_models_and_an_unfinished_one_are_told(tmp_path: Path) -> None:
    run = make_run(tmp_path / "attack", "attack", "clean.npz")
    with pytest.raises(ModelError, match=r"has no model that can be opened .*it has: clean.npz"):
        read_specs([str(run)])
    (tmp_path / "half").mkdir()
    with pytest.raises(RunError, match="the run was not finished"):
        read_specs([str(tmp_path / "half")])


def test_a_backend_that_reads_none_of_the_files_is_told(export: Path) -> None:
    with pytest.raises(ModelError, match=r"has no model that can be opened \(.safetensors\)"):
        read_specs([f"pytorch:{export}"])

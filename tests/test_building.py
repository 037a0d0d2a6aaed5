"""From a graph to what a device opens: a stranger's convention, OpenVINO's files, plans; nothing here needs torch."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import edgeproof.export.to_tensorrt
from edgeproof.config import BuildConfig
from edgeproof.deployment.build import build_graphs, build_tensorrt
from edgeproof.engines.specs import read_specs
from edgeproof.errors import ConfigError, ModelError, UnavailableError
from edgeproof.export.base import MissingDeviceError
from edgeproof.runs import Run
from tests.closeness import assert_near
from tests.edge.tiny_onnx import write_linear
from tests.export.fake_tensorrt import BuilderFlag, FakeTensorRT

WEIGHTS = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
DEVICE = {"tensorrt": "11.4.0", "cuda": "13.0", "gpu": "a GPU", "compute_capability": "8.7"}


def build(source: Path, out: Path, **options: Any) -> Run:
    config = BuildConfig(source=str(source), **options)
    with Run.start("export", "built", config=config.model_dump(mode="json"), out=out) as run:
        build_graphs(config, run)
    return run


def write_run(folder: Path) -> Path:
    """An export run with graphs of three precisions."""
    with Run.start("export", "linear", config={}, out=folder) as run:
        for precision in ("fp32", "fp16", "int8"):
            write_linear(folder / f"model.{precision}.onnx", WEIGHTS, precision=precision, classes=("a", "b", "c"))
        run.finish()
    return folder


def write_foreign(path: Path) -> Path:
    """Channels last, 0 to 255, normalised outside: two channels of 2 x 4 pixels to three classes."""
    nodes = [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["y"])]
    given = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ("n", 2, 4, 2))
    made = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ("n", 3))
    graph = helper.make_graph(nodes, "g", [given], [made], [numpy_helper.from_array(WEIGHTS, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_a_strangers_graph_takes_our_images_and_says_how_it_took_its_own(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    out = build(
        write_foreign(tmp_path / "net v2.onnx"),
        tmp_path / "out",
        layout="nhwc",
        input_range=255,
        mean="120, 110",
        std="60,50",
    )
    x = np.random.default_rng(1).random((5, 2, 2, 4), np.float32)
    theirs = ((255 * x.transpose(0, 2, 3, 1) - np.array([120, 110])) / np.array([60, 50])).reshape(5, 16) @ WEIGHTS
    (spec,) = read_specs([str(out.path)])
    assert (spec.name, spec.path.name) == ("ort-net-v2", "model.net-v2.onnx")
    with spec.open() as engine:
        assert engine.info.input_shape == (2, 2, 4)
        assert_near(engine.predict(x), theirs)
    kept = {entry.key: entry.value for entry in onnx.load(str(spec.path)).metadata_props}
    assert json.loads(kept["edgeproof.source_input"]) == {
        "layout": "nhwc",
        "input_range": 255.0,
        "mean": [120.0, 110.0],
        "std": [60.0, 50.0],
    }
    assert out.config["layout"] == "nhwc"


def test_an_input_that_does_not_say_its_shape_is_asked_for(tmp_path: Path) -> None:
    flat = write_linear(tmp_path / "flat.onnx", WEIGHTS, shape=("n", 16))
    with pytest.raises(
        ModelError, match=r"flat.onnx takes .* \('n', 16\), which leaves C, H or W open; .*--input-shape C,H,W"
    ):
        build(flat, tmp_path / "a", layout="flat")
    out = build(flat, tmp_path / "b", layout="flat", input_shape="1,4,4")
    assert onnx.load(str(out.path / "model.flat.onnx")).graph.input[0].name == "images"


def test_openvino_gets_its_own_files_for_every_graph_and_opens_them(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    out = build(write_run(tmp_path / "run"), tmp_path / "out", target="openvino")
    specs = read_specs([str(out.path)])
    assert [spec.name for spec in specs] == ["ov-fp32", "ov-fp16", "ov-int8"]
    for spec in specs:
        with spec.open() as engine:
            assert (engine.info.precision, engine.info.classes) == (spec.name[3:], ("a", "b", "c"))
        assert spec.size == spec.path.stat().st_size + spec.path.with_suffix(".bin").stat().st_size


def test_a_changed_weights_file_of_a_run_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    out = build(write_run(tmp_path / "run"), tmp_path / "out", target="openvino")
    (out.path / "model.fp32.bin").write_bytes(b"other")
    with pytest.raises(Exception, match=r"model.fp32.bin was changed after the run \(SHA-256 differs\)"):
        read_specs([str(out.path / "model.fp32.xml")])


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
    fake = FakeTensorRT()
    monkeypatch.setitem(sys.modules, "tensorrt", fake)
    monkeypatch.setattr(edgeproof.export.to_tensorrt, "_device", lambda: DEVICE)
    return fake


def test_a_plan_is_built_of_every_graph_but_those_for_processors(
    tensorrt: FakeTensorRT, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "run"
    with Run.start("export", "linear", config={}, out=folder) as run:
        write_linear(folder / "model.fp32.onnx", WEIGHTS)
        model = onnx.load(str(write_linear(folder / "model.int8-cpu.onnx", WEIGHTS, precision="int8")))
        helper.set_model_props(model, {"edgeproof.recipe": "cpu"})
        onnx.save(model, folder / "model.int8-cpu.onnx")
        run.finish()
    out = build(
        folder, tmp_path / "out", target="tensorrt", batch_range="1,4,8", workspace_mib=64, optimization_level=5
    )
    assert out.outputs() == ["model.fp32.plan", "model.fp32.plan.json"]
    about = json.loads((out.path / "model.fp32.plan.json").read_text())
    assert (about["batch"], about["workspace_bytes"], about["optimization_level"]) == ([1, 4, 8], 64 * 2**20, 5)
    assert about["metadata"]["edgeproof.precision"] == "fp32", "read off the graph, where nobody wrote it down"
    assert "no plan is made of model.int8-cpu.onnx: its INT8 recipe is for processors" in caplog.text


def test_a_locked_cache_that_lacks_a_time_is_refused(tensorrt: FakeTensorRT, tmp_path: Path) -> None:
    graph, cache = write_linear(tmp_path / "net.onnx", WEIGHTS), tmp_path / "times"
    build(graph, tmp_path / "a", target="tensorrt", timing_cache=str(cache))
    build(graph, tmp_path / "b", target="tensorrt", timing_cache=str(cache), locked=True)
    assert BuilderFlag.ERROR_ON_TIMING_CACHE_MISS in tensorrt.config.flags
    cache.write_bytes(b"")
    with pytest.raises(ModelError, match="the timing cache is locked: build once without --locked"):
        build(graph, tmp_path / "c", target="tensorrt", timing_cache=str(cache), locked=True)


def test_options_of_plans_are_refused_elsewhere(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--batch-range is for plans; add --target tensorrt"):
        build(write_linear(tmp_path / "net.onnx", WEIGHTS), tmp_path / "out", target="openvino", batch_range="1,2,3")


def test_a_plan_without_tensorrt_is_an_error_that_says_how_to_get_it(tmp_path: Path) -> None:
    if importlib.util.find_spec("tensorrt"):
        pytest.skip("TensorRT is installed here")
    with pytest.raises(UnavailableError, match=r"tensorrt is needed to build a plan .*edgeproof\[tensorrt\]"):
        build_tensorrt(write_linear(tmp_path / "net.onnx", WEIGHTS), tmp_path / "net.plan")


def test_a_machine_without_a_gpu_is_told_so_with_the_exit_status_of_what_is_missing(
    tensorrt: FakeTensorRT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise MissingDeviceError("no CUDA driver here (libcuda.so.1); a plan is built on the GPU that runs it")

    monkeypatch.setattr(edgeproof.export.to_tensorrt, "_device", missing)
    with pytest.raises(UnavailableError, match="no CUDA driver here") as caught:
        build(write_linear(tmp_path / "net.onnx", WEIGHTS), tmp_path / "out", target="tensorrt")
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("target", ["onnx", "openvino", "tensorrt"])
def test_what_is_no_graph_is_refused_in_one_line(target: str, tensorrt: FakeTensorRT, tmp_path: Path) -> None:
    if target == "openvino":
        pytest.importorskip("openvino")
    whole = write_linear(tmp_path / "net.onnx", WEIGHTS).read_bytes()
    for content in (b"", b"no graph", whole[: len(whole) // 2]):
        (tmp_path / "net.onnx").write_bytes(content)
        with pytest.raises(ModelError, match=r"net\.onnx is not a readable ONNX file") as caught:
            build(tmp_path / "net.onnx", tmp_path / f"out{len(content)}", target=target, input_shape="1,4,4")
        assert "\n" not in str(caught.value)


def test_loading_what_builds_loads_neither_torch_nor_onnx() -> None:
    code = (
        "import sys, edgeproof.deployment.build, edgeproof.deployment.export, edgeproof.stages, edgeproof.export.to_tensorrt, edgeproof.export.to_openvino; "
        "sys.exit(', '.join({'torch', 'onnx', 'onnxruntime', 'tensorrt', 'openvino'} & set(sys.modules)) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_bytes_are_not_taken_for_numbers_up_to_1(tmp_path: Path) -> None:
    graph = write_linear(tmp_path / "net.onnx", WEIGHTS, input_type=onnx.TensorProto.UINT8)
    with pytest.raises(ConfigError, match=r"takes uint8, .*say what white is with --range 255"):
        build(graph, tmp_path / "out", layout="nchw")


def test_a_perturbation_of_a_class_needs_perturbations(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--prefix-class is for a perturbation; add --prefix RUN"):
        build(write_linear(tmp_path / "net.onnx", WEIGHTS), tmp_path / "out", target="onnx", prefix_class=1)

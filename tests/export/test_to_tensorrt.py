"""The logic around a TensorRT build, with a double of TensorRT; a real build is in the `gpu` tests."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import helper

import edgeproof.export.to_tensorrt
from edgeproof.export.base import ExportError
from edgeproof.export.to_tensorrt import PlanSettings, build_plan, sidecar
from edgeproof.onnx_files import hash_model
from edgeproof.system.files import sha256_file
from tests.export.conftest import Toy
from tests.export.fake_tensorrt import BuilderFlag, FakeTensorRT

DEVICE = {"tensorrt": "11.4.0", "cuda": "13.0", "gpu": "a GPU", "compute_capability": "8.7"}


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
    fake = FakeTensorRT()
    monkeypatch.setitem(sys.modules, "tensorrt", fake)
    monkeypatch.setattr(edgeproof.export.to_tensorrt, "_device", lambda: DEVICE)
    return fake


def build(toy: Toy, folder: Path, **settings: Any) -> dict[str, Any]:
    return build_plan(toy.graph, folder / "model.plan", settings=PlanSettings(**settings))


def test_the_network_is_strongly_typed_and_fp32_is_not_tf32(
    resnet: Toy, tensorrt: FakeTensorRT, tmp_path: Path
) -> None:
    build(resnet, tmp_path)
    assert tensorrt.flags == 1 << 1
    assert tensorrt.config.flags == set()


def test_a_version_that_has_no_flag_any_more_gets_none(
    resnet: Toy, monkeypatch: pytest.MonkeyPatch, tensorrt: FakeTensorRT, tmp_path: Path
) -> None:
    tensorrt.NetworkDefinitionCreationFlag.__members__.clear()
    build(resnet, tmp_path)
    assert tensorrt.flags == 0


def test_the_profile_covers_the_batch_range(resnet: Toy, tensorrt: FakeTensorRT, tmp_path: Path) -> None:
    build(resnet, tmp_path, batch=(1, 8, 64), workspace_bytes=1 << 20, optimization_level=5)
    (profile,) = tensorrt.config.profiles
    assert profile.shapes == {"images": ((1, 3, 16, 16), (8, 3, 16, 16), (64, 3, 16, 16))}
    assert tensorrt.config.pools == {"workspace": 1 << 20}
    assert tensorrt.config.builder_optimization_level == 5  # type: ignore[attr-defined]


def test_the_description_beside_the_plan_says_what_it_is(resnet: Toy, tensorrt: FakeTensorRT, tmp_path: Path) -> None:
    plan = tmp_path / "model.plan"
    record = build_plan(resnet.graph, plan, metadata={"edgeproof.classes": '["a"]'})
    assert json.loads(sidecar(plan).read_text()) == json.loads(json.dumps(record))
    assert sidecar(plan).name == "model.plan.json"
    assert record["plan_sha256"] == sha256_file(plan)
    assert record["source_sha256"] == hash_model(resnet.graph)
    assert {key: record[key] for key in DEVICE} == DEVICE
    assert record["metadata"] == {"edgeproof.classes": '["a"]'}
    assert [(t["name"], t["mode"], t["shape"]) for t in record["tensors"]] == [
        ("images", "input", [-1, 3, 16, 16]), ("logits", "output", [-1, 5]),
    ]  # fmt: skip
    assert record["layers"][0] == {"name": "conv1", "type": "CaskConvolution", "outputs": ["Int8 NC/32HW32"]}
    assert record["layers"][1] == {"name": "reshape"}


def test_a_timing_cache_is_written_read_and_recorded(resnet: Toy, tensorrt: FakeTensorRT, tmp_path: Path) -> None:
    cache = tmp_path / "times.cache"
    first = build(resnet, tmp_path, timing_cache=cache)
    assert cache.read_bytes() == b"conv:12us;"
    second = build(resnet, tmp_path, timing_cache=cache, locked=True)
    assert first["timing_cache_sha256"] == second["timing_cache_sha256"] == sha256_file(cache)
    assert (second["timing_cache"], second["locked"]) == ("times.cache", True)


def test_a_locked_cache_that_lacks_a_time_fails_and_stays(resnet: Toy, tensorrt: FakeTensorRT, tmp_path: Path) -> None:
    cache = tmp_path / "times.cache"
    cache.write_bytes(b"relu:1us;")
    with pytest.raises(ExportError, match=r"cannot build model\.onnx: Timing cache miss for conv .*locked: build once"):
        build(resnet, tmp_path, timing_cache=cache, locked=True)
    assert cache.read_bytes() == b"relu:1us;"
    assert not (tmp_path / "model.plan").exists()


@pytest.mark.parametrize("named", [True, False])
def test_a_locked_cache_has_to_be_there(resnet: Toy, tensorrt: FakeTensorRT, named: bool, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"locked, and no timing cache at .*; build once without --locked"):
        build(resnet, tmp_path, timing_cache=tmp_path / "none" if named else None, locked=True)


def test_a_cache_of_another_gpu_is_refused(resnet: Toy, tensorrt: FakeTensorRT, tmp_path: Path) -> None:
    cache = tmp_path / "times.cache"
    cache.write_bytes(b"other gpu")
    with pytest.raises(ExportError, match=r"times\.cache was made on another GPU or by another TensorRT; delete it"):
        build(resnet, tmp_path, timing_cache=cache)


@pytest.mark.parametrize("batch", [(0, 1, 2), (8, 4, 16), (1, 32, 16)])
def test_a_batch_range_out_of_order_is_refused(
    resnet: Toy, tensorrt: FakeTensorRT, batch: tuple[int, int, int], tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=r"batch range .* is not increasing from 1 on"):
        build(resnet, tmp_path, batch=batch)


def test_what_the_parser_says_is_passed_on_in_one_line(tensorrt: FakeTensorRT, tmp_path: Path) -> None:
    broken = tmp_path / "m.onnx"
    broken.write_bytes(b"nonsense")
    with pytest.raises(ExportError, match=r"TensorRT 11\.4\.0 cannot read m\.onnx: Failed to parse ONNX model"):
        build_plan(broken, tmp_path / "model.plan")


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ([2, 3, 16, 16], onnx.TensorProto.FLOAT),
        (["n", 48], onnx.TensorProto.FLOAT),
        (["n", 3, 4, 4], onnx.TensorProto.UINT8),
    ],
)
def test_a_graph_with_another_input_is_refused(
    tensorrt: FakeTensorRT, shape: list[int | str], dtype: int, tmp_path: Path
) -> None:
    ends = [helper.make_tensor_value_info(name, dtype, shape) for name in ("images", "logits")]
    graph = helper.make_graph([helper.make_node("Identity", ["images"], ["logits"])], "g", ends[:1], ends[1:])
    onnx.save(helper.make_model(graph), str(tmp_path / "m.onnx"))
    with pytest.raises(
        ExportError, match=r"has 1 inputs, the first .*; expected one float32 \(N, C, H, W\) with N free"
    ):
        build_plan(tmp_path / "m.onnx", tmp_path / "model.plan")


def test_an_old_tensorrt_is_refused(resnet: Toy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", FakeTensorRT("8.6.1"))
    with pytest.raises(ExportError, match=r"TensorRT 8\.6\.1 is too old; expected 10 or later"):
        build(resnet, tmp_path)


def test_a_machine_without_a_cuda_driver_is_told_so(
    resnet: Toy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setitem(sys.modules, "tensorrt", FakeTensorRT())
    monkeypatch.setattr("ctypes.CDLL", missing)
    with pytest.raises(
        ExportError, match=r"no CUDA driver here \(libcuda\.so\.1: .*a plan is built on the GPU that runs it"
    ):
        build(resnet, tmp_path)


@pytest.mark.gpu
def test_a_plan_is_built_on_this_gpu(toy: Toy, tmp_path: Path) -> None:
    cache = tmp_path / "times.cache"
    first = build(toy, tmp_path, batch=(1, 4, 16), timing_cache=cache)
    assert [tensor["name"] for tensor in first["tensors"]] == ["images", "logits"]
    assert first["layers"]
    assert build(toy, tmp_path, batch=(1, 4, 16), timing_cache=cache, locked=True)["timing_cache_sha256"]


def test_precision_flags_and_calibrators_are_not_used() -> None:
    source = Path(edgeproof.export.to_tensorrt.__file__).read_text(encoding="utf-8")
    assert "BuilderFlag.FP16" not in source
    assert "BuilderFlag.INT8" not in source
    assert BuilderFlag.TF32.name in source

"""ONNX Runtime: what was asked for runs, or opening fails."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest

from edgeproof.engines import onnxrt
from edgeproof.engines.base import EngineOptions, ShowsKernels, made_from, open_engine, reader_of
from edgeproof.errors import ConfigError, ModelError, UnavailableError
from tests.edge.tiny_onnx import write_linear

WEIGHTS = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    return write_linear(tmp_path / "m.onnx", WEIGHTS)


def test_onnx_files_are_opened_by_onnx_runtime_unless_another_is_named(graph: Path) -> None:
    assert reader_of(graph).name == "onnxruntime"
    assert open_engine(graph).info.provider == "CPUExecutionProvider"


def test_options_are_those_of_the_session(graph: Path) -> None:
    info = open_engine(graph, options=EngineOptions(threads=1, optimize=False)).info
    assert (info.options["threads"], info.options["graph_optimization"]) == (1, "ORT_DISABLE_ALL")
    assert open_engine(graph).info.options["graph_optimization"] == "ORT_ENABLE_ALL"
    assert info.versions == {"onnxruntime": onnxruntime.__version__}


def test_what_a_graph_was_made_from_is_in_its_metadata_or_in_the_record_of_its_export(graph: Path) -> None:
    sha256 = open_engine(graph).info.sha256
    noted = {"edgeproof.source_sha256": "f" * 64, "edgeproof.checkpoint_sha256": "c" * 64}
    assert made_from(graph, noted, sha256) == ("c" * 64, "f" * 64)
    record = {"checkpoint_sha256": "e" * 64, "graphs": [{"file": "m.onnx", "sha256": sha256}]}
    (graph.parent / "parity.json").write_text(json.dumps(record), encoding="utf-8")
    assert open_engine(graph).info.made_from == ("e" * 64,)
    assert made_from(graph, {}, "another file of that name") == ()
    for damaged in ("{", "[]", '{"graphs": {"a": 1}, "checkpoint_sha256": 3}', '{"graphs": 7}'):
        (graph.parent / "parity.json").write_text(damaged, encoding="utf-8")
        assert made_from(graph, {"edgeproof.source_sha256": ["odd"]}, sha256) == ()


def test_fp16_on_the_cpu_says_what_it_is(tmp_path: Path) -> None:
    info = open_engine(write_linear(tmp_path / "m.onnx", WEIGHTS, precision="fp16")).info
    assert (info.precision, info.note) == ("fp16", "weights rounded to FP16, arithmetic in FP32 on this provider")


def test_a_precision_that_the_graph_has_not_is_refused(graph: Path) -> None:
    assert open_engine(graph, options=EngineOptions(precision="fp32")).info.precision == "fp32"
    with pytest.raises(ConfigError, match=r"runs .*m.onnx in fp32, as the graph says; 'fp16' cannot be asked of it"):
        open_engine(graph, options=EngineOptions(precision="fp16"))


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="has the CUDA provider")
@pytest.mark.parametrize(
    ("backend", "provider"), [("onnxruntime", "CUDAExecutionProvider"), ("ort-trt", "TensorrtExecutionProvider")]
)
def test_a_provider_that_is_not_built_in_is_refused(backend: str, provider: str, graph: Path) -> None:
    with pytest.raises(UnavailableError, match=rf"{provider} was asked for \(device 'cuda'\) and .* offers only"):
        open_engine(graph, backend=backend, device="cuda")


class PretendedRuntime:
    """A double of the onnxruntime module that lists CUDA; its sessions are on the CPU, as after a silent fallback."""

    __version__ = "1.31"
    GraphOptimizationLevel = onnxruntime.GraphOptimizationLevel
    SessionOptions = onnxruntime.SessionOptions

    def __init__(self, active: list[str]) -> None:
        self.active = active
        self.asked: dict[str, Any] = {}

    def get_available_providers(self) -> list[str]:
        return ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]

    def InferenceSession(self, path: str, options: Any, providers: Any, enable_fallback: int) -> Any:
        self.asked = {"options": options, "providers": providers, "fallback": enable_fallback}
        return SimpleNamespace(get_providers=lambda: self.active)


def test_a_silent_fallback_to_the_cpu_is_refused(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = PretendedRuntime(["CPUExecutionProvider"])
    monkeypatch.setattr(onnxrt, "require", lambda *_, **__: runtime)
    with pytest.raises(
        UnavailableError, match="CUDAExecutionProvider was asked for and CPUExecutionProvider is active"
    ):
        onnxrt.open_onnxruntime(graph, device="cuda:1", options=EngineOptions())


def test_cuda_is_asked_for_alone_without_fallback_and_without_tf32(
    graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = PretendedRuntime(["CPUExecutionProvider"])
    monkeypatch.setattr(onnxrt, "require", lambda *_, **__: runtime)
    with pytest.raises(UnavailableError):
        onnxrt.open_onnxruntime(graph, device="cuda:1", options=EngineOptions())
    assert runtime.asked["providers"] == [("CUDAExecutionProvider", {"device_id": "1", "use_tf32": "0"})]
    assert runtime.asked["fallback"] == 0
    assert runtime.asked["options"].get_session_config_entry("session.disable_cpu_ep_fallback") == "1"


def test_a_graph_with_an_operator_that_does_not_exist_is_a_model_error(graph: Path) -> None:
    graph.write_bytes(graph.read_bytes().replace(b"MatMul", b"MatMoo"))
    with pytest.raises(ModelError, match=r"m.onnx: ONNX Runtime .* cannot open this graph: .*MatMoo") as caught:
        open_engine(graph)
    assert "\n" not in str(caught.value)


def test_softmax_outputs_are_opened_as_they_are(tmp_path: Path) -> None:
    engine = open_engine(write_linear(tmp_path / "m.onnx", WEIGHTS, softmax=True))
    np.testing.assert_allclose(engine.predict(np.ones((2, 1, 4, 4), np.float32)).sum(axis=1), 1, atol=1e-6)


def test_without_optimisation_int8_is_rounding_around_floating_point(tmp_path: Path) -> None:
    path = write_linear(tmp_path / "m.onnx", WEIGHTS, precision="int8")
    engine = onnxrt.open_onnxruntime(path, device="cpu", options=EngineOptions(optimize=False))
    assert isinstance(engine, ShowsKernels)
    assert [(kernel.operator, kernel.integer) for kernel in engine.kernels()] == [("MatMul", False)]

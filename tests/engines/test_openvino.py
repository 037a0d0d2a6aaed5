"""OpenVINO: the precision is set, read back, and never another one than the table says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeproof.engines.base import EngineOptions, open_engine
from edgeproof.errors import ConfigError, ModelError, UnavailableError
from edgeproof.export.to_openvino import convert_openvino
from edgeproof.onnx_files import read_onnx
from tests.closeness import assert_near
from tests.edge.tiny_onnx import write_linear

openvino = pytest.importorskip("openvino")
WEIGHTS = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    return write_linear(tmp_path / "m.onnx", WEIGHTS)


def capabilities() -> list[str]:
    found: list[str] = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return found


def test_the_default_is_fp32_whatever_openvinos_own_is(graph: Path) -> None:
    with open_engine(graph, backend="openvino") as engine:
        assert engine.info.precision == engine.info.options["inference_precision"] == "fp32"
        x = np.random.default_rng(1).random((4, 1, 4, 4), np.float32)
        assert_near(engine.predict(x), x.reshape(4, 16) @ WEIGHTS)


def test_fp16_that_would_become_something_else_is_refused(graph: Path) -> None:
    if "FP16" in capabilities():
        pytest.skip("this processor computes in FP16")
    with pytest.raises(UnavailableError, match=r"openvino was asked for fp16 and computes in (bf16|fp32)"):
        open_engine(graph, backend="openvino", options=EngineOptions(precision="fp16"))


def test_bf16_is_labelled_so(graph: Path) -> None:
    try:
        engine = open_engine(graph, backend="openvino", options=EngineOptions(precision="bf16"))
    except UnavailableError:
        pytest.skip("this processor does not compute in BF16")
    assert engine.info.precision == engine.info.options["inference_precision"] == "bf16"
    assert "arithmetic in BF16" in engine.info.note


def test_an_fp16_graph_says_that_only_its_weights_are(tmp_path: Path) -> None:
    graph = write_linear(tmp_path / "m.onnx", WEIGHTS, precision="fp16")
    with open_engine(graph, backend="openvino") as engine:
        assert (engine.info.precision, engine.info.note) == ("fp16", "weights stored as FP16, arithmetic in FP32")


def test_threads_are_those_asked_for(graph: Path) -> None:
    with open_engine(graph, backend="openvino", options=EngineOptions(threads=1)) as engine:
        assert engine.info.options["threads"] == 1


def test_what_openvino_cannot_honour_is_refused(graph: Path) -> None:
    with pytest.raises(ConfigError, match="openvino always optimises"):
        open_engine(graph, backend="openvino", options=EngineOptions(optimize=False))
    with pytest.raises(ConfigError, match="INT8 is a property of the graph"):
        open_engine(graph, backend="openvino", options=EngineOptions(precision="int8"))


@pytest.mark.parametrize("count", [1, 2, 7, 64])
def test_throughput_mode_spreads_a_batch_and_gives_the_same_logits(count: int, graph: Path) -> None:
    x = np.random.default_rng(1).random((count, 1, 4, 4), np.float32)
    with open_engine(graph, backend="openvino", options=EngineOptions(mode="throughput")) as engine:
        assert engine.info.options["performance_hint"] == "THROUGHPUT"
        assert engine.info.options["streams"] >= 1
        for _ in range(3):
            assert_near(engine.predict(x), x.reshape(count, 16) @ WEIGHTS)


def test_throughput_mode_is_openvinos_alone(graph: Path) -> None:
    with pytest.raises(ConfigError, match="onnxruntime knows the modes latency, not 'throughput'"):
        open_engine(graph, options=EngineOptions(mode="throughput"))


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_its_own_files_give_what_the_graph_gives(precision: str, tmp_path: Path) -> None:
    graph = write_linear(tmp_path / "m.onnx", WEIGHTS, precision=precision, classes=("a", "b", "c"))
    convert_openvino(graph, tmp_path / "m.xml", metadata=read_onnx(graph).metadata)
    x = np.random.default_rng(1).random((4, 1, 4, 4), np.float32)
    with open_engine(graph, backend="openvino") as one, open_engine(tmp_path / "m.xml") as other:
        np.testing.assert_array_equal(one.predict(x), other.predict(x))
        assert one.info.sha256 != other.info.sha256
        same = ("precision", "input_shape", "num_classes", "max_batch", "note", "options", "classes")
        assert [getattr(one.info, name) for name in same] == [getattr(other.info, name) for name in same]
        assert one.info.precision == precision


def test_its_own_files_are_hashed_and_needed_together(graph: Path, tmp_path: Path) -> None:
    file, weights = tmp_path / "m.xml", tmp_path / "m.bin"
    convert_openvino(graph, file)
    with open_engine(file) as engine:
        before = engine.info.sha256
    content = weights.read_bytes()
    weights.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    with open_engine(file) as engine:
        assert engine.info.sha256 != before
    weights.unlink()
    with pytest.raises(ModelError, match=r"m.xml has no m.bin beside it, which holds its weights; copy both files"):
        open_engine(file)
    weights.write_bytes(b"")
    file.write_text("<net>")
    with pytest.raises(ModelError, match=r"m.xml is not a readable OpenVINO IR") as caught:
        open_engine(file)
    assert "\n" not in str(caught.value)

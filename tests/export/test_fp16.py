from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgeproof.export.base import ExportError
from edgeproof.export.fp16 import convert_fp16
from edgeproof.export.graph import Wiring
from edgeproof.export.int8 import quantize_int8
from edgeproof.onnx_files import hash_model, load_model
from tests.export.conftest import Toy
from tests.export.runtime import run_graph
from tests.export.toys import read_metadata, smooth_images


@pytest.fixture
def half(toy: Toy, tmp_path: Path) -> Path:
    convert_fp16(toy.graph, tmp_path / "half.onnx")
    return tmp_path / "half.onnx"


def test_images_and_logits_stay_float32_and_every_weight_is_rounded_to_fp16(toy: Toy, half: Path) -> None:
    before, after = load_model(toy.graph), load_model(half)
    ends = [*after.graph.input, *after.graph.output]
    assert {item.type.tensor_type.elem_type for item in ends} == {onnx.TensorProto.FLOAT}
    old, new = Wiring(before.graph), Wiring(after.graph)
    weights = [t.name for t in before.graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
    assert len(weights) > 4
    for name in weights:
        np.testing.assert_array_equal(new.constant(name), old.constant(name).astype(np.float16))


def test_on_a_cpu_the_graph_shows_the_rounding_of_the_weights_only(toy: Toy, half: Path, tmp_path: Path) -> None:
    rounded = load_model(toy.graph)
    for tensor in rounded.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            value = numpy_helper.to_array(tensor).astype(np.float16).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    onnx.save(rounded, str(tmp_path / "rounded.onnx"))
    images = smooth_images(16)
    expected = run_graph(tmp_path / "rounded.onnx", images)
    assert np.abs(run_graph(half, images) - expected).max() < 2e-5 * max(1, np.abs(expected).max())


def test_metadata_is_carried_and_says_what_the_graph_is(toy: Toy, half: Path) -> None:
    about = read_metadata(load_model(half))
    assert about["classes"] == '["a", "b"]'
    assert about["precision"] == "fp16"
    assert about["source_sha256"] == hash_model(toy.graph)
    assert "rounding of the weights only" in about["note"]


def scaled(path: Path, factor: float) -> Path:
    """Write images -> Flatten -> Mul(factor)."""
    nodes = [helper.make_node("Flatten", ["images"], ["flat"]), helper.make_node("Mul", ["flat", "w"], ["logits"])]
    images = helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, ["batch", 1, 2, 2])
    logits = helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", 4])
    weight = numpy_helper.from_array(np.array([factor], np.float32), "w")
    graph = helper.make_graph(nodes, "scaled", [images], [logits], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), str(path))
    return path


@pytest.mark.parametrize("factor", [3e-8, 1e-6, 2e4, 65504.0])
def test_weights_are_rounded_and_not_pushed_into_a_narrower_range(factor: float, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        convert_fp16(scaled(tmp_path / "m.onnx", factor), tmp_path / "half.onnx")
    weight = Wiring(load_model(tmp_path / "half.onnx").graph).constant("w")
    np.testing.assert_array_equal(weight, np.array([factor], np.float16))


def test_a_weight_beyond_fp16_is_an_error_with_its_name_and_value(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="weight 'w' reaches 70000, beyond FP16's 65504; leave FP16 out"):
        convert_fp16(scaled(tmp_path / "m.onnx", 7e4), tmp_path / "half.onnx")


def test_a_quantised_graph_is_refused(resnet: Toy, tmp_path: Path) -> None:
    quantize_int8(resnet.graph, tmp_path / "q.onnx", calibration=[smooth_images(8)])
    with pytest.raises(ExportError, match=r"q\.onnx is quantised; expected an FP32 graph"):
        convert_fp16(tmp_path / "q.onnx", tmp_path / "half.onnx")


def test_an_fp16_graph_is_refused(half: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"has FP16 weights; expected an FP32 graph"):
        convert_fp16(half, tmp_path / "twice.onnx")

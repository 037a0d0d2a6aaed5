from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from torch import Tensor, nn

from edgeproof.export.base import ExportError
from edgeproof.export.graph import Wiring
from edgeproof.export.int8 import Int8Report, RecipeName, layers, quantize_int8
from edgeproof.export.qdq_rules import violations
from edgeproof.export.to_onnx import export_onnx
from edgeproof.onnx_files import hash_model, load_model
from tests.export.conftest import Toy
from tests.export.runtime import optimized_operators, run_graph
from tests.export.toys import SHAPE, read_metadata, smooth_images

RECIPES: tuple[RecipeName, ...] = ("trt", "cpu")
IMAGES = smooth_images(64)


def quantize(toy: Toy, folder: Path, recipe: RecipeName = "trt") -> tuple[Path, Int8Report]:
    path = folder / f"{recipe}.onnx"
    return path, quantize_int8(toy.graph, path, calibration=[IMAGES], recipe=recipe)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_conv_and_gemm_is_quantised(toy: Toy, recipe: RecipeName, tmp_path: Path) -> None:
    path, report = quantize(toy, tmp_path, recipe)
    expected = Counter(node.op_type for node in load_model(toy.graph).graph.node if node.op_type in ("Conv", "Gemm"))
    assert report.total == report.quantized == expected
    assert report.unquantized == ()
    weights = [t for t in load_model(path).graph.initializer if len(t.dims) > 1]
    assert {t.data_type for t in weights if t.name.endswith("_quantized")} == {onnx.TensorProto.INT8}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_layer_that_is_kept_in_float_keeps_its_weights(toy: Toy, recipe: RecipeName, tmp_path: Path) -> None:
    kept = layers(toy.graph)[1]
    path = tmp_path / "kept.onnx"
    report = quantize_int8(toy.graph, path, calibration=[IMAGES], recipe=recipe, keep_float=[kept])
    assert sum(report.quantized.values()) == sum(report.total.values()) - 1
    assert len(report.unquantized) == 1
    graph = load_model(path).graph
    node = next(node for node in graph.node if kept in node.output)
    assert {t.name: t.data_type for t in graph.initializer}[node.input[1]] == onnx.TensorProto.FLOAT
    images = smooth_images(64, seed=1)
    assert (run_graph(path, images).argmax(1) == run_graph(toy.graph, images).argmax(1)).mean() > 0.9


def test_an_unknown_layer_cannot_be_kept(toy: Toy, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="has no layer 'conv9' to keep in float; it has: "):
        quantize_int8(toy.graph, tmp_path / "x.onnx", calibration=[IMAGES], keep_float=["conv9"])


@pytest.mark.parametrize("recipe", RECIPES)
def test_logits_stay_near_those_of_the_fp32_graph(toy: Toy, recipe: RecipeName, tmp_path: Path) -> None:
    path, _ = quantize(toy, tmp_path, recipe)
    images = smooth_images(64, seed=1)
    expected, found = run_graph(toy.graph, images), run_graph(path, images)
    noise = np.square(found - expected).mean() / np.square(expected - expected.mean(0)).mean()
    assert noise < 0.02
    assert (found.argmax(1) == expected.argmax(1)).mean() > 0.9


def test_the_cpu_recipe_runs_in_integer_kernels_throughout(toy: Toy, tmp_path: Path) -> None:
    path, report = quantize(toy, tmp_path, "cpu")
    operators = optimized_operators(path, tmp_path)
    assert operators["QLinearConv"] == report.total["Conv"]
    assert operators["QGemm"] == report.total["Gemm"]
    assert not {"Conv", "FusedConv", "Gemm", "Relu", "Clip", "Add"} & set(operators)


def test_the_trt_recipe_keeps_conv_add_and_relu_together(toy: Toy, tmp_path: Path) -> None:
    path, _ = quantize(toy, tmp_path)
    model = load_model(path)
    wiring = Wiring(model.graph)
    assert violations(model) == []
    for node in model.graph.node:
        if node.op_type in ("Relu", "Clip"):
            assert wiring.producer[node.input[0]].op_type in ("Conv", "Gemm", "Add")
        if node.op_type == "Add":
            assert sorted(wiring.producer[name].op_type for name in node.input) == ["Conv", "DequantizeLinear"]


class Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self) -> None:
        self.batches = iter([{"images": IMAGES}])

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        return next(self.batches, None)


def quantize_with_onnxruntime(src: Path, dst: Path, recipe: RecipeName) -> None:
    kind = QuantType.QInt8 if recipe == "trt" else QuantType.QUInt8
    extra = {"ActivationSymmetric": recipe == "trt", "WeightSymmetric": True, "QuantizeBias": recipe == "cpu"}
    quantize_static(
        str(src), str(dst), Reader(), quant_format=QuantFormat.QDQ, per_channel=True, activation_type=kind,
        weight_type=QuantType.QInt8, op_types_to_quantize=["Conv", "Gemm", "Add", "MaxPool"], extra_options=extra,
    )  # fmt: skip


def scales(path: Path) -> dict[str, tuple[float, int]]:
    """Return scale and zero point by activation."""
    graph = load_model(path).graph
    wiring = Wiring(graph)
    pairs = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    return {n.input[0]: (float(wiring.constant(n.input[1])), int(wiring.constant(n.input[2]))) for n in pairs}


def weights(path: Path) -> dict[str, NDArray[np.int8]]:
    """Return the integer weights by the node that reads them."""
    graph = load_model(path).graph
    wiring = Wiring(graph)
    found = {}
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm"):
            stored = wiring.producer[node.input[1]]
            found[node.name] = wiring.constant(stored.input[0])
    return found


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("recipe", RECIPES)
def test_minmax_gives_onnxruntimes_scales_zero_points_and_weights(
    resnet: Toy, recipe: RecipeName, tmp_path: Path
) -> None:
    ours, _ = quantize(resnet, tmp_path, recipe)
    quantize_with_onnxruntime(resnet.graph, tmp_path / "theirs.onnx", recipe)
    mine, theirs = scales(ours), scales(tmp_path / "theirs.onnx")
    shared = mine.keys() & theirs.keys()
    assert len(shared) >= 6
    for name in shared:
        assert mine[name][0] == pytest.approx(theirs[name][0], rel=1e-5)
        assert mine[name][1] == theirs[name][1]
    their_weights = weights(tmp_path / "theirs.onnx")
    for name, stored in weights(ours).items():
        np.testing.assert_array_equal(stored, their_weights[name])


@pytest.mark.parametrize("recipe", RECIPES)
def test_onnxs_own_reference_implementation_gives_the_same_logits(
    resnet: Toy, recipe: RecipeName, tmp_path: Path
) -> None:
    path, _ = quantize(resnet, tmp_path, recipe)
    images = smooth_images(2, seed=2)
    expected = onnx.reference.ReferenceEvaluator(str(path)).run(None, {"images": images})[0]
    np.testing.assert_allclose(run_graph(path, images, optimize=False), expected, atol=0.05)


def test_eight_bit_weights_make_the_file_smaller(toy: Toy, tmp_path: Path) -> None:
    path, _ = quantize(toy, tmp_path)
    floats = sum(len(t.raw_data) for t in load_model(toy.graph).graph.initializer if len(t.dims) > 1)
    integers = sum(len(t.raw_data) for t in load_model(path).graph.initializer if t.name.endswith("_weight_quantized"))
    assert integers <= floats / 4


def test_metadata_is_carried_and_says_how_the_graph_was_made(toy: Toy, tmp_path: Path) -> None:
    path, report = quantize(toy, tmp_path, "cpu")
    assert read_metadata(load_model(path)) == {
        "classes": '["a", "b"]', "precision": "int8", "recipe": "cpu", "calibration_method": "minmax",
        "calibration_count": "64", "calibration_sha256": hashlib.sha256(IMAGES.tobytes()).hexdigest(),
        "source_sha256": hash_model(toy.graph),
    }  # fmt: skip
    assert report.calibration_sha256 == hashlib.sha256(IMAGES.tobytes()).hexdigest()
    assert [(item.domain, item.version) for item in load_model(path).opset_import] == [("", 20)]


def test_calibration_may_come_from_a_generator_in_any_batches(resnet: Toy, tmp_path: Path) -> None:
    quantize_int8(resnet.graph, tmp_path / "a.onnx", calibration=[IMAGES], method="entropy")
    parts = (IMAGES[start : start + 24] for start in range(0, 64, 24))
    quantize_int8(resnet.graph, tmp_path / "b.onnx", calibration=parts, method="entropy")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


class DeadChannel(nn.Module):
    """Channel 1 has no weights to speak of and a large bias, as pruning or a batch norm with gain 0 leaves it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        nn.init.constant_(self.conv.weight[1], 1e-20)
        nn.init.constant_(self.conv.bias[1], 3.0)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv(x)).flatten(2).amax(2)


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_bias_of_a_dead_channel_survives(recipe: RecipeName, tmp_path: Path) -> None:
    source = tmp_path / "m.onnx"
    with torch.no_grad():
        export_onnx(DeadChannel().eval(), source, input_shape=SHAPE, exporter="torchscript")
    quantize_int8(source, tmp_path / "q.onnx", calibration=[IMAGES], recipe=recipe)
    assert np.abs(run_graph(tmp_path / "q.onnx", IMAGES)[:, 1] - 3.0).max() < 0.02


def with_computed_weights(source: Path, path: Path) -> str:
    """Make the last Gemm read its weights through an operator that runtimes cannot fold; return its name."""
    model = load_model(source)
    gemm = next(node for node in model.graph.node if node.op_type == "Gemm")
    gemm.name = "head"
    shape = Wiring(model.graph).constant(gemm.input[1]).shape
    nodes = [
        helper.make_node("ReduceMax", ["images"], ["peak"], keepdims=0),
        helper.make_node("Mul", ["peak", "nothing"], ["none"]),
        helper.make_node("Add", [gemm.input[1], "none"], ["computed"]),
    ]
    gemm.input[1] = "computed"
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(shape, np.float32), "nothing"))
    for position, node in enumerate(nodes):
        model.graph.node.insert(position, node)
    onnx.save(model, str(path))
    return "head"


def test_what_cannot_be_quantised_is_named(resnet: Toy, tmp_path: Path) -> None:
    name = with_computed_weights(resnet.graph, tmp_path / "m.onnx")
    report = quantize_int8(tmp_path / "m.onnx", tmp_path / "q.onnx", calibration=[IMAGES])
    assert report.unquantized == (name,)
    assert report.total["Gemm"] == 1
    assert "Gemm" not in report.quantized


def test_batch_norm_that_the_exporter_left_is_folded_first(tmp_path: Path) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ).eval()
    export_onnx(model, tmp_path / "m.onnx", input_shape=SHAPE, exporter="torchscript")
    graph = load_model(tmp_path / "m.onnx")
    conv = next(node for node in graph.graph.node if node.op_type == "Conv")
    relu = next(node for node in graph.graph.node if node.op_type == "Relu")
    ones = [numpy_helper.from_array(np.full(4, v, np.float32), n) for n, v in zip("sbmv", (2, 0.1, 0, 1), strict=True)]
    graph.graph.initializer.extend(ones)
    norm = helper.make_node("BatchNormalization", [conv.output[0], *"sbmv"], ["normed"])
    relu.input[0] = "normed"
    graph.graph.node.insert(list(graph.graph.node).index(relu), norm)
    onnx.save(graph, str(tmp_path / "norm.onnx"))
    quantize_int8(tmp_path / "norm.onnx", tmp_path / "q.onnx", calibration=[IMAGES])
    assert "BatchNormalization" not in {node.op_type for node in load_model(tmp_path / "q.onnx").graph.node}
    expected = run_graph(tmp_path / "norm.onnx", IMAGES)
    np.testing.assert_allclose(run_graph(tmp_path / "q.onnx", IMAGES), expected, atol=0.05)


def test_a_graph_that_is_quantised_already_is_refused(resnet: Toy, tmp_path: Path) -> None:
    path, _ = quantize(resnet, tmp_path)
    with pytest.raises(ExportError, match=r"trt\.onnx is not an FP32 graph .*; quantise the FP32 graph"):
        quantize_int8(path, tmp_path / "again.onnx", calibration=[IMAGES])


def test_calibration_images_of_another_shape_are_refused(resnet: Toy, tmp_path: Path) -> None:
    with pytest.raises(
        ExportError, match=r"calibration images are float32 \(4, 1, 16, 16\); expected float32 \(N, 3, 16, 16\)"
    ):
        quantize_int8(resnet.graph, tmp_path / "q.onnx", calibration=[np.zeros((4, 1, 16, 16), np.float32)])

"""Every covered ONNX operator against ONNX Runtime, on small arrays."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from edgeproof.models.onnx_import.table import OPERATORS
from edgeproof.models.onnx_import.translation import translate
from edgeproof.onnx_files import load_model

ort = pytest.importorskip("onnxruntime")

IMAGE = (2, 4, 7, 6)
_random = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return _random.standard_normal(shape).astype(np.float32)


def levels(low: int, high: int, *shape: int) -> np.ndarray:
    kind = np.int8 if low < 0 else np.uint8
    return _random.integers(low, high + 1, shape).astype(kind)


def f32(value: Any) -> np.ndarray:
    return np.array(value, np.float32)


def i64(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


@dataclass(frozen=True)
class Case:
    """One node behind the input `x`; `inputs` names the others, arrays are stored in the graph."""

    operator: str
    inputs: tuple[Any, ...] = ("x",)
    attributes: dict[str, Any] = field(default_factory=dict)
    shape: tuple[int, ...] = IMAGE
    opset: int = 17
    outputs: int = 1
    x: str = "normal"  # or "positive", or "uint8": whole numbers from a QuantizeLinear in front

    def __str__(self) -> str:
        details = ",".join(f"{key}={value}" for key, value in self.attributes.items())
        return f"{self.operator}-{self.opset}-{len(self.inputs)}-{details}".replace(" ", "")


def graph_of(case: Case) -> onnx.ModelProto:
    domain, _, kind = case.operator.rpartition(".")
    stored, names, nodes = [], [], []
    for position, value in enumerate(case.inputs):
        names.append(value if isinstance(value, str) else f"constant_{position}")
        if not isinstance(value, str):
            stored.append(numpy_helper.from_array(np.asarray(value), names[-1]))
    if case.x == "uint8":
        stored += [numpy_helper.from_array(f32(0.03), "s"), numpy_helper.from_array(np.array(117, np.uint8), "z")]
        nodes.append(helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]))
        names = ["q" if name == "x" else name for name in names]
    outputs = [f"y{i}" for i in range(case.outputs)]
    nodes.append(helper.make_node(kind, names, outputs, name="tested", domain=domain, **case.attributes))
    nodes += [helper.make_node("Cast", [name], [f"{name}_float"], to=1) for name in outputs]
    graph = helper.make_graph(
        nodes,
        "case",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, case.shape)],
        [helper.make_tensor_value_info(f"{name}_float", onnx.TensorProto.FLOAT, None) for name in outputs],
        stored,
    )
    opsets = [helper.make_opsetid("", case.opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def both(case: Case, tmp_path: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return what torch and ONNX Runtime compute for each output."""
    path = tmp_path / "case.onnx"
    onnx.save(graph_of(case), path)
    x = np.random.default_rng(1).standard_normal(case.shape).astype(np.float32)
    x = np.abs(x) + 0.1 if case.x == "positive" else x
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    model = load_model(path, inline=True)
    results = []
    for output in session.get_outputs():
        module = translate(model, source="x", target=output.name)
        results.append((module(torch.from_numpy(x)).numpy(), session.run([output.name], {"x": x})[0]))
    return results


C4 = tuple(normal(4) for _ in range(3))
S, Z = f32(0.03), np.array(117, np.uint8)
WEIGHT_SCALES = f32([0.01, 0.02, 0.015])
W8 = levels(-127, 127, 3, 4, 3, 3)
Q = ("x", S, Z)
OUT = (f32(0.0713), np.array(90, np.uint8))  # a scale that no product of others can tie with

PLAIN = (
    "Abs", "Ceil", "Cos", "Elu", "Erf", "Exp", "Floor", "HardSwish", "Neg", "Relu", "Round", "Selu", "Celu", "Sigmoid",
    "Sign", "Sin", "Softplus", "Softsign", "Tanh", "LeakyRelu", "HardSigmoid", "Softmax", "LogSoftmax", "Dropout",
    "GlobalAveragePool", "GlobalMaxPool", "Shape", "Size", "Flatten", "Transpose", "Squeeze",
    "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceProd",
)  # fmt: skip

CASES = [
    *(Case(name) for name in PLAIN),
    *(Case(name, x="positive") for name in ("Log", "Sqrt", "Reciprocal")),
    *(Case(name, ("x", normal(4, 1, 1))) for name in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Mean", "Sum")),
    *(Case(name, ("x", f32(0.2))) for name in ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")),
    Case("Conv", ("x", normal(6, 4, 3, 3), normal(6)), {"pads": [1, 1, 1, 1], "strides": [2, 1]}),
    Case("Conv", ("x", normal(6, 4, 3, 2)), {"pads": [0, 1, 2, 0]}),
    Case("Conv", ("x", normal(6, 4, 3, 3)), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    Case("Conv", ("x", normal(6, 4, 2, 2)), {"auto_pad": "SAME_LOWER", "kernel_shape": [2, 2]}),
    Case("Conv", ("x", normal(6, 4, 2, 2)), {"auto_pad": "VALID"}),
    Case("Conv", ("x", normal(4, 1, 3, 3)), {"group": 4, "dilations": [2, 2], "pads": [2, 2, 2, 2]}),
    Case("Conv", ("x", normal(5, 4, 3)), {"strides": [2]}, shape=(2, 4, 9)),
    Case("MaxPool", attributes={"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    Case("MaxPool", attributes={"kernel_shape": [3, 2], "strides": [2, 2], "pads": [0, 1, 1, 0]}),
    Case("MaxPool", attributes={"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
    Case("MaxPool", attributes={"kernel_shape": [2, 2], "strides": [3, 3], "ceil_mode": 1, "pads": [0, 0, 1, 1]}),
    Case("MaxPool", attributes={"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    Case("MaxPool", attributes={"kernel_shape": [2, 2], "dilations": [2, 2]}),
    Case("MaxPool", attributes={"kernel_shape": [2, 2], "strides": [2, 2]}, x="uint8"),
    Case("AveragePool", attributes={"kernel_shape": [3, 3], "strides": [2, 2]}),
    Case("AveragePool", attributes={"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    Case("AveragePool", attributes={"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    Case("AveragePool", attributes={"kernel_shape": [3, 2], "pads": [0, 1, 1, 0], "count_include_pad": 1}),
    Case("AveragePool", attributes={"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}, opset=19),
    Case("AveragePool", attributes={"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_LOWER"}),
    Case("AveragePool", attributes={"kernel_shape": [3, 3], "dilations": [1, 1]}, opset=19),
    Case("Gemm", ("x", normal(5, 3), normal(3)), shape=(2, 5)),
    Case("Gemm", ("x", normal(3, 2)), {"transA": 1, "transB": 1, "alpha": 0.5}, shape=(2, 5)),
    Case("Gemm", ("x", normal(3, 5), normal(2, 1)), {"transB": 1, "alpha": 0.5, "beta": 2.0}, shape=(2, 5)),
    Case("MatMul", ("x", normal(6, 5))),
    Case("Einsum", ("x", normal(4, 6)), {"equation": "nchw,cw->nh"}),
    Case("BatchNormalization", ("x", *C4, f32([1, 2, 0.5, 3])), {"epsilon": 1e-3}),
    Case("InstanceNormalization", ("x", *C4[:2])),
    Case("LayerNormalization", ("x", normal(6), normal(6))),
    Case("LayerNormalization", ("x", normal(4, 7, 6)), {"axis": 1, "epsilon": 1e-3}),
    Case("GroupNormalization", ("x", normal(2), normal(2)), {"num_groups": 2}, opset=18),
    Case("GroupNormalization", ("x", *C4[:2]), {"num_groups": 2}, opset=21),
    Case("RMSNormalization", ("x", normal(6)), {"epsilon": 1e-3}, opset=23),
    Case("Attention", ("x", normal(2, 4, 5, 6), normal(2, 4, 5, 3)), opset=23),
    Case("Attention", ("x", normal(2, 4, 5, 6), normal(2, 4, 5, 3), normal(7, 5)), {"scale": 0.7}, opset=23),
    Case("LRN", attributes={"size": 3, "alpha": 0.1}),
    Case("Clip", ("x", f32(-0.5), f32(0.5))),
    Case("Clip", ("x", "", f32(0.5))),
    Case("Clip"),
    Case("PRelu", ("x", normal(4, 1, 1))),
    Case("Mish", opset=18),
    Case("Gelu", opset=20),
    Case("Gelu", attributes={"approximate": "tanh"}, opset=20),
    Case("com.microsoft.Gelu"),
    Case("LeakyRelu", attributes={"alpha": 0.3}),
    Case("HardSigmoid", attributes={"alpha": 0.5, "beta": 0.3}),
    Case("Softmax", opset=11),
    Case("Softmax", attributes={"axis": 2}, opset=11),
    Case("Softmax", attributes={"axis": 1}),
    Case("LogSoftmax", attributes={"axis": 1}, opset=12),
    Case("Pow", ("x", f32(2))),
    Case("Pow", ("x", f32(0.5)), x="positive"),
    Case("Mod", ("x", f32(0.7)), {"fmod": 1}),
    Case("IsNaN"),
    Case("Where", (_random.random(IMAGE) > 0.5, "x", f32(3))),
    Case("Cast", attributes={"to": 11}),
    Case("Cast", attributes={"to": 7}),
    Case("Cast", attributes={"to": 2}, x="positive"),
    Case("CastLike", ("x", f32(1))),
    Case("Identity"),
    Case("Dropout", ("x", f32(0.5)), opset=13),
    Case("Dropout", attributes={"ratio": 0.5}, opset=11),
    Case("Shape", attributes={"start": 1, "end": -1}),
    Case("Reshape", ("x", i64(0, -1, 6))),
    Case("Reshape", ("x", i64(2, 168)), {"allowzero": 1}),
    Case("Flatten", attributes={"axis": 2}),
    Case("Flatten", attributes={"axis": -1}),
    Case("Flatten", attributes={"axis": 0}),
    Case("Transpose", attributes={"perm": [0, 2, 3, 1]}),
    Case("Squeeze", ("x", i64(1, -1)), shape=(2, 1, 3, 1)),
    Case("Squeeze", attributes={"axes": [3]}, shape=(2, 1, 3, 1), opset=11),
    Case("Unsqueeze", ("x", i64(-1, 1))),
    Case("Unsqueeze", attributes={"axes": [1, 3]}, opset=11),
    Case("Concat", ("x", normal(2, 1, 7, 6), "x"), {"axis": 1}),
    Case("Split", ("x", i64(1, 3)), {"axis": 1}, outputs=2),
    Case("Split", attributes={"axis": 1, "split": [3, 1]}, outputs=2, opset=11),
    Case("Split", attributes={"axis": 1}, outputs=2),
    Case("Split", attributes={"axis": -2, "num_outputs": 3}, outputs=3, opset=18),
    Case("Slice", ("x", i64(1, -4), i64(9, -1), i64(1, 2))),
    Case("Slice", ("x", i64(-1), i64(-(2**63) + 1), i64(3), i64(-2))),
    Case("Slice", ("x", i64(5), i64(1), i64(2), i64(-1))),
    Case("Slice", ("x", i64(0, 0), i64(2**63 - 1, 5), i64(-1, -2), i64(2, 3))),
    Case("Slice", ("x", i64(3), i64(1), i64(2))),
    Case("Gather", ("x", np.int64(-1)), {"axis": 1}),
    Case("Gather", ("x", np.array([[0, -1], [2, 2]])), {"axis": 2}),
    Case("Expand", ("x", i64(3, 2, 1, 7, 6)), shape=(4, 7, 6)),
    Case("Tile", ("x", i64(1, 2, 1, 3))),
    Case("Pad", ("x", i64(0, 0, 1, 2, 0, 0, 2, 0), f32(1.5))),
    Case("Pad", ("x", i64(0, 0, 1, 2, 0, 0, 2, 0)), {"mode": "reflect"}),
    Case("Pad", ("x", i64(0, 0, 1, 2, 0, 0, 2, 0)), {"mode": "edge"}),
    Case("Pad", ("x", i64(1, 0, 2, -1), "", i64(2, -1)), opset=18),
    Case("ReduceMean", attributes={"axes": [2, 3], "keepdims": 0}),
    Case("ReduceMean", ("x", i64(-1)), opset=18),
    Case("ReduceMean", attributes={"noop_with_empty_axes": 1}, opset=18),
    Case("ReduceSum", ("x", i64(1)), {"keepdims": 0}),
    Case("ReduceL2", attributes={"axes": [1]}),
    Case("ReduceProd", attributes={"axes": [1, -1], "keepdims": 0}),
    Case("QuantizeLinear", ("x", S, Z)),
    Case("QuantizeLinear", ("x", f32(0.5))),
    Case("QuantizeLinear", ("x", f32([0.02, 0.5, 0.01, 1]), np.zeros(4, np.int8)), {"axis": 1}),
    Case("QuantizeLinear", ("x", S), {"output_dtype": 3}, opset=21),
    Case("com.microsoft.QuantizeLinear", ("x", f32(1e-4), np.array(0, np.int16))),
    Case("DequantizeLinear", ("x", S, Z), x="uint8"),
    Case("com.microsoft.DequantizeLinear", ("x", S, Z), x="uint8"),
    Case("DynamicQuantizeLinear", outputs=3),
    Case("ConvInteger", ("x", W8, Z), {"pads": [1, 1, 1, 1]}, x="uint8"),
    Case("ConvInteger", ("x", levels(0, 255, 3, 4, 3, 3), Z, np.array(100, np.uint8)), {"strides": [2, 2]}, x="uint8"),
    Case("MatMulInteger", ("x", levels(-127, 127, 6, 5), Z, levels(-3, 3, 5)), x="uint8"),
    Case("QLinearConv", (*Q, W8, WEIGHT_SCALES, np.zeros(3, np.int8), *OUT), {"pads": [1, 1, 0, 0]}, x="uint8"),
    Case(
        "QLinearConv",
        (*Q, W8, f32(0.01), np.int8(0), *OUT, _random.integers(-9999, 9999, 3).astype(np.int32)),
        {"auto_pad": "SAME_UPPER"},
        x="uint8",
    ),
    Case("QLinearMatMul", (*Q, levels(-127, 127, 6, 5), f32(0.01), np.int8(0), *OUT), x="uint8"),
    Case(
        "com.microsoft.QGemm",
        (*Q, levels(-127, 127, 3, 5), WEIGHT_SCALES, np.zeros(3, np.int8), np.array([5000, -4000, 0], np.int32), *OUT),
        {"transB": 1},
        shape=(2, 5),
        x="uint8",
    ),
    Case(
        "com.microsoft.QGemm", (*Q, levels(-127, 127, 5, 3), f32(0.01), np.int8(0)), {"alpha": 0.5}, (2, 5), x="uint8"
    ),
    Case("com.microsoft.QLinearAdd", (*Q, levels(0, 255, 4, 1, 1), f32(0.01), np.uint8(9), *OUT), x="uint8"),
    Case("com.microsoft.QLinearMul", (*Q, levels(0, 255, 4, 1, 1), f32(0.01), np.uint8(9), *OUT), x="uint8"),
    Case("com.microsoft.QLinearConcat", (*OUT, *Q, *Q), {"axis": 1}, x="uint8"),
    Case("com.microsoft.QLinearGlobalAveragePool", (*Q, *OUT), {"channels_last": 0}, x="uint8"),
    Case("com.microsoft.QLinearAveragePool", (*Q, *OUT), {"kernel_shape": [2, 2]}, x="uint8"),
    Case("com.microsoft.QLinearLeakyRelu", (*Q, *OUT), {"alpha": 0.1}, x="uint8"),
    Case("com.microsoft.QLinearSigmoid", (*Q, f32(1 / 256), np.uint8(0)), x="uint8"),
    Case("com.microsoft.QLinearSoftmax", (*Q, f32(1 / 256), np.uint8(0)), {"axis": 1, "opset": 13}, x="uint8"),
]

#: Covered only where they are constant or where shapes are computed: `test_shapes_computed_from_the_batch` has them.
ON_SHAPES = {"And", "ConstantOfShape", "Not", "Or", "Range"}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_operator_computes_what_onnx_runtime_computes(case: Case, tmp_path: Any) -> None:
    for ours, theirs in both(case, tmp_path):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-5)


def test_every_operator_of_the_table_is_compared() -> None:
    assert {case.operator for case in CASES} - {"Identity"} | ON_SHAPES == set(OPERATORS)

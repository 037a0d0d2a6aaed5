"""An FP32 graph to an INT8 one with QuantizeLinear/DequantizeLinear (Q/DQ) nodes, after one of two named recipes.

`trt` is what TensorRT's explicit quantisation wants: int8, symmetric, the inputs of Conv and Gemm and the shortcut of a residual
Add quantised, their outputs not, so that Conv+Add+ReLU stays one kernel; biases stay float.
`cpu` is what ONNX Runtime turns into integer kernels on x86: uint8 activations with a zero point, int32 biases, and the output
of every operator quantised as well. Its sums of uint8 x int8 are exact with VNNI; processors without it may saturate.
Weights are int8, symmetric, one scale an output channel, in both. The graph's output stays float: eight bits tie logits.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnx import helper

from edgeproof.export.base import ExportError
from edgeproof.export.calibration import Images, Method, Range, calibrate
from edgeproof.export.graph import Wiring, drop_unused_opsets, merge_metadata, save_graph
from edgeproof.export.qdq import Scale, insert_qdq
from edgeproof.export.qdq_rules import WEIGHTED, quantized_operators, violations
from edgeproof.onnx_files import hash_model, load_model

RecipeName = Literal["trt", "cpu"]

_MOVES = ("MaxPool", "Reshape", "Flatten")  # they only move values, so both sides share one range
_UNWEIGHTED = (*_MOVES, "AveragePool", "GlobalAveragePool")  # what ONNX Runtime computes in integers without weights
_FUSED = ("Relu", "Clip")  # what runtimes compute in the kernel of the operator before it


@dataclass(frozen=True)
class Int8Report:
    """What a quantised graph holds, read back from it.

    Attributes:
        recipe: "trt" or "cpu".
        method: How the ranges were found.
        calibration_count: Number of calibration images.
        calibration_sha256: Of the images, in their order.
        quantized: Conv, Gemm and MatMul nodes that read 8-bit data and 8-bit weights, by operator.
        total: All of them, by operator.
        unquantized: Names of the others.
        activations: Activation tensors with a range of their own.
    """

    recipe: str
    method: str
    calibration_count: int
    calibration_sha256: str
    quantized: Mapping[str, int]
    total: Mapping[str, int]
    unquantized: tuple[str, ...]
    activations: int


def quantize_int8(
    src: Path,
    dst: Path,
    *,
    calibration: Iterable[Images],
    recipe: RecipeName = "trt",
    method: Method = "minmax",
    keep_float: Collection[str] = (),
) -> Int8Report:
    """Write the INT8 twin of an FP32 graph.

    Args:
        src: The FP32 graph.
        dst: The file to write.
        calibration: Batches (N, C, H, W) float32 in [0, 1]; they are kept, the tensors that they give are not.
        recipe: "trt" or "cpu".
        method: How ranges follow from the calibration images: minmax, entropy, percentile or mse.
        keep_float: Conv, Gemm and MatMul nodes that stay as they are, by the tensors that they give; see `layers`.

    Raises:
        ExportError: When the graph is not an FP32 one, there are no images, it has no such node, or the result breaks
            TensorRT's rules.
    """
    images = [np.ascontiguousarray(batch) for batch in calibration]
    model = prepare(load_model(src), src)
    _check_images(images, model.graph)
    quantizable = _quantizable(model.graph, src, keep_float=keep_float)
    tensors = (_trt_activations if recipe == "trt" else _cpu_activations)(model.graph, quantizable)
    ranges = calibrate(model, tensors, images, method=method, symmetric=recipe == "trt")
    _share_ranges(model.graph, ranges)
    to_scale = Scale.int8 if recipe == "trt" else Scale.uint8
    scales = {name: to_scale(found) for name, found in ranges.items()}
    insert_qdq(model.graph, scales, weighted=quantizable, biases=recipe == "cpu")
    count, digest = sum(map(len, images)), _sha256(images)
    about = {
        "precision": "int8", "recipe": recipe, "calibration_method": method, "calibration_count": str(count),
        "calibration_sha256": digest, "source_sha256": hash_model(src),
    }  # fmt: skip
    merge_metadata(model, about)
    if recipe == "trt" and (broken := violations(model)):
        raise ExportError(f"{dst.name} breaks TensorRT's rules: {'; '.join(map(str, broken))}")
    save_graph(model, dst)
    quantized, total, unquantized = quantized_operators(load_model(dst))
    return Int8Report(recipe, method, count, digest, quantized, total, unquantized, len(ranges))


def prepare(model: onnx.ModelProto, src: Path) -> onnx.ModelProto:
    """Fold batch norms and constants with ONNX Runtime's basic passes, which keep to standard operators."""
    import onnxruntime

    if any(node.op_type in ("QuantizeLinear", "Cast") for node in model.graph.node):
        raise ExportError(f"{src.name} is not an FP32 graph (it casts or quantises); quantise the FP32 graph")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "prepared.onnx")
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        prepared = load_model(Path(options.optimized_model_filepath))
    helper.set_model_props(prepared, {item.key: item.value for item in model.metadata_props})
    drop_unused_opsets(prepared)
    return prepared


def _check_images(images: Sequence[Images], graph: onnx.GraphProto) -> None:
    wanted = tuple(dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim)[1:]
    for batch in images:
        if batch.dtype != np.float32 or batch.shape[1:] != wanted:
            expected = ", ".join(map(str, ("N", *wanted)))
            raise ExportError(f"calibration images are {batch.dtype} {batch.shape}; expected float32 ({expected})")


def layers(src: Path) -> list[str]:
    """Name the layers of an FP32 graph that are quantised, in their order, each by the tensor that it gives."""
    return weighted_layers(prepare(load_model(src), src).graph)


def weighted_layers(graph: onnx.GraphProto) -> list[str]:
    """Name the Conv, Gemm and MatMul nodes with stored weights and computed data, each by the tensor that it gives."""
    wiring = Wiring(graph)
    return [str(node.output[0]) for node in graph.node if _is_weighted(node, wiring)]


def _quantizable(graph: onnx.GraphProto, src: Path, *, keep_float: Collection[str]) -> frozenset[str]:
    known = weighted_layers(graph)
    for name in keep_float:
        if name not in known:
            raise ExportError(f"{src.name} has no layer {name!r} to keep in float; it has: {', '.join(known)}")
    return frozenset(known) - frozenset(keep_float)


def _trt_activations(graph: onnx.GraphProto, quantizable: Collection[str]) -> list[str]:
    """Name the activations that feed a weighted operator, and the shortcut of each residual Add."""
    wiring = Wiring(graph)
    found = [node.input[0] for node in graph.node if node.output[0] in quantizable]
    return [*found, *(name for node in graph.node if (name := _shortcut(node, wiring, quantizable)))]


def _shortcut(node: onnx.NodeProto, wiring: Wiring, quantizable: Collection[str]) -> str | None:
    """Return the input of a residual Add that is not the convolution which the Add can be fused into."""
    if not _is_residual(node, wiring):
        return None
    for fused, other in ((0, 1), (1, 0)):
        producer = wiring.producer.get(node.input[fused])
        if producer and producer.output[0] in quantizable and wiring.sole_consumer(node.input[fused]) is node:
            return str(node.input[other])
    return None


def _cpu_activations(graph: onnx.GraphProto, quantizable: Collection[str]) -> list[str]:
    """Name the inputs and the output of every operator that ONNX Runtime has an integer kernel for."""
    wiring = Wiring(graph)
    found: list[str] = []
    for node in graph.node:
        inputs = [name for name in node.input[:2] if not wiring.is_constant(name)]
        moved = node.op_type in _UNWEIGHTED and node.input[0] in found  # what is in float stays so
        if node.output[0] in quantizable or _is_residual(node, wiring) or moved:
            found += inputs[:1] if moved else inputs
            found.append(_after_activation(node.output[0], wiring))
    return [name for name in found if name not in wiring.outputs]


def _after_activation(name: str, wiring: Wiring) -> str:
    """Return what a tensor becomes in the same kernel: the output of a Relu or Clip that alone reads it, else itself."""
    reader = wiring.sole_consumer(name)
    return str(reader.output[0]) if reader and reader.op_type in _FUSED else name


def _is_weighted(node: onnx.NodeProto, wiring: Wiring) -> bool:
    return node.op_type in WEIGHTED and wiring.is_constant(node.input[1]) and not wiring.is_constant(node.input[0])


def _is_residual(node: onnx.NodeProto, wiring: Wiring) -> bool:
    return node.op_type == "Add" and not any(wiring.is_constant(name) for name in node.input)


def _share_ranges(graph: onnx.GraphProto, ranges: dict[str, Range]) -> None:
    """Give what an operator only moves the range that it had before, so that runtimes can move the eight bits."""
    for node in graph.node:
        if node.op_type in _MOVES and node.input[0] in ranges and node.output[0] in ranges:
            ranges[node.output[0]] = ranges[node.input[0]]


def _sha256(images: Sequence[Images]) -> str:
    digest = hashlib.sha256()
    for batch in images:
        digest.update(batch.tobytes())
    return digest.hexdigest()

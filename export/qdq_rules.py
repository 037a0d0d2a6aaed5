"""The rules of TensorRT's explicit quantisation, checked on a graph without TensorRT.

After NVIDIA's guide "Working with quantized types": int8 with zero point 0, one constant scale an activation and one an output
channel of weights, both inputs of a weighted operator quantised, and nothing between operators that are to become one kernel.
This says that a graph is of the right shape; only a build says that TensorRT takes it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx

from edgeproof.export.graph import Wiring

WEIGHTED = ("Conv", "Gemm", "MatMul")
_QDQ = ("QuantizeLinear", "DequantizeLinear")
_ACTIVATIONS = ("Relu", "Clip")
_COMMUTING = ("MaxPool", "Reshape", "Flatten", "Transpose")  # TensorRT moves DQ forward through these


@dataclass(frozen=True)
class Violation:
    """A rule that a node breaks.

    Attributes:
        rule: Name of the rule, for instance "zero-point".
        node: Name of the node.
        detail: What was found.
    """

    rule: str
    node: str
    detail: str

    def __str__(self) -> str:
        return f"{self.rule} at {self.node!r} ({self.detail})"


def violations(model: onnx.ModelProto) -> list[Violation]:
    """List what a graph with Q/DQ nodes breaks of TensorRT's rules; empty when it passes.

    Rules: `domain` (standard operators only), `constant-scale` (positive and stored in the graph), `zero-point` (0), `type` (int8),
    `activation-per-tensor`, `channel-axis` (weights scaled along their output channels), `pair` (a Q is read by DQ of the same
    scale only), `both-inputs` (data and weights quantised together), `fusable` (no pair between an operator and what fuses into it).
    """
    wiring = Wiring(model.graph)
    found = [
        Violation("domain", node.name, node.domain) for node in model.graph.node if node.domain not in ("", "ai.onnx")
    ]
    for node in model.graph.node:
        if node.op_type in _QDQ:
            found += _scale_rules(node, wiring)
        if node.op_type == "QuantizeLinear":
            found += [*_pair_rule(node, wiring), *_fusable_rule(node, wiring)]
        if node.op_type in WEIGHTED:
            found += _operator_rules(node, wiring)
    return found


def quantized_operators(model: onnx.ModelProto) -> tuple[dict[str, int], dict[str, int], tuple[str, ...]]:
    """Count Conv, Gemm and MatMul nodes that read 8-bit data and 8-bit weights, and all of them, and name the others."""
    wiring = Wiring(model.graph)
    nodes = [node for node in model.graph.node if node.op_type in WEIGHTED]
    done = [node for node in nodes if all(_dequantize(name, wiring) for name in node.input[:2])]
    others = tuple(node.name or node.output[0] for node in nodes if node not in done)
    return dict(Counter(node.op_type for node in done)), dict(Counter(node.op_type for node in nodes)), others


def channel_axis(node: onnx.NodeProto, rank: int) -> int:
    """Return the axis of a Conv's, Gemm's or MatMul's weights that runs over its output channels."""
    if node.op_type == "Conv":
        return 0
    transposed = any(item.name == "transB" and item.i for item in node.attribute)
    return 0 if transposed else rank - 1


def _dequantize(name: str, wiring: Wiring) -> onnx.NodeProto | None:
    """Return the DQ node behind a tensor, looking through operators that only move values."""
    producer = wiring.producer.get(name)
    while producer is not None and producer.op_type in _COMMUTING:
        producer = wiring.producer.get(producer.input[0])
    return producer if producer is not None and producer.op_type == "DequantizeLinear" else None


def _scale_rules(node: onnx.NodeProto, wiring: Wiring) -> Iterator[Violation]:
    stored = [wiring.constant(name) for name in node.input[1:] if name and wiring.is_constant(name)]
    if len(stored) < len([name for name in node.input[1:] if name]):
        yield Violation("constant-scale", node.name, "the scale or zero point is computed")
        return
    scale = stored[0]
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        yield Violation("constant-scale", node.name, f"the scale is {scale.min():g}")
    kind = str(stored[1].dtype) if len(stored) > 1 else "uint8"  # ONNX's default without a zero point
    if kind != "int8":
        yield Violation("type", node.name, f"{kind} instead of int8")
    if len(stored) > 1 and stored[1].any():
        yield Violation("zero-point", node.name, f"{stored[1].ravel()[0]} instead of 0")
    if scale.size > 1 and not _of_weights(node, wiring):
        yield Violation("activation-per-tensor", node.name, f"{scale.size} scales")


def _of_weights(node: onnx.NodeProto, wiring: Wiring) -> bool:
    """Return whether a Q or DQ node works on what is stored in the graph."""
    return wiring.is_constant(_source(node, wiring))


def _source(node: onnx.NodeProto, wiring: Wiring) -> str:
    """Return the tensor that a Q or DQ node starts from: the input of the Q before a DQ, else its own."""
    producer = wiring.producer.get(node.input[0])
    return str((producer if producer is not None and producer.op_type == "QuantizeLinear" else node).input[0])


def _pair_rule(node: onnx.NodeProto, wiring: Wiring) -> Iterator[Violation]:
    for reader in wiring.consumers[node.output[0]]:
        if reader.op_type != "DequantizeLinear":
            yield Violation("pair", node.name, f"read by {reader.op_type} {reader.name!r}")
        elif [_value(name, wiring) for name in reader.input[1:]] != [_value(name, wiring) for name in node.input[1:]]:
            yield Violation("pair", node.name, f"another scale than {reader.name!r}")


def _value(name: str, wiring: Wiring) -> object:
    return wiring.constant(name).tolist() if wiring.is_constant(name) else name


def _operator_rules(node: onnx.NodeProto, wiring: Wiring) -> Iterator[Violation]:
    data, weights = (_dequantize(name, wiring) for name in node.input[:2])
    if (data is None) != (weights is None):
        yield Violation("both-inputs", node.name, f"only the {'data' if data else 'weights'} quantised")
    if weights is None or not _of_weights(weights, wiring):
        return
    axis = next((item.i for item in weights.attribute if item.name == "axis"), 1)
    rank = wiring.constant(_source(weights, wiring)).ndim
    per_channel = wiring.is_constant(weights.input[1]) and wiring.constant(weights.input[1]).size > 1
    if per_channel and axis % rank != channel_axis(node, rank):
        yield Violation("channel-axis", weights.name, f"axis {axis} instead of {channel_axis(node, rank)}")


def _fusable_rule(node: onnx.NodeProto, wiring: Wiring) -> Iterator[Violation]:
    """Find a pair that alone stands between an operator and the activation or residual Add that would join its kernel."""
    producer = wiring.producer.get(node.input[0])
    dequantize = wiring.sole_consumer(node.output[0])
    if producer is None or dequantize is None or not wiring.sole_consumer(node.input[0]):
        return
    reader = wiring.sole_consumer(dequantize.output[0])
    if reader is None:
        return
    if producer.op_type in (*WEIGHTED, "Add") and reader.op_type in _ACTIVATIONS:
        yield Violation("fusable", node.name, f"between {producer.op_type} and {reader.op_type}")
    if producer.op_type in WEIGHTED and reader.op_type == "Add" and not _reads_weighted(reader, wiring):
        yield Violation("fusable", node.name, f"between {producer.op_type} and Add, which no operator reaches directly")


def _reads_weighted(node: onnx.NodeProto, wiring: Wiring) -> bool:
    producers = (wiring.producer.get(name) for name in node.input)
    return any(producer is not None and producer.op_type in WEIGHTED for producer in producers)

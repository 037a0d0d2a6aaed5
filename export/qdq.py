"""QuantizeLinear/DequantizeLinear nodes put into an FP32 graph, given the scale of every activation that is to be quantised."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgeproof.export.calibration import Range
from edgeproof.export.graph import Wiring
from edgeproof.export.qdq_rules import WEIGHTED, channel_axis

_INT32 = np.iinfo(np.int32)


@dataclass(frozen=True)
class Scale:
    """How real numbers x become eight bits: round(x / scale) + zero_point, saturated.

    Attributes:
        scale: float32 scalar, positive.
        zero_point: int8 or uint8 scalar; its type is that of the quantised tensor.
    """

    scale: NDArray[np.float32]
    zero_point: NDArray[Any]

    @classmethod
    def int8(cls, covered: Range) -> Scale:
        """Spread -127..127 over a range symmetric about 0."""
        return cls(_positive(covered.high / 127), np.array(0, np.int8))

    @classmethod
    def uint8(cls, covered: Range) -> Scale:
        """Spread 0..255 over a range that contains 0, with 0 exactly on a level."""
        scale = _positive((covered.high - covered.low) / 255)
        return cls(scale, np.array(np.clip(np.rint(-covered.low / float(scale)), 0, 255), np.uint8))


def _positive(scale: float) -> NDArray[np.float32]:
    return np.array(scale if scale >= np.finfo(np.float32).tiny else 1.0, np.float32)  # a tensor that is always 0


def insert_qdq(graph: onnx.GraphProto, scales: Mapping[str, Scale], *, weighted: Collection[str], biases: bool) -> None:
    """Quantise activations and the weights that they meet, in place.

    Every reader of a quantised activation reads it through one Q/DQ pair. The weighted nodes get int8 weights behind a DQ,
    symmetric, with one scale an output channel.

    Args:
        graph: The FP32 graph, its nodes in topological order.
        scales: Activation to scale.
        weighted: Conv, Gemm and MatMul nodes with stored weights, by the tensors that they give; their data is in `scales`.
        biases: Whether biases become int32 at the product of the two scales, which integer kernels add directly.
    """
    wiring = Wiring(graph)
    nodes: list[onnx.NodeProto] = []
    for item in graph.input:
        nodes += _activation(graph, item.name, scales)
    for node in graph.node:
        if node.output[0] in weighted:
            nodes += _weights(graph, node, wiring, scale=scales[node.input[0]], bias=biases)
        # The data of a layer that stays in float is as real as its weights: TensorRT wants both or neither in eight bits.
        if node.output[0] in weighted or not _has_stored_weights(node, wiring):
            node.input[:] = [f"{name}_dequantized" if name in scales else name for name in node.input]
        nodes.append(node)
        for name in node.output:
            nodes += _activation(graph, name, scales)
    del graph.node[:]
    graph.node.extend(nodes)
    _drop_unread_initializers(graph)


def _has_stored_weights(node: onnx.NodeProto, wiring: Wiring) -> bool:
    return node.op_type in WEIGHTED and wiring.is_constant(node.input[1])


def _activation(graph: onnx.GraphProto, name: str, scales: Mapping[str, Scale]) -> list[onnx.NodeProto]:
    """Return the Q/DQ pair of an activation, or nothing when it stays float."""
    if name not in scales:
        return []
    scale, zero_point = f"{name}_scale", f"{name}_zero_point"
    _store(graph, scale, scales[name].scale)
    _store(graph, zero_point, scales[name].zero_point)
    return [
        _node("QuantizeLinear", name, scale, zero_point, f"{name}_quantized"),
        _node("DequantizeLinear", f"{name}_quantized", scale, zero_point, f"{name}_dequantized"),
    ]


def _weights(
    graph: onnx.GraphProto, node: onnx.NodeProto, wiring: Wiring, *, scale: Scale, bias: bool
) -> list[onnx.NodeProto]:
    """Store a node's weights as int8, and its bias as int32 when asked; return their DQ nodes and make the node read them."""
    weights = wiring.constant(node.input[1])
    axis = channel_axis(node, weights.ndim)
    offset = wiring.constant(node.input[2]) if bias and _has_plain_bias(node, wiring) else None
    channel_scale = _channel_scales(weights, axis, scale=scale, offset=offset)
    along = channel_scale.reshape([-1 if i == axis else 1 for i in range(weights.ndim)])
    levels = np.clip(np.rint(weights / along), -127, 127).astype(np.int8)
    name = f"{node.output[0]}_weight"  # by node: shared weights may meet different activations
    made = [_stored(graph, name, levels, channel_scale, axis)]
    node.input[1] = f"{name}_dequantized"
    if offset is not None:
        bias_scale = (float(scale.scale) * channel_scale.astype(np.float64)).astype(np.float32)
        counts = np.clip(np.rint(offset / bias_scale.astype(np.float64)), _INT32.min, _INT32.max).astype(np.int32)
        made.append(_stored(graph, f"{node.output[0]}_bias", counts, bias_scale, 0))
        node.input[2] = f"{node.output[0]}_bias_dequantized"
    return made


def _channel_scales(
    weights: NDArray[Any], axis: int, *, scale: Scale, offset: NDArray[Any] | None
) -> NDArray[np.float32]:
    """Return max |w| / 127 of each output channel, but large enough for the channel's bias to fit 32 bits."""
    others = tuple(i for i in range(weights.ndim) if i != axis)
    largest: NDArray[Any] = np.abs(weights).max(axis=others) / 127
    if offset is not None:
        largest = np.maximum(largest, np.abs(offset) / (float(scale.scale) * 0.5 * _INT32.max))
    return np.where(largest >= np.finfo(np.float32).tiny, largest, 1.0).astype(np.float32)


def _has_plain_bias(node: onnx.NodeProto, wiring: Wiring) -> bool:
    factors = {item.name: item.f for item in node.attribute if item.name in ("alpha", "beta")}
    stored = len(node.input) > 2 and wiring.is_constant(node.input[2])
    return stored and wiring.constant(node.input[2]).ndim == 1 and all(value == 1 for value in factors.values())


def _stored(
    graph: onnx.GraphProto, name: str, levels: NDArray[Any], scale: NDArray[np.float32], axis: int
) -> onnx.NodeProto:
    """Store integers with one scale a channel and return the DQ node that gives their real values."""
    _store(graph, f"{name}_quantized", levels)
    _store(graph, f"{name}_scale", scale)
    _store(graph, f"{name}_zero_point", np.zeros(scale.shape, levels.dtype))
    return _node(
        "DequantizeLinear", f"{name}_quantized", f"{name}_scale", f"{name}_zero_point", f"{name}_dequantized", axis=axis
    )


def _node(kind: str, data: str, scale: str, zero_point: str, output: str, *, axis: int | None = None) -> onnx.NodeProto:
    node = helper.make_node(kind, [data, scale, zero_point], [output], name=f"{output}_{kind}")
    if axis is not None:
        node.attribute.append(helper.make_attribute("axis", axis))
    return node


def _store(graph: onnx.GraphProto, name: str, value: NDArray[Any]) -> None:
    graph.initializer.append(numpy_helper.from_array(value, name))


def _drop_unread_initializers(graph: onnx.GraphProto) -> None:
    read = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)

"""A stranger's graph made to take what every engine here gives: float32 images (N, C, H, W) in [0, 1]."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeproof.export.base import ExportError, sha256_file
from edgeproof.export.graph import INPUT, OUTPUT, load_graph, merge_metadata, opset_of, save_graph

Layout = Literal["nchw", "nhwc", "flat"]

_GIVEN, _MADE = "standard/given", "standard/made"  # what the stranger's graph takes and gives
_TYPES = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.UINT8)
_OPSET = 11  # the first with Round

_Node: TypeAlias = tuple[str, Any, dict[str, Any]]  # operator, stored operand or None, attributes
_LAYOUTS: dict[str, list[_Node]] = {
    "nchw": [],
    "nhwc": [("Transpose", None, {"perm": [0, 2, 3, 1]})],
    "flat": [("Flatten", None, {})],
}


def standardize_graph(
    src: Path,
    dst: Path,
    *,
    input_shape: tuple[int, int, int],
    layout: Layout = "nchw",
    input_range: float = 1.0,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
) -> None:
    """Write a graph that gives, for images in [0, 1], what the source gives for them in its own convention.

    In front go the scaling, the normalisation, the rounding to the input's type and the layout; behind, a cast to float32 and
    the axes of length 1 that some graphs leave after the classes. The weights stay as they are.

    Args:
        src: A graph with one input, float32, float16 or uint8, and one output.
        dst: The file to write: `images` (N, C, H, W) to `logits` (N, K), N free where it is free in the source.
        input_shape: (C, H, W).
        layout: Of the source's input; "flat" is (N, C * H * W).
        input_range: What 1.0 becomes: 1, or 255.
        mean: What is subtracted from each channel, after the scaling; empty for nothing.
        std: What each channel is then divided by; empty for nothing.

    Raises:
        ExportError: When the graph has other inputs or outputs, or does not take such images.
    """
    model = load_graph(src)
    if opset_of(model) < _OPSET:
        raise ExportError(f"{src.name} has opset {opset_of(model)}; expected {_OPSET} or later: export it again")
    given, made = _only(_inputs(model.graph), "input", src), _only(model.graph.output, "output", src)
    kind, batch = _check_input(given, src, layout=layout, input_shape=input_shape)
    inner = {
        name: f"standard/inner/{name}" for name in (INPUT, OUTPUT)
    }  # a stranger may use our names for other tensors
    _rename(model.graph, {**inner, given.name: _GIVEN, made.name: _MADE})
    scaled = _scaling(input_range=input_range, mean=mean, std=std)
    front = _chain([*scaled, *_typing(kind), *_LAYOUTS[layout]], start=INPUT, end=_GIVEN)
    back = _chain([("Cast", None, {"to": TensorProto.FLOAT}), ("Flatten", None, {})], start=_MADE, end=OUTPUT)
    _surround(model.graph, front, back)
    _set_value(model.graph.input, INPUT, (batch or "batch", *input_shape))
    _set_value(model.graph.output, OUTPUT, (batch or "batch", "classes"))
    model.ir_version = max(model.ir_version, 4)  # before it, stored tensors had to be inputs too
    convention = {"layout": layout, "input_range": input_range, "mean": list(mean), "std": list(std)}
    merge_metadata(model, {"source_input": json.dumps(convention), "source_sha256": sha256_file(src)})
    save_graph(model, dst)


def _inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    stored = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in stored]


def _only(values: Sequence[onnx.ValueInfoProto], what: str, src: Path) -> onnx.ValueInfoProto:
    if len(values) != 1:
        names = ", ".join(value.name for value in values)
        raise ExportError(f"{src.name} has {len(values)} {what}s ({names}); expected one")
    return values[0]


def _check_input(
    given: onnx.ValueInfoProto, src: Path, *, layout: Layout, input_shape: tuple[int, int, int]
) -> tuple[int, int]:
    """Return the element type of the graph's input and its batch size, 0 where it is free."""
    kind = given.type.tensor_type.elem_type
    dims = [max(dim.dim_value, 0) for dim in given.type.tensor_type.shape.dim]
    channels, height, width = input_shape
    shapes = {"nchw": input_shape, "nhwc": (height, width, channels), "flat": (math.prod(input_shape),)}
    wanted = shapes[layout]
    fits = not dims or (
        len(dims) == len(wanted) + 1 and all(n in (0, m) for n, m in zip(dims[1:], wanted, strict=True))
    )
    if kind not in _TYPES or not fits:
        raise ExportError(
            f"{src.name}: its input is {dims} of ONNX's type {kind}; expected float32 (1), uint8 (2) or float16 (10) "
            f"of shape (N, {', '.join(map(str, wanted))}), layout {layout}; 0 stands for a free size"
        )
    return kind, dims[0] if dims else 0


def _scaling(*, input_range: float, mean: Sequence[float], std: Sequence[float]) -> list[_Node]:
    steps: list[_Node] = [] if input_range == 1.0 else [("Mul", np.float32(input_range), {})]
    for kind, values in (("Sub", mean), ("Div", std)):
        if len(values):
            steps.append((kind, np.array(values, np.float32).reshape(-1, 1, 1), {}))
    return steps


def _typing(kind: int) -> list[_Node]:
    cast: _Node = ("Cast", None, {"to": kind})
    if kind == TensorProto.FLOAT:
        return []
    return [("Round", None, {}), cast] if kind == TensorProto.UINT8 else [cast]


def _chain(steps: Sequence[_Node], *, start: str, end: str) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Return nodes one behind the other and the tensors that they store."""
    nodes, stored, last = [], [], start
    for position, (kind, operand, attributes) in enumerate([*steps, ("Identity", None, {})]):
        name = end if position == len(steps) else f"standard/{start.rpartition('/')[2]}_{position}"
        inputs = [last]
        if operand is not None:
            stored.append(numpy_helper.from_array(np.asarray(operand), f"{name}_by"))
            inputs.append(stored[-1].name)
        nodes.append(
            helper.make_node(kind, inputs, [name], name=f"standard/{kind}_{name.rpartition('/')[2]}", **attributes)
        )
        last = name
    return nodes, stored


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for tensor in graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)


def _surround(graph: onnx.GraphProto, *chains: tuple[list[onnx.NodeProto], list[onnx.TensorProto]]) -> None:
    (front, stored), (back, more) = chains
    nodes = [*front, *graph.node, *back]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.initializer.extend([*stored, *more])


def _set_value(values: Any, name: str, shape: tuple[int | str, ...]) -> None:
    del values[:]
    values.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))

"""A foreign graph made to take what every engine here gives: float32 images (N, C, H, W) in [0, 1]."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeproof.export.base import ExportError
from edgeproof.export.graph import INPUT, OUTPUT, merge_metadata, save_graph
from edgeproof.onnx_files import hash_model, load_model, summarize
from edgeproof.onnx_files.loading import all_nodes, ordered_nodes
from edgeproof.onnx_files.summary import Layout, choose_output

_OURS = "standard"  # names of what is put around a graph begin with it
_TYPES = {
    "float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "float64": TensorProto.DOUBLE, "uint8": TensorProto.UINT8,
}  # fmt: skip

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
    input_shape: tuple[int, int, int] | None = None,
    layout: Layout | None = None,
    input_range: float = 1.0,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    output: str | None = None,
) -> None:
    """Write a graph that gives, for images in [0, 1], what the source gives for them in its own convention.

    In front go the scaling, the normalisation, the rounding to the input's type and the layout; behind, a cast to float32 and
    the axes of length 1 that some graphs leave after the classes. The weights stay as they are.

    Args:
        src: A graph with one input, float32, float16, float64 or uint8.
        dst: The file to write: `images` (N, C, H, W) to `logits` (N, K), N free where it is free in the source.
        input_shape: (C, H, W), where the graph leaves it open.
        layout: Of the source's input, where it does not show; "flat" is (N, C * H * W).
        input_range: What 1.0 becomes: 1, or 255.
        mean: What is subtracted from each channel, after the scaling; empty for nothing.
        std: What each channel is then divided by; empty for nothing.
        output: Which output holds the scores of the classes, where there are several; the others are left out.

    Raises:
        ModelError: When the graph has other inputs or outputs, or does not take such images.
        ExportError: When its input has a type that images cannot be cast to, when edgeproof wrote it and a convention is given
            all the same, or the result is no valid graph.
    """
    model = load_model(src)
    summary = summarize(model, src)
    given, shape = summary.only_input(src), summary.image_shape(src, layout=layout, input_shape=input_shape)
    made, layout = choose_output(summary.outputs, output, where=str(src)), layout or "nchw"
    if given.dtype not in _TYPES:
        raise ExportError(f"{src} takes {given}; expected {', '.join(_TYPES)}: export it again")
    if summary.takes_our_images and (layout != "nchw" or input_range != 1.0 or len(mean) or len(std)):
        raise ExportError(
            f"{src} was written by edgeproof and takes images (N, C, H, W) in [0, 1] already; leave out --layout, --range, --mean "
            "and --std, or start from the graph that it was made from"
        )
    kind, batch = _TYPES[given.dtype], (given.shape or ("batch",))[0]
    batch = batch if isinstance(batch, int) else "batch"
    ours = _unused_prefix(model.graph)  # a graph that was brought to our form before has the first one in it
    taken, gives = f"{ours}/given", f"{ours}/made"  # what the source takes and gives
    inner = {name: f"{ours}/inner/{name}" for name in (INPUT, OUTPUT)}  # the graph may use our names for other tensors
    _rename(model.graph, {**inner, given.name: taken, made.name: gives})
    scaled = _scaling(input_range=input_range, mean=mean, std=std)
    front = _chain([*scaled, *_typing(kind), *_LAYOUTS[layout]], start=INPUT, end=taken, prefix=ours)
    back = _chain(
        [("Cast", None, {"to": TensorProto.FLOAT}), ("Flatten", None, {})], start=gives, end=OUTPUT, prefix=ours
    )
    _surround(model.graph, front, back)
    _set_value(model.graph.input, INPUT, (batch, *shape))
    _set_value(model.graph.output, OUTPUT, (batch, "classes"))
    if len(summary.outputs) > 1:
        _prune(model.graph)
    model.ir_version = max(model.ir_version, 4)  # before it, stored tensors had to be inputs too
    merge_metadata(model, {"source_sha256": hash_model(src)})
    if not summary.takes_our_images:  # else what the first source took stands there
        convention = {"layout": layout, "input_range": input_range, "mean": list(mean), "std": list(std)}
        merge_metadata(model, {"source_input": json.dumps(convention)})
    save_graph(model, dst)


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


def _unused_prefix(graph: onnx.GraphProto) -> str:
    """Return "standard", or "standard-2" and so on where names of the graph begin with that."""
    names = {name for node in all_nodes(graph) for name in (node.name, *node.output)}
    found = {name.partition("/")[0] for name in names | {tensor.name for tensor in graph.initializer}}
    return next(prefix for n in count(1) if (prefix := _OURS if n == 1 else f"{_OURS}-{n}") not in found)


def _chain(
    steps: Sequence[_Node], *, start: str, end: str, prefix: str
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Return nodes one behind the other and the tensors that they store."""
    nodes, stored, last = [], [], start
    for position, (kind, operand, attributes) in enumerate([*steps, ("Identity", None, {})]):
        name = end if position == len(steps) else f"{prefix}/{start.rpartition('/')[2]}_{position}"
        inputs = [last]
        if operand is not None:
            stored.append(numpy_helper.from_array(np.asarray(operand), f"{name}_by"))
            inputs.append(stored[-1].name)
        nodes.append(
            helper.make_node(kind, inputs, [name], name=f"{prefix}/{kind}_{name.rpartition('/')[2]}", **attributes)
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


def _prune(graph: onnx.GraphProto) -> None:
    """Drop what only the other outputs need."""
    nodes = ordered_nodes(graph, [OUTPUT])
    used = {name for node in nodes for each in all_nodes(node) for name in each.input}
    tensors = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(tensors)


def _set_value(values: Any, name: str, shape: tuple[int | str, ...]) -> None:
    del values[:]
    values.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))

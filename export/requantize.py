"""The stored numbers of a Q/DQ graph as real ones, and new real ones put back on the same grids: for fine-tuning a build."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edgeproof.export.base import ExportError
from edgeproof.export.graph import Wiring, merge_metadata, save_graph
from edgeproof.export.qdq_rules import WEIGHTED
from edgeproof.onnx_files import hash_model, load_model


@dataclass(frozen=True)
class Grid:
    """The levels that a stored tensor can take: level * scale, level from `low` to `high`.

    Attributes:
        scale: float32, one number or one an entry along `axis`.
        axis: Where `scale` lies along.
        low: Smallest level.
        high: Largest level.
    """

    scale: NDArray[np.float32]
    axis: int
    low: int
    high: int


def stored_parameters(path: Path) -> dict[str, Grid | None]:
    """Name the weights and biases of a Q/DQ graph's Conv, Gemm and MatMul nodes, as these nodes read them.

    Returns:
        Name to grid; None for those that are stored as float.

    Raises:
        ExportError: For a graph without quantised weights.
    """
    model = load_model(path)
    wiring = Wiring(model.graph)
    found = dict(_parameters(model.graph, wiring))
    if not any(found.values()):
        raise ExportError(f"{path.name} has no quantised weights; expected an INT8 graph with Q/DQ nodes")
    return found


def store_parameters(
    src: Path, dst: Path, values: Mapping[str, NDArray[Any]], *, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a graph with other weights and biases, each rounded to its grid; scales and nodes stay.

    Args:
        src: The Q/DQ graph.
        dst: The file to write; may be `src`.
        values: Name, as `stored_parameters` gives it, to real numbers of the same shape.
        metadata: Put beside what the graph says of itself.
    """
    model = load_model(src)
    wiring = Wiring(model.graph)
    for name, real in values.items():
        node = wiring.producer.get(name)
        if node is None:
            _replace(model.graph, name, np.asarray(real, np.float32))
            continue
        grid = _grid(node, wiring)
        levels = np.clip(np.rint(real / _along(grid, np.ndim(real))), grid.low, grid.high)
        _replace(model.graph, node.input[0], levels.astype(wiring.constant(node.input[0]).dtype))
    merge_metadata(model, {**(metadata or {}), "fine_tuned_from": hash_model(src)})
    save_graph(model, dst)


def _parameters(graph: onnx.GraphProto, wiring: Wiring) -> Iterator[tuple[str, Grid | None]]:
    for node in graph.node:
        if node.op_type not in WEIGHTED:
            continue
        for name in node.input[1:]:
            producer = wiring.producer.get(name)
            if wiring.is_constant(name):
                yield name, None
            elif producer and producer.op_type == "DequantizeLinear" and wiring.is_constant(producer.input[0]):
                yield name, _grid(producer, wiring)


def _grid(node: onnx.NodeProto, wiring: Wiring) -> Grid:
    limits = np.iinfo(wiring.constant(node.input[0]).dtype)
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
    # -128 is left out of int8, as it is when weights are first quantised: the grid stays symmetric.
    return Grid(wiring.constant(node.input[1]), axis, -int(limits.max), int(limits.max))


def _along(grid: Grid, dims: int) -> NDArray[np.float32]:
    return grid.scale.reshape([-1 if i == grid.axis else 1 for i in range(dims)]) if grid.scale.ndim else grid.scale


def _replace(graph: onnx.GraphProto, name: str, value: NDArray[Any]) -> None:
    for tensor in graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(value, name))

"""The distribution of a layer's weights: the Min-Max property as numbers, of a checkpoint or of an ONNX file.

Shen et al. (2022, arXiv:2101.12372) call a layer Min-Max when most of its weights are near zero and a few are large. We could
not read their definition; these are ours. Kurtosis and Hoyer sparsity do not change with the scale of the layer, so shrinkage
alone does not raise them, and the largest weight shows whether there was any.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeproof.config import Strict
from edgeproof.errors import ModelError, first_line
from edgeproof.onnx_files import load_model, tensor_array
from edgeproof.runs import Run
from edgeproof.system.optional import require
from edgeproof.types import Array

if TYPE_CHECKING:
    from onnx import NodeProto, TensorProto

_NEAR_ZERO = 0.01  # of the largest weight
_KINDS = {4: "conv", 2: "linear"}
_NO_ZERO = np.zeros((), np.int8)
_LONGEST_NUMBER = 100  # digits of a layer's number; Python reads 4,300 at most


class LayerRecord(Strict):
    """The weights w of one layer; null where a measure is not defined.

    kurtosis: excess, m4 / m2^2 - 3. hoyer: (sqrt(n) - |w|_1 / |w|_2) / (sqrt(n) - 1), from 0 (all equal) to 1 (one is not
    zero). near_zero: share of |w| under 1 % of the largest. penalty: R(w) = |w|_1 - |w|_2.
    """

    layer: str
    tensor: str
    count: int
    kurtosis: float | None
    hoyer: float | None
    near_zero: float
    max_abs: float
    max_over_median: float | None
    penalty: float


class MinMaxRecord(Strict):
    """A comparison of one layer, which has become more Min-Max where kurtosis and Hoyer sparsity rise while the largest weight does not fall."""

    layer: str
    kurtosis_rises: bool
    hoyer_rises: bool
    max_falls: bool

    @property
    def holds(self) -> bool:
        """Whether it has; a fallen maximum means shrinkage, not shape."""
        return self.kurtosis_rises and self.hoyer_rises and not self.max_falls


def measure_layer(weight: Array, *, layer: str, tensor: str = "") -> LayerRecord:
    """Measure the weights of one layer, of any shape."""
    w = weight.astype(np.float64).ravel()
    size, largest = np.abs(w), float(np.abs(w).max(initial=0.0))
    total, length = float(size.sum()), float(np.sqrt(np.square(w).sum()))
    spread = np.square(w - w.mean()) if w.size else w
    variance, median = float(spread.mean()) if w.size else 0.0, float(np.median(size)) if w.size else 0.0
    root = float(np.sqrt(w.size))
    return LayerRecord(
        layer=layer,
        tensor=tensor,
        count=w.size,
        kurtosis=float(np.square(spread).mean()) / variance**2 - 3 if variance else None,
        hoyer=(root - total / length) / (root - 1) if length and w.size > 1 else None,
        near_zero=float((size < _NEAR_ZERO * largest).mean()) if largest else 1.0,
        max_abs=largest,
        max_over_median=largest / median if median else None,
        penalty=total - length,
    )


def measure_layers(weights: Mapping[str, Array]) -> tuple[LayerRecord, ...]:
    """Measure the layers among named tensors, in their order: convolutions (four axes) and linear layers (two)."""
    return tuple(
        measure_layer(weights[tensor], layer=layer, tensor=tensor) for layer, tensor in layer_names(weights).items()
    )


def layer_names(weights: Mapping[str, Array]) -> dict[str, str]:
    """Name the layers `conv1`, `conv2`, ..., `linear1`, ...: the same in a checkpoint and in what is exported from it."""
    found: dict[str, str] = {}
    for kind in _KINDS.values():
        tensors = [name for name, weight in weights.items() if _KINDS.get(weight.ndim) == kind]
        found |= {f"{kind}{number}": tensor for number, tensor in enumerate(tensors, 1)}
    return found


def became_min_max(before: Sequence[LayerRecord], after: Sequence[LayerRecord]) -> tuple[MinMaxRecord, ...]:
    """Compare the layers of two checkpoints that have the same names."""
    earlier = {record.layer: record for record in before}
    return tuple(
        MinMaxRecord(
            layer=record.layer,
            kurtosis_rises=_rises(earlier[record.layer].kurtosis, record.kurtosis),
            hoyer_rises=_rises(earlier[record.layer].hoyer, record.hoyer),
            max_falls=record.max_abs < earlier[record.layer].max_abs,
        )
        for record in after
        if record.layer in earlier
    )


def inspect_weights(path: Path) -> dict[str, tuple[LayerRecord, ...]]:
    """Measure the layers of a checkpoint or a graph, or of each that a run folder holds, by the name of the file.

    Raises:
        ModelError: When there is none, or one cannot be read.
        RunError: When the folder is no finished run.
        UnavailableError: When the package that reads it is not installed.
    """
    files = [path]
    if path.is_dir():
        run = Run.open(path)
        files = [run.file(name) for name in run.outputs() if Path(name).suffix in (".safetensors", ".onnx")]
        if not files:
            raise ModelError(f"{path} holds no checkpoint and no graph; it has: {', '.join(run.outputs())}")
    return {file.name: measure_layers(read_weights(file)) for file in files}


def read_weights(path: Path) -> dict[str, Array]:
    """Return the layers' weights of a file by name, in the network's order.

    Args:
        path: A checkpoint (.safetensors), or an ONNX file; quantised weights are given as they are computed with.

    Raises:
        ModelError: When it cannot be read or holds no layer.
        UnavailableError: When the package that reads it is not installed.
    """
    weights = _read_onnx(path) if path.suffix == ".onnx" else _read_checkpoint(path)
    if not weights:
        raise ModelError(f"{path} holds no convolution and no linear layer")
    return weights


def _rises(before: float | None, after: float | None) -> bool:
    return before is not None and after is not None and after > before


def _read_checkpoint(path: Path) -> dict[str, Array]:
    safetensors = require("safetensors", extra="train", purpose="read checkpoints")
    try:
        with safetensors.safe_open(path, framework="np") as file:
            found = {name: file.get_tensor(name) for name in sorted(file.keys(), key=_natural)}
    except (
        safetensors.SafetensorError,
        OSError,
        TypeError,
        AttributeError,
    ) as error:  # the last two: no type of NumPy's
        raise ModelError(
            f"{path} cannot be read as safetensors ({error}); expected a checkpoint or an ONNX file"
        ) from error
    return {name: weight for name, weight in found.items() if name.endswith("weight") and weight.ndim in _KINDS}


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort `10.weight` after `9.weight`."""
    return [
        (int(part), "") if part.isdecimal() and len(part) <= _LONGEST_NUMBER else (-1, part)
        for part in re.split(r"(\d+)", name)
    ]


def _read_onnx(path: Path) -> dict[str, Array]:
    graph = load_model(path, inline=True).graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    constants = (node for node in graph.node if node.op_type == "Constant" and node.output)
    stored |= {node.output[0]: part.t for node in constants for part in node.attribute if part.name == "value"}
    makers = {name: node for node in graph.node for name in node.output}
    known: dict[str, Array | None] = {}
    found: dict[str, Array] = {}
    try:
        for node in graph.node:
            takes_weight = node.op_type in ("Conv", "Gemm", "MatMul") and len(node.input) > 1
            weight = _constant(node.input[1], stored, makers, known) if takes_weight else None
            if weight is not None and weight.ndim in _KINDS:
                found[node.name or next(iter(node.output), "")] = weight
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: its weights cannot be followed ({first_line(error)}); export it again") from error
    return found


def _constant(
    name: str, stored: Mapping[str, TensorProto], makers: Mapping[str, NodeProto], known: dict[str, Array | None]
) -> Array | None:
    """Return a weight as it is computed with: what is stored, past a DequantizeLinear and what does not change numbers.

    `known` holds what has been found; a value in the making is None there, so that a ring of nodes ends.
    """
    if name in known:
        return known[name]
    known[name] = None
    node = makers.get(name)
    if name in stored:
        known[name] = np.asarray(tensor_array(stored[name]))
    elif node is not None and node.op_type in ("Identity", "Cast", "Transpose", "DequantizeLinear"):
        inputs = [_constant(each, stored, makers, known) for each in node.input[:3]]
        known[name] = _dequantized(node, *inputs) if node.op_type == "DequantizeLinear" else next(iter(inputs), None)
    return known[name]


def _dequantized(
    node: NodeProto, levels: Array | None = None, scale: Array | None = None, zero_point: Array | None = _NO_ZERO
) -> Array | None:
    """Return the numbers of quantised levels, in their shape: one scale for all, or one for each place of an axis."""
    if levels is None or scale is None or zero_point is None:
        return None
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
    shape = [-1 if place == axis else 1 for place in range(levels.ndim)] if scale.ndim else []
    zero, factor = (
        np.broadcast_to(each.reshape(shape), levels.shape) for each in (zero_point.astype(np.float32), scale)
    )
    numbers: Array = (levels.astype(np.float32) - zero) * factor
    return numbers

"""How a graph wants its images: described by the user where the file cannot say it, and applied before every call."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from edgeproof.errors import ModelError
from edgeproof.models.base import check_normalization
from edgeproof.models.onnx_import.elementwise import substitute
from edgeproof.models.onnx_import.shapes import MAX_ELEMENTS
from edgeproof.types import Array, Images

if TYPE_CHECKING:
    from onnx import GraphProto, ValueInfoProto

Layout = Literal["nchw", "nhwc", "flat"]
Shape = tuple[int, int, int]

_DTYPES = {1: "float32", 2: "uint8", 10: "float16"}  # by their number in ONNX


@dataclass(frozen=True)
class GraphInput:
    """How a graph wants its images.

    Attributes:
        layout: "nchw", "nhwc" or "flat" (N, C * H * W).
        input_range: What 1.0 becomes: 1, or 255 for graphs made for bytes.
        mean: Subtracted from each channel, after the scaling to `input_range`; empty when the graph does it itself.
        std: What each channel is then divided by; empty likewise.
        dtype: "float32", "float16" or "uint8": the type of the graph's input.
        batch: The batch size that the graph is fixed to, or None when it takes any. It is 1 for dynamically quantised
            graphs, in which each image would otherwise change the ranges of the others.
    """

    layout: Layout = "nchw"
    input_range: float = 1.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    dtype: str = "float32"
    batch: int | None = None

    def prepare(self, x: Tensor) -> Tensor:
        """Return what the graph is given for images (N, C, H, W) in [0, 1], in the type of `x` and differentiable."""
        x = x if self.input_range == 1.0 else x * self.input_range
        if self.mean:
            mean, std = (x.new_tensor(values).view(1, -1, 1, 1) for values in (self.mean, self.std))
            x = (x - mean) / std
        if self.dtype != "float32":
            x = substitute(x.half().to(x.dtype) if self.dtype == "float16" else torch.round(x), x)
        if self.layout == "flat":
            return x.flatten(1)
        return x.permute(0, 2, 3, 1) if self.layout == "nhwc" else x

    def feed(self, images: Images) -> Array:
        """Return what an engine that runs the file is given for images (N, C, H, W) in [0, 1]."""
        with torch.no_grad():
            return np.ascontiguousarray(self.prepare(torch.from_numpy(images)).numpy(), dtype=self.dtype)


def describe_input(
    graph: GraphProto,
    *,
    layout: Layout,
    input_range: float,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    input_shape: Shape | None,
) -> tuple[str, GraphInput, Shape]:
    """Return the name of the graph's input, its description and the images' (C, H, W).

    Raises:
        ModelError: When the graph does not take images, or not as they are described.
    """
    value = _only_input(graph)
    kind = value.type.tensor_type
    dtype = _DTYPES.get(kind.elem_type)
    if dtype is None:
        raise ModelError(
            f"its input {value.name!r} has ONNX's element type {kind.elem_type}; expected {', '.join(_DTYPES.values())}"
        )
    dims = [max(dim.dim_value, 0) for dim in kind.shape.dim]  # 0 where it is free
    shape = _image_shape(dims, layout=layout, input_shape=input_shape)
    batch = (dims[0] or None) if dims else None
    if any(node.op_type == "DynamicQuantizeLinear" for node in graph.node):
        batch = batch or 1
    if min(shape) < 1 or math.prod(shape) * (batch or 1) > MAX_ELEMENTS:
        raise ModelError(f"its input is {_written(dims)}; images of shape {shape} cannot be meant")
    means, stds = _normalization(mean, std, channels=shape[0])
    return value.name, GraphInput(layout, input_range, means, stds, dtype, batch), shape


def _only_input(graph: GraphProto) -> ValueInfoProto:
    stored = {tensor.name for tensor in graph.initializer}  # which old files list among the inputs
    inputs = [value for value in graph.input if value.name not in stored]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs) or "none"
        raise ModelError(f"the graph has {len(inputs)} inputs ({names}); expected one, the images")
    value: ValueInfoProto = inputs[0]
    return value


def _image_shape(dims: Sequence[int], *, layout: Layout, input_shape: Shape | None) -> Shape:
    rank = 2 if layout == "flat" else 4
    takes = f"its input is {_written(dims)}, layout {layout!r}"
    if dims and len(dims) != rank:
        raise ModelError(f"{takes}; expected {rank} axes; choose another layout")
    own = tuple(dims[1:])
    if layout == "nhwc" and own:
        own = (own[2], own[0], own[1])
    if input_shape is None:
        if len(own) != 3 or not all(own):
            raise ModelError(f"{takes}, which leaves the images' size open; give input_shape (C, H, W)")
        return own[0], own[1], own[2]
    sizes = input_shape if layout != "flat" else (math.prod(input_shape),)
    if any(n and n != m for n, m in zip(own, sizes, strict=bool(own))):
        raise ModelError(f"{takes}; images of shape {input_shape} do not fit")
    return input_shape


def _written(dims: Sequence[int]) -> str:
    return "(" + ", ".join(str(n or "?") for n in dims) + ")"


def _normalization(
    mean: Sequence[float] | None, std: Sequence[float] | None, *, channels: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if mean is None and std is None:
        return (), ()
    means, stds = tuple(mean or (0.0,) * channels), tuple(std or (1.0,) * channels)
    check_normalization(means, stds, channels=channels)
    return means, stds

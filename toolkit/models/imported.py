"""Anybody's ONNX classifier as a differentiable torch module, so that it can be the source of attacks as well as their target.

Straight-through gradients make quantised graphs attackable too. Nothing is verified here: the caller compares the module
with the engine that runs the file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from toolkit.errors import ModelError
from toolkit.models.base import check_normalization
from toolkit.models.onnx_import import shapes
from toolkit.models.onnx_import.elementwise import substitute
from toolkit.models.onnx_import.reading import read_model
from toolkit.models.onnx_import.translation import translate
from toolkit.types import Array, Images

Layout = Literal["nchw", "nhwc", "flat"]

_TYPES: dict[int, str] = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.UINT8: "uint8",
}


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


class ImportedClassifier(nn.Module):
    """A graph behind the description of its input: images (N, C, H, W) in [0, 1] to logits (N, K), differentiable.

    Attributes:
        graph: The translated graph.
        graph_input: How the graph wants its images.
        name: The file's name.
        input_shape: (C, H, W).
        classes: The name of each class: as the file says, else its number.
        num_classes: K.
        probabilities: Whether the graph ends in a softmax. `forward` leaves it out, since gradients through it vanish.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        graph: nn.Module,
        *,
        graph_input: GraphInput,
        name: str,
        input_shape: tuple[int, int, int],
        classes: Sequence[str],
        probabilities: bool,
    ) -> None:
        super().__init__()
        self.graph = graph
        self.graph_input = graph_input
        self.name = name
        self.input_shape = input_shape
        self.classes = tuple(classes)
        self.num_classes = len(self.classes)
        self.probabilities = probabilities
        self.register_buffer("mean", torch.tensor(graph_input.mean or 0.0).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(graph_input.std or 1.0).view(1, -1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, K) for images (N, C, H, W) in [0, 1]."""
        given = self.prepare(x)
        if self.graph_input.batch is None:
            return self._logits(given)
        return self._in_batches(given, self.graph_input.batch)

    def outputs(self, x: Tensor) -> Tensor:
        """Return what an engine that runs the file gives, (N, K): the logits, or probabilities where the graph ends so."""
        logits: Tensor = self(x)
        return logits.softmax(1) if self.probabilities else logits

    def prepare(self, x: Tensor) -> Tensor:
        """Return what the graph is given for images (N, C, H, W) in [0, 1], in the type of `x`."""
        about = self.graph_input
        x = x if about.input_range == 1.0 else x * about.input_range
        x = (x - self.mean) / self.std if about.mean else x
        if about.dtype != "float32":
            x = substitute(x.half().to(x.dtype) if about.dtype == "float16" else torch.round(x), x)
        if about.layout == "flat":
            return x.flatten(1)
        return x.permute(0, 2, 3, 1) if about.layout == "nhwc" else x

    def feed(self, images: Images) -> Array:
        """Return what an engine that runs the file is given for images (N, C, H, W) in [0, 1]."""
        with torch.no_grad():
            given: Array = self.prepare(torch.from_numpy(images).to(self.mean)).cpu().numpy()
        return np.ascontiguousarray(given, dtype=self.graph_input.dtype)

    def _in_batches(self, given: Tensor, batch: int) -> Tensor:
        """Run a graph of a fixed batch on any number of images: many such batches side by side, the last one filled up."""
        missing = -len(given) % batch
        full = torch.cat([given, given[:1].detach().expand(missing, *given.shape[1:])]) if missing else given
        logits = torch.vmap(self._logits)(torch.unflatten(full, 0, (-1, batch)))
        return logits.flatten(0, 1)[: len(given)]

    def _logits(self, given: Tensor) -> Tensor:
        logits: Tensor = self.graph(given)
        return logits.flatten(1)


def import_onnx(
    path: Path,
    *,
    layout: Layout = "nchw",
    input_range: float = 1.0,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    input_shape: tuple[int, int, int] | None = None,
) -> ImportedClassifier:
    """Turn an ONNX classifier into a differentiable module, in eval mode, whose weights take no gradients.

    Args:
        path: The file; tensors outside it must lie in its folder.
        layout: How the graph's input is laid out.
        input_range: What 1.0 is to the graph: 1, or 255.
        mean: What the graph's user subtracts from each channel, after the scaling to `input_range`; None for nothing.
        std: What each channel is then divided by; None for nothing.
        input_shape: (C, H, W), where the graph leaves it open: flat inputs, free sizes.

    Returns:
        Logits in float32. FP16 graphs are computed in float32 with their rounded weights, as ONNX Runtime's CPU provider
        does; quantised ones round as they do there and pass gradients straight through.

    Raises:
        ModelError: When the file cannot be read, is no classifier of images, or holds what is not covered; an operator is
            named.
    """
    try:
        model = read_model(path)
        source, target = _image_input(model), _logits_output(model)
        about, shape = _describe_input(source, layout=layout, input_shape=input_shape)
        if any(node.op_type == "DynamicQuantizeLinear" for node in model.graph.node):
            about = replace(about, batch=about.batch or 1)
        mean, std = _normalization(mean, std, channels=shape[0])
        about = replace(about, input_range=input_range, mean=mean, std=std)
        logits = _before_softmax(model, target)
        graph = translate(model, source=source.name, target=logits)
        num_classes = _try(graph, about, shape)
        classes = _class_names(model, num_classes)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    return ImportedClassifier(
        graph,
        graph_input=about,
        name=path.name,
        input_shape=shape,
        classes=classes,
        probabilities=logits != target,
    ).eval()


def _image_input(model: onnx.ModelProto) -> onnx.ValueInfoProto:
    stored = {tensor.name for tensor in model.graph.initializer}  # which old files list among the inputs
    inputs = [value for value in model.graph.input if value.name not in stored]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs) or "none"
        raise ModelError(f"the graph has {len(inputs)} inputs ({names}); expected one, the images")
    value: onnx.ValueInfoProto = inputs[0]
    return value


def _logits_output(model: onnx.ModelProto) -> str:
    names = [str(value.name) for value in model.graph.output]
    if len(names) != 1:
        raise ModelError(
            f"the graph has {len(names)} outputs ({', '.join(names)}); expected one, the logits: export it with that one only"
        )
    return names[0]


def _describe_input(
    value: onnx.ValueInfoProto, *, layout: Layout, input_shape: tuple[int, int, int] | None
) -> tuple[GraphInput, tuple[int, int, int]]:
    """Return the description of the graph's input and the images' (C, H, W)."""
    kind = value.type.tensor_type
    if kind.elem_type not in _TYPES:
        known = {number: name.lower() for name, number in onnx.TensorProto.DataType.items()}
        kind_name = known.get(kind.elem_type, f"of type {kind.elem_type}")
        raise ModelError(f"its input {value.name!r} is {kind_name}; expected {', '.join(_TYPES.values())}")
    dims = [dim.dim_value for dim in kind.shape.dim]  # 0 where it is free
    shape = _image_shape(dims, layout=layout, input_shape=input_shape)
    return GraphInput(layout=layout, dtype=_TYPES[kind.elem_type], batch=(dims[0] or None) if dims else None), shape


def _image_shape(
    dims: Sequence[int], *, layout: Layout, input_shape: tuple[int, int, int] | None
) -> tuple[int, int, int]:
    rank = 2 if layout == "flat" else 4
    if dims and len(dims) != rank:
        raise ModelError(
            f"its input has {len(dims)} axes ({_written(dims)}); expected {rank} for layout {layout!r}; choose another layout"
        )
    own = tuple(dims[1:])
    if layout == "nhwc" and own:
        own = (own[2], own[0], own[1])
    if input_shape is None:
        if len(own) != 3 or not all(own):
            raise ModelError(
                f"its input is {_written(dims)}, layout {layout!r}, which leaves the images' size open; give input_shape (C, H, W)"
            )
        input_shape = (own[0], own[1], own[2])
    sizes = input_shape if layout != "flat" else (math.prod(input_shape),)
    if any(n and n != m for n, m in zip(own, sizes, strict=bool(own))):
        raise ModelError(f"its input is {_written(dims)}, layout {layout!r}; images of shape {input_shape} do not fit")
    return input_shape


def _written(dims: Sequence[int]) -> str:
    return "(" + ", ".join(str(n or "?") for n in dims) + ")"


def _normalization(
    mean: Sequence[float] | None, std: Sequence[float] | None, *, channels: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if mean is None and std is None:
        return (), ()
    mean, std = tuple(mean or (0.0,) * channels), tuple(std or (1.0,) * channels)
    check_normalization(mean, std, channels=channels)
    return mean, std


def _before_softmax(model: onnx.ModelProto, target: str) -> str:
    """Return the input of a softmax over the classes that ends the graph, else the output itself."""
    last = next((node for node in model.graph.node if target in node.output), None)
    if last is None or last.op_type != "Softmax":
        return target
    axis = next((attribute.i for attribute in last.attribute if attribute.name == "axis"), None)
    return last.input[0] if axis in (None, -1, 1) else target


def _try(graph: nn.Module, about: GraphInput, shape: tuple[int, int, int]) -> int:
    """Run the graph on random images, and return the number of classes."""
    if math.prod(shape) > shapes.MAX_ELEMENTS or min(shape) < 1:
        raise ModelError(f"images of shape {shape} are not images")
    images = torch.rand(about.batch or 2, *shape, generator=torch.Generator().manual_seed(0))
    blank = ImportedClassifier(graph, graph_input=about, name="", input_shape=shape, classes=(), probabilities=False)
    with torch.no_grad():
        logits = graph(blank.prepare(images))
    rows = tuple(logits.shape)
    if len(rows) < 2 or rows[0] != len(images) or math.prod(rows[2:]) != 1 or rows[1] < 2:
        raise ModelError(f"it gives {rows} for {len(images)} images; expected logits (N, K), K at least 2")
    if not bool(torch.isfinite(logits).all()):
        raise ModelError(
            "it gives NaN or infinite logits for images of random pixels; is input_range or mean and std right?"
        )
    return int(rows[1])


def _class_names(model: onnx.ModelProto, count: int) -> tuple[str, ...]:
    """Return the names that our exporter has written into the file, else the classes' numbers."""
    text = next((entry.value for entry in model.metadata_props if entry.key == "edgeproof.classes"), "null")
    try:
        names = json.loads(text)
    except ValueError as error:
        raise ModelError(f"its metadata edgeproof.classes are no JSON ({text[:40]!r})") from error
    if names is None:
        return tuple(map(str, range(count)))
    if not isinstance(names, list) or len(names) != count:
        raise ModelError(f"its metadata name {len(names)} classes, and it gives {count} logits")
    return tuple(map(str, names))

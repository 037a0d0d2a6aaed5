"""Anybody's ONNX classifier as a differentiable torch module, so that it can be the source of attacks as well as their target.

Straight-through gradients make quantised graphs attackable too. Nothing is verified here: the caller compares the module
with the engine that runs the file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from edgeproof.errors import ModelError
from edgeproof.models.onnx_import.graph import OnnxGraph
from edgeproof.models.onnx_import.images import GraphInput, describe_input
from edgeproof.models.onnx_import.translation import translate
from edgeproof.onnx_files.loading import all_nodes, load_model
from edgeproof.onnx_files.summary import ONE_NUMBER, Layout, Shape, choose_output, summarize
from edgeproof.system.untrusted import is_text

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto


#: What may stand behind the softmax that ends a graph: the classes stay in their order.
_RESHAPING = ("Cast", "Flatten", "Identity", "Reshape", "Squeeze")


class ImportedClassifier(nn.Module):
    """A graph behind the description of its input: images (N, C, H, W) in [0, 1] to logits (N, K), differentiable.

    Attributes:
        graph: The translated graph.
        graph_input: How the graph wants its images.
        name: The file's name.
        input_shape: (C, H, W).
        classes: The name of each class: as the file says, else its number.
        num_classes: K.
        named: The class names that the file has, or ().
        output: Name of the output that holds the scores of the classes.
        probabilities: Whether the graph ends in a softmax. `forward` leaves it out, since gradients through it vanish.
    """

    def __init__(
        self,
        graph: OnnxGraph,
        *,
        graph_input: GraphInput,
        name: str,
        input_shape: Shape,
        classes: Sequence[str],
        output: str,
        probabilities: bool,
    ) -> None:
        super().__init__()
        self.graph: OnnxGraph = graph
        self.graph_input = graph_input
        self.name = name
        self.input_shape = input_shape
        self.classes = tuple(classes)
        self.num_classes = len(self.classes)
        self.named: tuple[str, ...] = ()
        self.output = output
        self.probabilities = probabilities

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, K) for images (N, C, H, W) in [0, 1]."""
        given = self.graph_input.prepare(x)
        if self.graph_input.batch is None:
            return self._logits(given)
        return self._in_batches(given, self.graph_input.batch)

    @property
    def rounds(self) -> bool:
        """Whether the graph rounds to integers on the way, so that sums in another order may end a level apart."""
        return self.graph.rounds

    def outputs(self, x: Tensor) -> Tensor:
        """Return what an engine that runs the file gives, (N, K): the logits, or probabilities where the graph ends so."""
        logits: Tensor = self(x)
        return logits.softmax(1) if self.probabilities else logits

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
    layout: Layout | None = None,
    input_range: float = 1.0,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    input_shape: Shape | None = None,
    output: str | None = None,
) -> ImportedClassifier:
    """Turn an ONNX classifier into a differentiable module, in eval mode, whose weights take no gradients.

    Args:
        path: The file; tensors outside it must lie in its folder.
        layout: How the graph's input is laid out, where it does not show.
        input_range: What 1.0 is to the graph: 1, or 255.
        mean: What the graph's user subtracts from each channel, after the scaling to `input_range`; None for nothing.
        std: What each channel is then divided by; None for nothing.
        input_shape: (C, H, W), where the graph leaves it open: flat inputs, free sizes.
        output: Which output holds the scores of the classes, where there are several.

    Returns:
        Logits in float32. FP16 graphs are computed in float32 with their rounded weights, as ONNX Runtime's CPU provider
        does; quantised ones round as they do there and pass gradients straight through.

    Raises:
        ModelError: When the file cannot be read, is no classifier of images, or holds what is not covered; an operator is
            named.
    """
    model = load_model(path, inline=True)
    summary = summarize(model, path)  # refuses a ring of nodes before anything follows one
    source, target = summary.only_input(path).name, choose_output(summary.outputs, output, where=str(path)).name
    about, shape = describe_input(
        summary, path, layout=layout, input_range=input_range, mean=mean, std=std, input_shape=input_shape
    )
    if any(node.op_type == "DynamicQuantizeLinear" for node in all_nodes(model.graph)):
        about = replace(about, batch=about.batch or 1)
    try:
        logits = before_softmax(model.graph, target)
        graph = translate(model, source=source, target=logits)
        about, count = _count_classes(graph, about, shape)
        classes = _class_names(model, count=count)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    imported = ImportedClassifier(
        graph,
        graph_input=about,
        name=path.name,
        input_shape=shape,
        classes=classes or tuple(map(str, range(count))),
        output=target,
        probabilities=logits != target,
    )
    imported.named = classes
    return imported.eval()


def before_softmax(graph: GraphProto, target: str) -> str:
    """Return the input of a softmax over the classes that ends the graph, else the output itself."""
    makers = {name: node for node in graph.node if node.input for name in node.output}
    last = makers.get(target)
    while last is not None and last.op_type in _RESHAPING:
        last = makers.get(last.input[0])
    if last is None or last.op_type != "Softmax":
        return target
    axis = next((attribute.i for attribute in last.attribute if attribute.name == "axis"), None)
    return last.input[0] if axis in (None, -1, 1) else target


def _count_classes(graph: nn.Module, about: GraphInput, shape: Shape) -> tuple[GraphInput, int]:
    """Run the graph on random images, so that a misfit shows here and not in the middle of an attack.

    Returns:
        The description of the input, with a batch of 1 where the graph takes no other though it says so, and K.
    """
    images = torch.rand(about.batch or 2, *shape, generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad():
            logits = graph(about.prepare(images))
        rows = tuple(logits.shape)
    except ModelError:
        if about.batch is not None:
            raise
        rows = ()
    if about.batch is None and rows[:1] != (2,):
        return _count_classes(graph, replace(about, batch=1), shape)
    if len(rows) < 2 or rows[0] != len(images) or math.prod(rows[2:]) != 1:
        raise ModelError(f"it gives {rows} for {len(images)} images; expected logits (N, K), K at least 2")
    if rows[1] < 2:
        raise ModelError(f"it gives {ONE_NUMBER}")
    if not bool(torch.isfinite(logits).all()):
        raise ModelError(
            "it gives NaN or infinite logits for images of random pixels; is input_range or mean and std right?"
        )
    return about, int(rows[1])


def _class_names(model: ModelProto, *, count: int) -> tuple[str, ...]:
    """Return the names that our exporter has written into the file, or ()."""
    text = next((entry.value for entry in model.metadata_props if entry.key == "edgeproof.classes"), "null")
    try:
        names = json.loads(text)
    except ValueError as error:
        raise ModelError(f"its metadata edgeproof.classes are no JSON ({text[:40]!r})") from error
    if names is None:
        return ()
    if not isinstance(names, list) or len(names) != count:
        raise ModelError(f"its metadata name {len(names)} classes, and it gives {count} logits")
    if not all(is_text(str(name)) for name in names):
        raise ModelError("its metadata names a class that is no Unicode text")
    return tuple(map(str, names))

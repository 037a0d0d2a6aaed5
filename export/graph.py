"""ONNX files: reading, checking, writing, their metadata, and who makes and who reads each tensor."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray
from onnx import numpy_helper

from edgeproof.export.base import ExportError

PREFIX = "edgeproof."
INPUT, OUTPUT = "images", "logits"


def load_graph(path: Path) -> onnx.ModelProto:
    """Read an ONNX file.

    Raises:
        ExportError: When it is missing or not an ONNX graph.
    """
    try:
        model = onnx.load(str(path))
    except (OSError, DecodeError, onnx.checker.ValidationError) as error:
        raise ExportError(f"{path} cannot be read as an ONNX graph ({error}); export it again") from error
    if not model.graph.node:
        raise ExportError(f"{path} holds no ONNX graph; export it again")
    if not has_text_names(model.graph):
        raise ExportError(f"{path}: a name in the graph is no UTF-8 text; export it again")
    return model


def has_text_names(graph: onnx.GraphProto) -> bool:
    """Whether every name in a graph is text: protobuf gives bytes for what is no UTF-8."""
    values = (*graph.input, *graph.output, *graph.value_info, *graph.initializer)
    of_nodes = ((node.name, node.op_type, node.domain, *node.input, *node.output) for node in graph.node)
    attributes = (attribute for node in graph.node for attribute in node.attribute)
    names = chain((each.name for each in chain(values, attributes)), chain.from_iterable(of_nodes))
    return all(isinstance(name, str) for name in names)


def save_graph(model: onnx.ModelProto, path: Path) -> None:
    """Check a graph with shape inference and write it as one file.

    Raises:
        ExportError: When the checker refuses it.
    """
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ExportError(f"{path.name} is not a valid ONNX graph: {reason}") from error
    onnx.save(model, str(path))


def read_metadata(model: onnx.ModelProto) -> dict[str, str]:
    """Return this project's metadata of a graph, without the prefix of the keys."""
    return {p.key.removeprefix(PREFIX): p.value for p in model.metadata_props if p.key.startswith(PREFIX)}


def merge_metadata(model: onnx.ModelProto, values: Mapping[str, str]) -> None:
    """Add metadata under the prefix; what else is there stays."""
    merged = {p.key: p.value for p in model.metadata_props} | {PREFIX + key: value for key, value in values.items()}
    onnx.helper.set_model_props(model, merged)


def opset_of(model: onnx.ModelProto) -> int:
    """Return the version of the standard operator set that a graph uses."""
    return max((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), default=0)


def drop_unused_opsets(model: onnx.ModelProto) -> None:
    """Drop the operator sets that no node uses; runtimes refuse to open a graph that names one they do not know."""
    used = {node.domain for node in model.graph.node} | {""}
    kept = [item for item in model.opset_import if item.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)


class Wiring:
    """Who makes and who reads each tensor of a graph, as the graph stands when this is made.

    Attributes:
        producer: The node that makes a tensor; graph inputs and constants have none.
        consumers: The nodes that read a tensor, once for each input that does.
        outputs: Names of the graph's outputs.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.producer: dict[str, onnx.NodeProto] = {name: node for node in graph.node for name in node.output}
        self.consumers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in graph.node:
            for name in node.input:
                self.consumers[name].append(node)
        self.outputs = {output.name for output in graph.output}
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self._tensors[node.output[0]] = node.attribute[0].t

    def is_constant(self, name: str) -> bool:
        """Return whether a tensor is stored in the graph."""
        return name in self._tensors

    def constant(self, name: str) -> NDArray[Any]:
        """Return the value of a stored tensor."""
        return np.asarray(numpy_helper.to_array(self._tensors[name]))

    def sole_consumer(self, name: str) -> onnx.NodeProto | None:
        """Return the only reader of a tensor, or None when there are several, none, or it is a graph output."""
        readers = self.consumers.get(name, [])
        return readers[0] if len(readers) == 1 and name not in self.outputs else None

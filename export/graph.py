"""ONNX graphs: checking, writing, their metadata, and who makes and who reads each tensor."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edgeproof.export.base import ExportError

PREFIX = "edgeproof."
INPUT, OUTPUT = "images", "logits"


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


def merge_metadata(model: onnx.ModelProto, values: Mapping[str, str]) -> None:
    """Add metadata under the prefix; what else is there stays."""
    merged = {p.key: p.value for p in model.metadata_props} | {PREFIX + key: value for key, value in values.items()}
    onnx.helper.set_model_props(model, merged)


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

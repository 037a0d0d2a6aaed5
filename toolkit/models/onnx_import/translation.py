"""From an ONNX graph to torch, operator by operator; what is constant is computed on the way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from edgeproof.errors import ModelError, first_line
from edgeproof.models.onnx_import import elementwise, layers, quantized, shapes, windows
from edgeproof.models.onnx_import.graph import FAILURES, OnnxGraph, Step, Value, Weight
from edgeproof.models.onnx_import.table import OPERATORS, Operator
from edgeproof.onnx_files.loading import describe, opset_of, ordered_nodes, tensor_array

if TYPE_CHECKING:
    from onnx import AttributeProto, ModelProto, NodeProto, TensorProto

#: The modules that fill the table of operators.
FAMILIES = (elementwise, layers, quantized, shapes, windows)

#: Operator sets whose operators are covered as they stand.
OPSETS = range(11, 25)
_DOMAINS = ("", "ai.onnx")


def translate(model: ModelProto, *, source: str, target: str) -> OnnxGraph:
    """Build the torch form of a graph.

    Args:
        model: Read by `load_model`, its functions inlined.
        source: Name of the graph's input.
        target: Name of the output that is wanted; nodes that it does not need are left out.

    Raises:
        ModelError: For an operator, an attribute or a type that is not covered, and for a graph that is not one.
    """
    if opset_of(model) not in OPSETS:
        raise ModelError(
            f"it has opset {opset_of(model)}; expected {OPSETS[0]} to {OPSETS[-1]}; export it again with opset_version=20"
        )
    builder = _Builder(model, source)
    for node in ordered_nodes(model.graph, [target]):
        try:
            builder.add(node)
        except FAILURES as error:
            raise ModelError(f"{describe(node)} is not covered: {first_line(error)}") from error
    return builder.finish(target)


class _Builder:
    """The state of one translation: which name stands for which node or constant."""

    def __init__(self, model: ModelProto, source: str) -> None:
        self.opset = opset_of(model)
        self.source = source
        self.steps: list[Step] = []
        self.values = {source: Value(source)}
        self.weights: dict[str, Weight] = {}  # the constants that are buffers
        self.buffers: dict[str, Tensor] = {}
        self.constants: dict[str, Tensor] = {}
        self.types: dict[str, int] = {}  # element types of the constants as the file has them
        for tensor in model.graph.initializer:
            self._store(tensor.name, tensor)
        for sparse in model.graph.sparse_initializer:
            raise ModelError(f"tensor {sparse.values.name!r} is sparse, which is not covered; store it dense")

    def add(self, node: NodeProto) -> None:
        """Translate one node, or compute it when all that it takes is constant."""
        kind = node.op_type if node.domain in _DOMAINS else f"{node.domain}.{node.op_type}"
        if kind == "Constant":
            self._add_constant(node)
        elif kind == "Identity":
            self._alias(node.output[0], node.input[0])
        elif kind in OPERATORS:
            self._add_operator(node, OPERATORS[kind])
        else:
            raise NotImplementedError(f"no such operator in the table (opset {self.opset})")

    def _add_operator(self, node: NodeProto, entry: Operator) -> None:
        names = entry.input_names(len(node.input))
        keywords = self._keywords(node, entry, dict(zip(names, node.input, strict=True)))
        if all(name in self.constants for name in node.input if name):
            arguments = [self._constant(name, role, entry) for name, role in zip(node.input, names, strict=True)]
            with torch.no_grad():
                self._fold(node, entry.function(*arguments, **keywords), entry)
        else:
            arguments = [self._argument(name, role, entry) for name, role in zip(node.input, names, strict=True)]
            self._emit(node, entry, arguments, keywords)

    def finish(self, target: str) -> OnnxGraph:
        """Return the module that computes the output of that name."""
        if target not in self.values:
            raise ModelError(f"the output {target!r} does not depend on the input; is this a classifier?")
        names = {weight.key: name for name, weight in self.weights.items()}
        return OnnxGraph(
            self.steps, self.buffers, source=self.source, target=self.values[target].name, names=names
        ).eval()

    def _emit(self, node: NodeProto, entry: Operator, arguments: Sequence[Any], keywords: dict[str, Any]) -> None:
        outputs = tuple(node.output) if entry.multiple else (node.output[0],)
        step = Step(describe(node), entry.function, tuple(arguments), keywords, outputs, entry.multiple)
        self.steps.append(step)
        self.values.update({name: Value(name) for name in outputs})

    def _fold(self, node: NodeProto, result: Any, entry: Operator) -> None:
        results = result if entry.multiple else (result,)
        for name, value in zip(node.output, results, strict=False):
            self.constants[name] = value
            self.types[name] = self.types.get(node.input[0], 0)
        if node.op_type == "Cast":
            self.types[node.output[0]] = next(attribute.i for attribute in node.attribute if attribute.name == "to")

    def _argument(self, name: str, role: str, entry: Operator) -> Any:
        """Return what a step takes for an input: a value, a weight, Python numbers, integers or None."""
        if name in self.values:
            return self.values[name]
        constant = self._constant(name, role, entry)
        if not isinstance(constant, Tensor) or not constant.is_floating_point():
            return constant
        if name not in self.weights:
            self.weights[name] = Weight(f"weight_{len(self.weights)}")
            self.buffers[self.weights[name].key] = constant
        return self.weights[name]

    def _constant(self, name: str, role: str, entry: Operator) -> Any:
        if not name:
            return None
        if name not in self.constants:
            raise NotImplementedError(f"its input {name!r} is no first output of a covered operator")
        value = self.constants[name]
        if role.endswith("zero_point") and not value.any():
            return None  # it changes nothing, and two passes over the images are saved
        if role in entry.static and value.dim() <= 1:
            return tuple(value.tolist()) if value.dim() else value.item()
        return value.to(torch.float32) if role in entry.carried else value

    def _keywords(self, node: NodeProto, entry: Operator, inputs: dict[str, str]) -> dict[str, Any]:
        keywords = {attribute.name: _attribute(attribute) for attribute in node.attribute}
        for name in keywords:
            if not entry.takes(name):
                raise NotImplementedError(f"attribute {name!r}")
        if entry.names("low"):
            keywords["low"], keywords["high"] = self._range(inputs.get("y_zero_point", ""), keywords)
        context = {"opset": self.opset, "outputs": len(node.output)}
        return {**{name: value for name, value in context.items() if entry.names(name)}, **keywords}

    def _range(self, zero_point: str, keywords: dict[str, Any]) -> tuple[int, int]:
        """Return the range of the zero point's type, else of the type that the node names, else of uint8."""
        kind = self.types.get(zero_point) or keywords.get("output_dtype") or 2
        if kind not in quantized.RANGES:
            raise NotImplementedError(f"quantisation to ONNX's element type {kind}")
        return quantized.RANGES[kind]

    def _store(self, name: str, tensor: TensorProto) -> None:
        self.constants[name] = _constant_tensor(tensor_array(tensor), name)
        self.types[name] = tensor.data_type

    def _alias(self, name: str, original: str) -> None:
        if original in self.values:
            self.values[name] = self.values[original]
        elif original in self.constants:
            self.constants[name], self.types[name] = self.constants[original], self.types.get(original, 0)

    def _add_constant(self, node: NodeProto) -> None:
        attribute = node.attribute[0]
        if attribute.name == "value":
            self._store(node.output[0], attribute.t)
        elif attribute.name in ("value_float", "value_floats", "value_int", "value_ints"):
            whole = torch.int64 if "int" in attribute.name else torch.float32
            self.constants[node.output[0]] = torch.tensor(_attribute(attribute), dtype=whole)
        else:
            raise NotImplementedError(f"attribute {attribute.name!r}")


def _constant_tensor(array: Any, name: str) -> Tensor:
    """Turn a stored array into float32, or int32, int64 and bool where it holds shapes, indices or conditions."""
    if array.dtype.kind in "OSU":
        raise ModelError(f"tensor {name!r} holds text, which is not covered")
    if array.dtype.name in ("int32", "int64", "bool"):
        return torch.from_numpy(array.copy())
    wide = array.astype("int64" if array.dtype.name in ("uint32", "uint64") else "float32")
    if np.isnan(wide).any():
        raise ModelError(f"tensor {name!r} holds NaN; train and export the model again")
    return torch.from_numpy(wide)


def _attribute(attribute: AttributeProto) -> Any:
    """Return an attribute as Python numbers, text or tuples."""
    from onnx import helper

    value = helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(value)
    if hasattr(value, "dims"):
        return tensor_array(value).reshape(()).item()  # only ConstantOfShape has one
    return value

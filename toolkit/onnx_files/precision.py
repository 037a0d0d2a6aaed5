"""The precision of a graph, read off what it computes: operators and the types that reach them, not labels."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from edgeproof.errors import ModelError
from edgeproof.onnx_files.loading import all_nodes, free_inputs, inlined, ordered_nodes, type_name

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

#: Q/DQ, QLinear*, *Integer and DynamicQuantizeLinear, ONNX Runtime's Q*, DynamicQuantize* and MatMulNBits, other tools' Quant.
_QUANTIZED = re.compile(r"^Q[A-Z]|[Qq]uant|Integer|NBits|Bnb4")
_PRODUCTS = re.compile(r"^(Fused)?(Conv|Gemm|MatMul|Einsum|Attention|MultiHeadAttention|LSTM|GRU|RNN)")
_NARROW = re.compile(r"u?(int\d\d?|float[48])")
_FLOATS = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32", "float64": "fp64"}  # the coarser first


def precision_of(model: ModelProto, path: Path) -> str:
    """Return "int8", "fp16", "bf16", "fp32", "fp64", or "mixed" where convolutions and products differ in it.

    A graph with any quantised operator that its outputs need is "int8", or what its integers are where none has eight bits
    ("int4", "int16", "float8"). Weights stay as coarse as they are stored, also behind a cast to a wider type.

    Raises:
        ModelError: When its functions cannot be inlined.
    """
    graph = inlined(model, path).graph
    try:
        needed = ordered_nodes(graph, [value.name for value in graph.output])
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    nodes = [each for node in needed for each in all_nodes(node)]
    stored = dict(_stored_types(graph, nodes))
    quantized = [node for node in nodes if _QUANTIZED.search(node.op_type)]
    if quantized:
        return _integer_type(quantized, stored)
    given = {value.name: type_name(value.type.tensor_type.elem_type) for value in free_inputs(graph)}
    found = set(_product_types(nodes, given, stored))
    if not found:  # no convolution and no product: what is stored, else what is given
        found = set(_FLOATS) & {*stored.values()} or set(_FLOATS) & {*given.values()} or {"float32"}
    return _FLOATS[found.pop()] if len(found) == 1 else "mixed"


def _stored_types(graph: GraphProto, nodes: Iterable[NodeProto]) -> Iterator[tuple[str, str]]:
    """Yield the names and element types of stored tensors: initialisers, here and in subgraphs, and constants."""
    for tensor in (*graph.initializer, *(sparse.values for sparse in graph.sparse_initializer)):
        yield tensor.name, type_name(tensor.data_type)
    for node in nodes:
        for each in node.attribute:
            if node.op_type == "Constant" and node.output:
                kinds = {"value": each.t.data_type, "sparse_value": each.sparse_tensor.values.data_type}
                yield node.output[0], type_name(kinds.get(each.name, 1 if "float" in each.name else 7))
            for branch in (each.g, *each.graphs):
                yield from _stored_types(branch, ())


def _integer_type(quantized: Iterable[NodeProto], stored: Mapping[str, str]) -> str:
    kinds = [stored.get(name, "") for node in quantized for name in node.input]
    packed = [each for node in quantized if "NBits" in node.op_type for each in node.attribute if each.name == "bits"]
    if packed:
        return f"int{packed[0].i}"
    found = {match[1] for match in map(_NARROW.match, kinds) if match} - {"int32", "int64"}
    return "int8" if "int8" in found or not found else min(found)


def _product_types(nodes: Iterable[NodeProto], given: Mapping[str, str], stored: Mapping[str, str]) -> Iterator[str]:
    """Yield the coarsest type that reaches each convolution and product, types being followed from node to node."""
    types, weights = {**given, **stored}, set(stored)
    coarse = list(_FLOATS)
    for node in nodes:
        kinds = [types[name] for name in node.input if types.get(name) in _FLOATS]
        result = min(kinds, key=coarse.index, default=None)
        if result and _PRODUCTS.match(node.op_type):
            yield result
        constant = bool(node.input) and all(name in weights for name in node.input if name)
        if node.op_type == "Cast" and not (constant and result):
            result = next((type_name(each.i) for each in node.attribute if each.name == "to"), None)
        for name in node.output:
            if constant:
                weights.add(name)
            if result:
                types.setdefault(name, result)

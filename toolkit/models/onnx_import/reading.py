"""ONNX files from strangers: read, checked and brought to a covered opset, with a clear error for what cannot be used."""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeproof.errors import ModelError

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

#: Operator sets whose operators are covered as they stand; older ones are converted to `_CONVERTED`.
OPSETS = range(11, 25)
_CONVERTED = 13
_AGAIN = "export it again, for instance with opset_version=20"


def read_model(path: Path) -> ModelProto:
    """Read an ONNX file with its external data, its functions inlined, at an opset of `OPSETS`.

    Raises:
        ModelError: When it is missing, no ONNX file, too old or too new, or its external data lie outside its folder.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    if not path.is_file():
        raise ModelError("there is no such file")
    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except DecodeError as error:
        raise ModelError(f"not an ONNX file ({error}); {_AGAIN}") from error
    if not model.graph.node:
        raise ModelError(f"not an ONNX file, or its graph is empty; {_AGAIN}")
    _check_names(model.graph)
    for tensor in model.graph.initializer:
        _load_external(tensor, path)
    if model.functions:
        model = _inlined(model)
    return _converted(model)


def _check_names(graph: GraphProto) -> None:
    """Refuse names that are no UTF-8, which protobuf gives as bytes."""
    names = [each.name for each in (*graph.input, *graph.output, *graph.initializer, *graph.node)]
    names += [name for node in graph.node for name in (node.op_type, *node.input, *node.output)]
    names += [attribute.name for node in graph.node for attribute in node.attribute]
    if not all(isinstance(name, str) for name in names):
        raise ModelError(f"a name in the graph is no UTF-8 text; {_AGAIN}")


def opset_of(model: ModelProto) -> int:
    """Return the version of ONNX's own operator set."""
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=1)


def ordered_nodes(graph: GraphProto, output: str) -> list[NodeProto]:
    """Return the nodes that an output needs, each after those that it needs itself.

    Raises:
        ModelError: When a value is made twice or depends on itself.
    """
    makers: dict[str, int] = {}
    for position, node in enumerate(graph.node):
        for name in filter(None, node.output):
            if name in makers:
                raise ModelError(f"the graph makes {name!r} twice; {_AGAIN}")
            makers[name] = position
    needs: dict[int, list[int]] = {}
    waiting = [makers[output]] if output in makers else []
    while waiting:
        position = waiting.pop()
        if position not in needs:
            needs[position] = [makers[name] for name in graph.node[position].input if name in makers]
            waiting += needs[position]
    try:
        order = list(TopologicalSorter(needs).static_order())
    except CycleError as error:
        looped = graph.node[error.args[1][0]]
        raise ModelError(f"the graph is cyclic: {describe(looped)} depends on its own output; {_AGAIN}") from error
    return [graph.node[position] for position in order]


def describe(node: NodeProto) -> str:
    """Name a node for people."""
    kind = f"{node.domain}.{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type
    return f"{ascii(kind)[1:-1]} ({(node.name or node.output[0])!a})"


def tensor_array(tensor: TensorProto) -> Any:
    """Return a stored tensor as a NumPy array.

    Raises:
        ModelError: When its data do not fill its shape.
    """
    from onnx import TensorProto, numpy_helper

    if tensor.data_location == TensorProto.EXTERNAL:
        raise ModelError(f"tensor {tensor.name!r} of a node lies outside the file; expected its data inside; {_AGAIN}")
    try:
        return numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        dims = list(tensor.dims)
        raise ModelError(
            f"tensor {tensor.name!r} of shape {dims} cannot be read ({error}); is the file cut short?"
        ) from error


def _load_external(tensor: TensorProto, path: Path) -> None:
    from onnx import TensorProto

    if tensor.data_location != TensorProto.EXTERNAL:
        return
    about = {entry.key: entry.value for entry in tensor.external_data}
    folder = path.resolve().parent
    try:
        file = (folder / about["location"]).resolve()
        offset, length = int(about.get("offset", 0)), int(about.get("length", -1))
    except (KeyError, ValueError) as error:
        raise ModelError(f"tensor {tensor.name!r} has unreadable external data ({about}); {_AGAIN}") from error
    if folder not in file.parents:
        raise ModelError(f"tensor {tensor.name!r} lies in {about['location']!r}, outside the file's folder; refused")
    size = file.stat().st_size if file.is_file() else -1
    length = size - offset if length < 0 else length
    if not 0 <= offset <= offset + length <= size:
        raise ModelError(
            f"tensor {tensor.name!r} needs bytes {offset}..{offset + length} of {about['location']!r}, which has {max(size, 0)}; copy that file too"
        )
    with file.open("rb") as stream:
        stream.seek(offset)
        tensor.raw_data = stream.read(length)
    tensor.data_location = TensorProto.DEFAULT


def _inlined(model: ModelProto) -> ModelProto:
    from onnx import inliner

    try:
        return inliner.inline_local_functions(model)
    except Exception as error:  # the C++ code raises its own types
        raise ModelError(f"its functions cannot be inlined ({_line(error)}); {_AGAIN}") from error


def _converted(model: ModelProto) -> ModelProto:
    from onnx import version_converter

    opset = opset_of(model)
    if opset in OPSETS:
        return model
    if opset > OPSETS[-1]:
        raise ModelError(f"it has opset {opset}; expected {OPSETS[0]} to {OPSETS[-1]}; {_AGAIN}")
    try:
        return version_converter.convert_version(model, _CONVERTED)
    except Exception as error:  # the C++ code raises its own types
        raise ModelError(
            f"it has opset {opset} and cannot be converted to {_CONVERTED} ({_line(error)}); {_AGAIN}"
        ) from error


def _line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)

"""ONNX files read with the onnx package: untrusted input, so it is checked before it is parsed and again before it is used."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeproof.errors import ModelError, first_line
from edgeproof.onnx_files.guard import MAX_BYTES, check_structure

if TYPE_CHECKING:
    from google.protobuf.message import Message  # type: ignore[import-untyped]
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

#: Older operator sets are converted: they have no Round, and other rules for what is broadcast.
_OLDEST, _CONVERTED = 11, 13
_MAX_NODES = 2**20  # once functions stand in the place of their calls
_MAX_NAME = 2**16
_GZIP = b"\x1f\x8b"
_BITS = {
    "float32": 32, "float16": 16, "bfloat16": 16, "float64": 64, "uint8": 8, "int8": 8, "uint16": 16, "int16": 16, "uint32": 32,
    "int32": 32, "uint64": 64, "int64": 64, "bool": 8, "uint4": 4, "int4": 4, "complex64": 64, "complex128": 128,
}  # fmt: skip
AGAIN = "export it again"


def parse_model(path: Path) -> ModelProto:
    """Parse an ONNX file without the weights that lie beside it.

    Raises:
        ModelError: When it is missing, no ONNX file, too large or damaged; when a name is no text, a stored tensor does not fill
            its shape, lies outside the file's folder or behind a link, or is not there; when its functions multiply.
    """
    from google.protobuf.message import DecodeError
    from onnx import load_model_from_string

    try:
        if path.stat().st_size > MAX_BYTES:
            raise ModelError(f"{path} has {path.stat().st_size} bytes; an ONNX file has at most {MAX_BYTES}")
        data = path.read_bytes()
        if data.startswith(_GZIP):
            raise ModelError(f"{path} is compressed; unpack it with gunzip and name what comes out")
        check_structure(data)
        model = load_model_from_string(data)
        _check(model, path)
    except FileNotFoundError as error:
        raise ModelError(f"there is no file {path}{if_packed(path)}") from error
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror})") from error
    except (ValueError, DecodeError) as error:
        raise ModelError(f"{path} is not a readable ONNX file ({first_line(error)}); {AGAIN}") from error
    return model


def if_packed(path: Path) -> str:
    """Return what to say of a file that is not there and that is there compressed."""
    packed = path.with_name(f"{path.name}.gz")
    # os.path answers where a Path raises: a name may be of any length.
    return f"; {packed} is there: unpack it with gunzip" if path.name and os.path.isfile(packed) else ""


def load_model(path: Path, *, inline: bool = False) -> ModelProto:
    """Parse an ONNX file with all its weights, at operator set 11 or later: older graphs are converted.

    Args:
        path: The file.
        inline: Whether functions are replaced by what they do.

    Raises:
        ModelError: As `parse_model` does, or when the graph cannot be converted.
    """
    from onnx import version_converter

    model = parse_model(path)
    for tensor in stored_tensors(model):
        if _is_external(tensor):
            file, offset, length = _place(tensor, path)
            with file.open("rb") as stream:
                stream.seek(offset)
                tensor.raw_data = stream.read(length)
            tensor.ClearField("data_location")
            tensor.ClearField("external_data")
    if inline:
        model = inlined(model, path)
    if opset_of(model) >= _OLDEST:
        return model
    try:
        return version_converter.convert_version(model, _CONVERTED)
    except Exception as error:  # the C++ code raises its own types
        raise ModelError(
            f"{path} has opset {opset_of(model)} and cannot be converted to {_CONVERTED} ({first_line(error)}); "
            f"{AGAIN}, for instance with opset_version=20"
        ) from error


def inlined(model: ModelProto, path: Path) -> ModelProto:
    """Return a graph in which functions are replaced by what they do.

    Raises:
        ModelError: When that cannot be done.
    """
    from onnx import inliner

    if not model.functions:
        return model
    try:
        return inliner.inline_local_functions(model)
    except Exception as error:  # the C++ code raises its own types
        raise ModelError(f"{path}: its functions cannot be inlined ({first_line(error)}); {AGAIN}") from error


def opset_of(model: ModelProto) -> int:
    """Return the version of ONNX's own operator set."""
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=1)


def free_inputs(graph: GraphProto) -> list[Any]:
    """Return the inputs without the stored tensors that old files list among them."""
    stored = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in stored]


def type_name(kind: int) -> str:
    """Return an element type as NumPy calls it; "unknown" for a number that is none."""
    from onnx import TensorProto

    known = {"FLOAT": "float32", "DOUBLE": "float64", "UNDEFINED": "unknown"}
    name = TensorProto.DataType.Name(kind) if kind in TensorProto.DataType.values() else "UNDEFINED"
    return known.get(name, name.lower())


def tensor_array(tensor: TensorProto) -> Any:
    """Return a stored tensor as a NumPy array.

    Raises:
        ModelError: When its data do not fill its shape.
    """
    from onnx import numpy_helper

    try:
        return numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        dims = list(tensor.dims)
        raise ModelError(
            f"tensor {tensor.name!r} of shape {dims} cannot be read ({error}); is the file cut short?"
        ) from error


def stored_tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Yield the tensors that a file stores: of the graph, its nodes, subgraphs and functions, and the parts of sparse ones."""
    from onnx import TensorProto

    return (message for message in _messages(model) if isinstance(message, TensorProto))


def all_nodes(message: Message) -> Iterator[NodeProto]:
    """Yield the nodes of a graph, function or node, those of its subgraphs too."""
    from onnx import NodeProto

    return (each for each in _messages(message) if isinstance(each, NodeProto))


def ordered_nodes(graph: GraphProto, outputs: Iterable[str]) -> list[NodeProto]:
    """Return the nodes that these outputs need, each after those that it needs itself.

    Raises:
        ModelError: When a value is made twice or depends on itself.
    """
    makers: dict[str, int] = {}
    for position, node in enumerate(graph.node):
        for name in filter(None, node.output):
            if name in makers:
                raise ModelError(f"the graph makes {name!r} twice; {AGAIN}")
            makers[name] = position
    needs: dict[int, list[int]] = {}
    waiting = [makers[output] for output in outputs if output in makers]
    while waiting:
        position = waiting.pop()
        if position not in needs:
            needs[position] = sorted({makers[name] for name in _names_taken(graph.node[position]) if name in makers})
            waiting += needs[position]
    try:
        order = list(TopologicalSorter(needs).static_order())
    except CycleError as error:
        looped = graph.node[error.args[1][0]]
        raise ModelError(f"the graph is cyclic: {describe(looped)} depends on its own output; {AGAIN}") from error
    return [graph.node[position] for position in order]


def describe(node: NodeProto) -> str:
    """Name a node for people."""
    kind = f"{node.domain}.{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type
    return f"{ascii(kind)[1:-1]} ({(node.name or node.output[0])!a})"


def _names_taken(node: NodeProto) -> set[str]:
    """Return what a node and its subgraphs take from outside of it."""
    _, *inner = all_nodes(node)
    taken = {name for each in (node, *inner) for name in each.input}
    branches = [branch for each in (node, *inner) for part in each.attribute for branch in (part.g, *part.graphs)]
    taken |= {value.name for branch in branches for value in branch.output}  # what a branch gives may come from outside
    return taken - {name for each in inner for name in each.output}


def external_files(model: ModelProto, path: Path) -> tuple[Path, ...]:
    """Return the files beside a parsed graph that hold its weights, in the order of their names."""
    return tuple(sorted({_place(tensor, path)[0] for tensor in stored_tensors(model) if _is_external(tensor)}))


def _messages(message: Message) -> Iterator[Message]:
    """Yield a message and all that stand in it, in the order of the file; what a tensor holds is not looked at."""
    from onnx import TensorProto

    waiting = [message]
    while waiting:
        each = waiting.pop()
        yield each
        if not isinstance(each, TensorProto):
            fields = [value for field, value in each.ListFields() if field.message_type is not None]
            inside = [part for value in fields for part in ([value] if hasattr(value, "ListFields") else value)]
            waiting += reversed(inside)


def _check(model: ModelProto, path: Path) -> None:
    from onnx import TensorProto

    for message in _messages(model):
        if isinstance(message, TensorProto):
            _check_tensor(message, path)
            continue
        for field, value in message.ListFields():
            if field.type != field.TYPE_STRING or field.name == "doc_string":
                continue
            for text in [value] if isinstance(value, (str, bytes)) else value:
                if isinstance(text, bytes):  # which protobuf gives for what is no UTF-8
                    raise ValueError("a name in the graph is no UTF-8 text")
                if len(text) > _MAX_NAME and field.name != "value":
                    raise ValueError(f"a name in the graph has {len(text)} letters, over {_MAX_NAME}")
    if not free_inputs(model.graph) or not model.graph.output:
        raise ValueError("its graph has no input or no output")
    _check_functions(model)


def _check_tensor(tensor: TensorProto, path: Path) -> None:
    """Hold what a tensor stores to its shape, and its place to the file's folder."""
    if not isinstance(tensor.name, str):
        raise ValueError("a name in the graph is no UTF-8 text")
    kind, count = type_name(tensor.data_type), math.prod(tensor.dims)
    wanted = -(-count * _BITS[kind] // 8) if kind in _BITS else None
    found = None
    if tensor.external_data or _is_external(tensor):
        _, _, length = _place(tensor, path)
        found = length if _is_external(tensor) else None
    if tensor.HasField("raw_data"):
        found = len(tensor.raw_data)
    if found is not None and wanted is not None and found != wanted:
        raise ValueError(f"tensor {tensor.name!r} of shape {list(tensor.dims)[:8]} and type {kind} in {found} bytes")


def _is_external(tensor: TensorProto) -> bool:
    return bool(tensor.data_location == tensor.EXTERNAL)


def _place(tensor: TensorProto, path: Path) -> tuple[Path, int, int]:
    """Return the file, the offset and the length of a tensor that lies outside its graph's file.

    Raises:
        ValueError: When that is anywhere but in the file's folder, behind a link, or not there.
    """
    about = {entry.key: entry.value for entry in tensor.external_data}
    location = about.get("location", "")
    folder = path.parent.resolve()
    try:
        file = folder / location
        # An address is ONNX Runtime's mark of a place in memory.
        inside = folder in file.parents and file.resolve() == file and "*" not in location
        offset, length = int(about.get("offset", 0)), int(about.get("length", -1))
        size = file.stat().st_size if inside and _is_external(tensor) and file.is_file() else -1
    except (ValueError, OSError, RuntimeError) as error:
        raise ValueError(f"tensor {tensor.name!r} has unreadable external data ({first_line(error)})") from error
    if not inside:
        raise ValueError(
            f"tensor {tensor.name!r} lies in {location[:200]!r}, outside the file's folder or behind a link"
        )
    length = size - offset if length < 0 else length
    if _is_external(tensor) and not 0 <= offset <= offset + length <= size:
        there = f"which has {size}" if size >= 0 else "which is not there: copy that file too"
        raise ValueError(f"tensor {tensor.name!r} needs bytes {offset} to {offset + length} of {location!r}, {there}")
    return path.parent / location, offset, length


def _check_functions(model: ModelProto) -> None:
    """Refuse functions that call themselves, or each other so often that their calls multiply."""

    def called(message: Message) -> list[tuple[str, str, str]]:
        keys = ((node.domain, node.op_type, node.overload) for node in all_nodes(message))
        return [key if key in bodies else ("", "", "") for key in keys]

    bodies = {(body.domain, body.name, body.overload): body for body in model.functions}
    calls = {key: called(body) for key, body in bodies.items()}
    sizes = {("", "", ""): 1}
    try:
        for key in TopologicalSorter(calls).static_order():
            sizes.setdefault(key, sum(sizes[other] for other in calls.get(key, ())))
    except CycleError as error:
        raise ValueError(f"its function {error.args[1][0][1]!r} calls itself") from error
    count = sum(sizes[key] for key in called(model.graph))
    if count > _MAX_NODES:
        raise ValueError(f"its functions stand for {count} nodes; expected at most {_MAX_NODES}")

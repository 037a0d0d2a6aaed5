"""What stands in an ONNX file, read without the onnx package, which an edge device does not have.

Only the protobuf wire format is walked, and of each tensor only its type, so that a file of any size takes milliseconds.
Field numbers: onnx.proto3 of ONNX 1.18 (they never change).
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeproof.errors import ModelError
from edgeproof.system.untrusted import is_text

#: TensorProto.DataType
TYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 8: "string", 9: "bool",
    10: "float16", 11: "float64", 12: "uint32", 13: "uint64", 16: "bfloat16",
}  # fmt: skip
_PREFIX = "edgeproof."
_MAX_BYTES = 2**31  # protobuf's own limit: larger graphs keep their weights beside them
_MAX_FIELDS = 2**22  # of one message; a graph of a hundred layers has some hundreds
_MAX_IMAGE = 2**28  # numbers of one image: 1 GiB of float32
_MAX_CLASSES, _MAX_BATCH = 10**6, 2**16
_SIZES = {
    "float32": 4, "uint8": 1, "int8": 1, "uint16": 2, "int16": 2, "int32": 4, "int64": 8, "bool": 1, "float16": 2, "float64": 8,
    "uint32": 4, "uint64": 8, "bfloat16": 2,
}  # fmt: skip
_MAX_DEPTH = 100  # as protobuf
#: The messages that hold tensors: which fields lead to which of them.
_INSIDE = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_QUANTIZED = ("DequantizeLinear", "QLinearConv", "FakeQuantize")  # the last is OpenVINO's


@dataclass(frozen=True)
class ValueInfo:
    """An input or output of a graph: a dimension is a number, or a name where it is free."""

    name: str
    dtype: str
    shape: tuple[int | str, ...] | None


@dataclass(frozen=True)
class OnnxSummary:
    """What an engine needs to know of a graph before it opens it.

    Attributes:
        inputs: Without the initialisers that old files list among them.
        outputs: In the order of the file.
        operators: Operator types with their counts, in the main graph.
        initializers: Element types of the stored tensors, with the number of tensors.
        metadata: The file's metadata_props.
    """

    inputs: tuple[ValueInfo, ...]
    outputs: tuple[ValueInfo, ...]
    operators: Mapping[str, int]
    initializers: Mapping[str, int]
    metadata: Mapping[str, str]

    @property
    def precision(self) -> str:
        """Read "int8", "fp16", "bf16" or "fp32" off the graph: Q/DQ nodes and the types of the weights, not a label."""
        if any(map(self.operators.get, _QUANTIZED)):
            return "int8"
        if self.initializers.get("float16"):
            return "fp16"
        return "bf16" if self.initializers.get("bfloat16") else "fp32"

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names that our exporter has written, or ().

        Raises:
            ModelError: When something else stands there.
        """
        names = self.noted("classes") or ()
        if not isinstance(names, (list, tuple)) or not all(map(is_text, names)):
            raise ModelError("the metadata edgeproof.classes of the graph are no list of names; export it again")
        return tuple(names)

    def noted(self, key: str) -> Any:
        """Return what our exporter has written under a metadata key, read as JSON; None where there is nothing."""
        try:
            return json.loads(self.metadata.get(_PREFIX + key, "null"))
        except (ValueError, RecursionError):
            return None

    def signature(self, path: Path) -> Signature:
        """Return what the graph takes and gives, as an image classifier.

        Raises:
            ModelError: When it is not one with a single float32 NCHW input; the message says what to change.
        """
        if len(self.inputs) != 1:
            names = ", ".join(value.name for value in self.inputs)
            raise ModelError(f"{path} takes {len(self.inputs)} inputs ({names}); expected one, images (N, C, H, W)")
        shape = _image_shape(self, path)
        outputs = [value for value in self.outputs if value.name == "logits"] or self.outputs[:1]
        classes = (outputs[0].shape or ("?",))[-1]
        batch = (self.inputs[0].shape or ("?",))[0]
        for what, size, largest in (("classes", classes, _MAX_CLASSES), ("images a call", batch, _MAX_BATCH)):
            if isinstance(size, int) and not 0 < size <= largest:
                raise ModelError(f"{path} says that it has {size} {what}; expected 1 to {largest}")
        return Signature(
            input=self.inputs[0].name,
            output=outputs[0].name,
            input_shape=shape,
            num_classes=classes if isinstance(classes, int) else None,
            batch=batch if isinstance(batch, int) else None,
        )


@dataclass(frozen=True)
class Signature:
    """A graph as an image classifier; `num_classes` and `batch` are None where the graph leaves them free."""

    input: str
    output: str
    input_shape: tuple[int, int, int]
    num_classes: int | None
    batch: int | None


def read_onnx(path: Path) -> OnnxSummary:
    """Read the inputs, outputs, operators, tensor types and metadata of an ONNX file.

    Raises:
        ModelError: When it is missing, empty, truncated or no ONNX file, or a stored tensor does not fill its shape or lies
            outside the file's folder.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ModelError(f"{path} has {path.stat().st_size} bytes; an ONNX file has at most {_MAX_BYTES}")
        return _model(memoryview(path.read_bytes()), folder=path.resolve().parent)
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror})") from error
    except (ValueError, IndexError, KeyError) as error:
        reason = str(error) if isinstance(error, ValueError) else "it is cut short"
        raise ModelError(f"{path} is not a readable ONNX file ({reason}); export it again") from error


def _image_shape(summary: OnnxSummary, path: Path) -> tuple[int, int, int]:
    value = summary.inputs[0]
    takes = f"{path} takes {value.dtype} {value.shape if value.shape is not None else 'of unknown shape'}"
    wanted = "expected float32 (N, C, H, W) in [0, 1]"
    change = f"bring it to that with: edgeproof export --from {path}"
    if value.dtype == "float16":
        raise ModelError(f"{takes}; {wanted}: {change}, or convert to FP16 again with float32 inputs (keep_io_types)")
    if value.dtype != "float32":
        raise ModelError(f"{takes}; {wanted}: {change} --range 255")
    shape = value.shape or ()
    ours = summary.noted("source_input") or summary.noted("input_shape")  # then the axes are known, however they look
    if len(shape) == 4 and shape[3] in (1, 3, 4) and shape[1] not in (1, 3, 4) and not ours:
        raise ModelError(f"{takes}, which looks like NHWC; {wanted}: {change} --layout nhwc")
    if len(shape) == 2:
        raise ModelError(f"{takes}; {wanted}: {change} --layout flat --input-shape C,H,W")
    if len(shape) not in (0, 4):
        raise ModelError(f"{takes}; {wanted}")
    sizes = [size for size in shape[1:] if isinstance(size, int)] if shape else []
    found: Any = sizes if len(sizes) == 3 else summary.noted("input_shape") or ()
    if not isinstance(found, list) or len(found) != 3 or not all(isinstance(size, int) for size in found):
        raise ModelError(f"{takes}; {wanted}: fix C, H and W when exporting, only N may be free")
    if min(found) < 1 or math.prod(found) > _MAX_IMAGE:
        raise ModelError(f"{takes}; {wanted} with C * H * W from 1 to {_MAX_IMAGE}")
    return found[0], found[1], found[2]


def _model(view: memoryview, *, folder: Path) -> OnnxSummary:
    graph, metadata = None, {}
    for number, value in _fields(view):
        if number == 7 and graph is not None:
            raise ValueError("it holds two graphs")  # protobuf would merge them
        if number == 7:
            graph = _bytes(value)
        elif number == 14:
            entry = dict(_fields(_bytes(value)))
            metadata[_text(entry[1])] = _text(entry.get(2, view[:0]))
    if graph is None:
        raise ValueError("it holds no graph")
    _check_inside(view, "model", folder=folder)
    return _graph(graph, metadata, folder=folder)


def _graph(graph: memoryview, metadata: Mapping[str, str], *, folder: Path) -> OnnxSummary:
    operators: Counter[str] = Counter()
    initializers: dict[str, str] = {}
    inputs, outputs = [], []
    for number, value in _fields(graph):
        if number == 1:
            operators[_text(dict(_fields(_bytes(value))).get(4, graph[:0]))] += 1
        elif number == 5:
            name, kind = _tensor(_bytes(value), folder=folder)
            initializers[name] = kind
        elif number == 11:
            inputs.append(_value_info(value))
        elif number == 12:
            outputs.append(_value_info(value))
    free = tuple(value for value in inputs if value.name not in initializers)
    if not free or not outputs:
        raise ValueError("its graph has no input or no output")
    return OnnxSummary(free, tuple(outputs), dict(operators), dict(Counter(initializers.values())), metadata)


def _tensor(view: memoryview, *, folder: Path) -> tuple[str, str]:
    """Return name and type of a stored tensor, after holding what it stores to its shape, and its place to the file's folder."""
    name, kind, dims, raw = "", 0, [], None
    for number, value in _fields(view):
        if number == 1:
            dims += _numbers(value)
        elif number == 2 and isinstance(value, int):
            kind = value
        elif number == 8:
            name = _text(value)
        elif number == 9:
            raw = _bytes(value)
        elif number == 13:
            entry = dict(_fields(_bytes(value)))  # of a field that comes twice, the last counts
            if _text(entry.get(1, view[:0])) == "location":
                _check_place(_text(entry.get(2, view[:0])), name, folder=folder)
    size = _SIZES.get(TYPES.get(kind, ""))
    if raw is not None and size and math.prod(dims) * size != len(raw):
        raise ValueError(f"tensor {name!r} of shape {dims[:8]} and type {TYPES[kind]} in {len(raw)} bytes")
    return name, TYPES.get(kind, "unknown")


def _check_inside(view: memoryview, kind: str, *, folder: Path, depth: int = 0) -> None:
    """Check the tensors that stand in a message at any depth: in attributes, subgraphs and functions too."""
    if depth > _MAX_DEPTH:
        raise ValueError(f"messages are nested deeper than {_MAX_DEPTH}")
    inside = _INSIDE[kind]
    for number, value in _fields(view):
        if number in inside and inside[number] == "tensor":
            _tensor(_bytes(value), folder=folder)
        elif number in inside:
            _check_inside(_bytes(value), inside[number], folder=folder, depth=depth + 1)


def _numbers(value: int | memoryview) -> list[int]:
    """Return repeated numbers, packed or one by one."""
    if isinstance(value, int):
        return [value]
    found, position = [], 0
    while position < len(value):
        number, position = _varint(value, position)
        found.append(number)
    return found


def _check_place(location: str, name: str, *, folder: Path) -> None:
    """Refuse tensors that would be read from anywhere else than the file's folder."""
    place = (folder / location).resolve()
    address = "*" in location  # ONNX Runtime's mark of a place in memory
    if address or (place != folder and folder not in place.parents):
        raise ValueError(f"tensor {name!r} lies in {location[:200]!r}, outside the file's folder")


def _value_info(value: int | memoryview) -> ValueInfo:
    entry = dict(_fields(_bytes(value)))
    tensor = dict(_fields(_bytes(dict(_fields(_bytes(entry[2])))[1])))
    kind = tensor.get(1, 0)
    shape = (
        tuple(_dimension(_bytes(dim)) for number, dim in _fields(_bytes(tensor[2])) if number == 1)
        if 2 in tensor
        else None
    )
    return ValueInfo(_text(entry[1]), TYPES.get(kind if isinstance(kind, int) else 0, "unknown"), shape)


def _dimension(view: memoryview) -> int | str:
    entry = dict(_fields(view))
    size = entry.get(1)
    return size if isinstance(size, int) else _text(entry[2]) if 2 in entry else "?"


def _bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number stands where a message should")
    return value


def _text(value: int | memoryview) -> str:
    return bytes(_bytes(value)).decode("utf-8")


def _fields(view: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Walk one protobuf message: (field number, value), a number for varints and a view for everything with a length."""
    position = count = 0
    while position < len(view):
        count += 1
        if count > _MAX_FIELDS:
            raise ValueError(f"a message with more than {_MAX_FIELDS} fields")
        key, position = _varint(view, position)
        if key >= 2**32:  # protobuf would cut it down to another field's
            raise ValueError(f"a field with the number {key >> 3}")
        kind = key & 7
        if kind == 0:
            value, position = _varint(view, position)
            yield key >> 3, value
            continue
        if kind == 2:
            size, position = _varint(view, position)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind} at byte {position}")
        if position + size > len(view):
            raise ValueError("it is cut short")
        yield key >> 3, view[position : position + size]
        position += size


def _varint(view: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 64:
        byte = view[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
        shift += 7
    raise ValueError("a number has more than 64 bits")

"""What an ONNX file may not do to whoever parses it, looked at before protobuf takes memory for it.

An empty message has two bytes in a file and over a hundred in memory, so the number of messages is limited first. Field numbers:
onnx.proto3 of ONNX 1.18 (they never change).
"""

from __future__ import annotations

from collections.abc import Iterator

MAX_BYTES = 2**31  # protobuf's own limit: larger graphs keep their weights beside them
_MAX_FIELDS = 2**22  # a graph of a hundred layers has some thousands
_MAX_DEPTH = 100  # as protobuf
#: Which fields of a message hold messages that come any number of times; of the rest only the fields are counted.
_INSIDE = {
    "model": {7: "graph", 8: "leaf", 14: "leaf", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph", 3: "leaf", 4: "leaf"},
    "function": {7: "node", 9: "leaf", 11: "attribute", 12: "value", 14: "leaf"},
    "graph": {1: "node", 5: "tensor", 11: "value", 12: "value", 13: "value", 14: "leaf", 15: "sparse", 16: "leaf"},
    "node": {5: "attribute", 9: "leaf"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 14: "type", 15: "type", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "leaf", 16: "leaf"},
    "value": {2: "type", 4: "leaf"},
    "type": {1: "array", 4: "sequence", 5: "value", 8: "array", 9: "sequence"},
    "sequence": {1: "type"},
    "array": {2: "shape"},
    "shape": {1: "leaf"},
    "leaf": {},
}  # fmt: skip


def check_structure(data: bytes) -> None:
    """Walk the messages of a file once.

    Raises:
        ValueError: When it is cut short, nests too deep, holds too many messages, no graph or two of them.
    """
    view = memoryview(data)
    if (graphs := sum(number == 7 for number, _ in _fields(view))) != 1:
        raise ValueError("it holds two graphs" if graphs else "it holds no graph")  # protobuf would merge them
    waiting, count = [("model", view, 0)], 0
    while waiting:
        kind, message, depth = waiting.pop()
        if depth > _MAX_DEPTH:
            raise ValueError(f"messages are nested deeper than {_MAX_DEPTH}")
        inside = _INSIDE[kind]
        for number, value in _fields(message):
            count += 1
            if count > _MAX_FIELDS:
                raise ValueError(f"it has more than {_MAX_FIELDS} fields")
            if number in inside and value is not None:
                waiting.append((inside[number], value, depth + 1))


def _fields(view: memoryview) -> Iterator[tuple[int, memoryview | None]]:
    """Yield the number of each field, and what it holds where that has a length."""
    position = 0
    while position < len(view):
        key, position = _varint(view, position)
        if key >= 2**32:  # protobuf would cut it down to another field's
            raise ValueError(f"a field with the number {key >> 3}")
        kind = key & 7
        if kind == 0:
            _, position = _varint(view, position)
            yield key >> 3, None
            continue
        if kind not in (1, 2, 5):
            raise ValueError(f"wire type {kind} at byte {position}")
        size, position = _varint(view, position) if kind == 2 else (8 if kind == 1 else 4, position)
        if position + size > len(view):
            raise ValueError("it is cut short")
        yield key >> 3, view[position : position + size] if kind == 2 else None
        position += size


def _varint(view: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 64 and position < len(view):
        byte = view[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
        shift += 7
    raise ValueError("it is cut short" if shift < 64 else "a number has more than 64 bits")

"""Tiny ONNX files, written byte by byte: the onnx package is not there where these tests run.

Each is a linear classifier: logits = flatten(images) @ weights + bias, in the precision asked for.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FLOAT32, UINT8, INT8, FLOAT16 = 1, 2, 3, 10
_TYPES = {"float32": FLOAT32, "uint8": UINT8, "int8": INT8, "float16": FLOAT16}
Field = tuple[int, "int | str | bytes"]


def write_linear(
    path: Path,
    weights: NDArray[np.float32],
    *,
    shape: Sequence[int | str] = ("batch", 1, 4, 4),
    precision: str = "fp32",
    input_type: int = FLOAT32,
    classes: Sequence[str] = (),
    softmax: bool = False,
    extra_input: bool = False,
) -> Path:
    """Write a linear classifier; `weights` is (C * H * W, K)."""
    chain, tensors = _body(weights, precision)
    nodes = [_node("Flatten", ["images"], ["flat"]), *chain]
    if softmax:
        nodes.append(_node("Softmax", ["logits"], ["probabilities"]))
    inputs = [_value("images", input_type, shape)]
    if extra_input:
        inputs.append(_value("mask", FLOAT32, (1,)))
    output = _value("probabilities" if softmax else "logits", FLOAT32, (shape[0], weights.shape[1]))
    graph = _message(
        *((1, node) for node in nodes), (2, "tiny"), *((5, tensor) for tensor in tensors),
        *((11, value) for value in inputs), (12, output),
    )  # fmt: skip
    metadata = [(14, _message((1, "edgeproof.classes"), (2, json.dumps(list(classes)))))] if classes else []
    path.write_bytes(_message((1, 9), (2, "tests"), (7, graph), (8, _message((1, ""), (2, 19))), *metadata))
    return path


def _body(weights: NDArray[np.float32], precision: str) -> tuple[list[bytes], list[bytes]]:
    if precision == "fp32":
        return [_node("MatMul", ["flat", "w"], ["logits"])], [_tensor("w", weights)]
    if precision == "fp16":
        nodes = [
            _cast("flat", "half", FLOAT16),
            _node("MatMul", ["half", "w"], ["product"]),
            _cast("product", "logits", FLOAT32),
        ]
        return nodes, [_tensor("w", weights.astype(np.float16))]
    scale = np.float32(np.abs(weights).max() / 127)
    tensors = [
        _tensor("w", np.rint(weights / scale).astype(np.int8)), _tensor("ws", np.array(scale)), _tensor("xs", np.array(1 / 127, np.float32)),
        _tensor("zero", np.array(0, np.int8)),
    ]  # fmt: skip
    nodes = [
        _node("QuantizeLinear", ["flat", "xs", "zero"], ["xq"]),
        _node("DequantizeLinear", ["xq", "xs", "zero"], ["x"]),
        _node("DequantizeLinear", ["w", "ws", "zero"], ["wd"]),
        _node("MatMul", ["x", "wd"], ["logits"]),
    ]
    return nodes, tensors


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _message(*fields: Field) -> bytes:
    out = b""
    for number, value in fields:
        if isinstance(value, int):
            out += _varint(number << 3) + _varint(value)
        else:
            data = value.encode() if isinstance(value, str) else value
            out += _varint(number << 3 | 2) + _varint(len(data)) + data
    return out


def _node(kind: str, inputs: Sequence[str], outputs: Sequence[str], *attributes: bytes) -> bytes:
    parts: list[Field] = [*((1, name) for name in inputs), *((2, name) for name in outputs), (3, outputs[0]), (4, kind)]
    return _message(*parts, *((5, attribute) for attribute in attributes))


def _cast(source: str, target: str, kind: int) -> bytes:
    return _node("Cast", [source], [target], _message((1, "to"), (3, kind), (20, 2)))


def _tensor(name: str, array: NDArray[Any]) -> bytes:
    dims: list[Field] = [(1, size) for size in array.shape]
    return _message(*dims, (2, _TYPES[array.dtype.name]), (8, name), (9, array.tobytes()))


def _value(name: str, kind: int, shape: Sequence[int | str]) -> bytes:
    dims = _message(*((1, _message((1, size) if isinstance(size, int) else (2, size))) for size in shape))
    return _message((1, name), (2, _message((1, _message((1, kind), (2, dims))))))

"""Damaged protobuf messages, which is what ONNX files are: fields changed at any depth, all lengths put right."""

from __future__ import annotations

import random

from tests.fuzzing.mutation import EDGES, mutate_bytes

_MESSAGE_DEPTH = 8


def mutate_protobuf(data: bytes, dice: random.Random) -> bytes:
    """Change, delete, repeat or insert one to three fields anywhere in the tree of messages."""
    changed = data
    for _ in range(dice.randint(1, 3)):
        changed = _mutate(changed, dice, depth=0)
    return changed


def _mutate(data: bytes, dice: random.Random, *, depth: int) -> bytes:
    fields = split_fields(data)
    if not fields:
        return mutate_bytes(data, dice)
    place = dice.randrange(len(fields))
    key, value = fields[place]
    kind = dice.randrange(12)
    if kind == 0:
        del fields[place]
    elif kind == 1:
        fields[place:place] = [fields[place]] * dice.choice((1, 2, 30))
    elif kind == 2:
        fields.append(dice.choice(fields))
    elif kind == 3:
        fields[place] = (key ^ (dice.randint(1, 31) << 3), value)
    elif isinstance(value, int):
        fields[place] = (key, dice.choice((*EDGES, dice.randrange(20), value + 1)) % 2**64)
    elif depth < _MESSAGE_DEPTH and split_fields(value) and dice.random() < 0.9:
        fields[place] = (key, _mutate(value, dice, depth=depth + 1))
    else:
        fields[place] = (key, mutate_bytes(value, dice))
    return join_fields(fields)


def split_fields(data: bytes) -> list[tuple[int, int | bytes]]:
    """Return the fields of a message, (key, number or bytes); [] where it is none."""
    fields: list[tuple[int, int | bytes]] = []
    position = 0
    try:
        while position < len(data):
            key, position = _number(data, position)
            if key >> 3 == 0:
                return []
            value: int | bytes
            if key & 7 == 0:
                value, position = _number(data, position)
            elif key & 7 in (1, 2, 5):
                size = {1: 8, 5: 4}.get(key & 7, 0)
                if not size:
                    size, position = _number(data, position)
                if position + size > len(data):
                    return []
                value, position = data[position : position + size], position + size
            else:
                return []
            fields.append((key, value))
    except IndexError:
        return []
    return fields


def join_fields(fields: list[tuple[int, int | bytes]]) -> bytes:
    """Write a message."""
    parts = []
    for key, value in fields:
        parts.append(_varint(key))
        if isinstance(value, int):
            parts.append(_varint(value))
        else:
            parts.append((_varint(len(value)) if key & 7 == 2 else b"") + value)
    return b"".join(parts)


def _number(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 127) << shift
        position += 1
        shift += 7
        if byte < 128:
            return value, position


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])

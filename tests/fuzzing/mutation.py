"""Damaged files from whole ones: bytes anywhere, and the parts of each format with its lengths and checksums put right.

A file whose checksum is wrong is refused at the door; what is behind the door is only reached by one that is right.
Everything is drawn from the generator that is given, so that an input can be made again from its number.
"""

from __future__ import annotations

import ast
import gzip
import io
import json
import random
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

Mutate = Callable[[bytes, random.Random], bytes]

#: Numbers at which lengths, counts and offsets go wrong.
EDGES = (
    0,
    1,
    -1,
    2,
    127,
    128,
    255,
    256,
    2**15,
    2**16 - 1,
    2**31 - 1,
    -(2**31),
    2**32 - 1,
    2**40,
    2**63 - 1,
    -(2**63),
    2**64 - 1,
)
_WORDS = (
    "", " ", "\x00", "\n", "nan", "inf", "-inf", "1e999", "1e-999", "9" * 400, "-1", "0", "../../etc/passwd", "/etc/passwd", "%s",
    "{}", "[]", "null", "true", "\u202e", "\ud7ff", "<script>", "a" * 5000, "__class__", "=", ":", ",", "(", ")",
)  # fmt: skip


def mutate_bytes(data: bytes, dice: random.Random) -> bytes:
    """Change, insert, delete, repeat or cut bytes at one to four places."""
    changed = bytearray(data)
    for _ in range(dice.randint(1, 4)):
        place = dice.randrange(len(changed) + 1)
        length = min(dice.choice((1, 1, 2, 4, 8, 64)), len(changed) - place)
        kind = dice.randrange(6)
        if kind == 0 and place < len(changed):
            changed[place] ^= 1 << dice.randrange(8)
        elif kind == 1:
            changed[place : place + length] = dice.randbytes(length)
        elif kind == 2:
            changed[place:place] = dice.randbytes(dice.choice((1, 4, 33)))
        elif kind == 3:
            del changed[place : place + length]
        elif kind == 4:
            changed[place : place + 8] = _packed_edge(dice)
        else:
            changed = changed[:place] if dice.random() < 0.3 else changed[:place] + changed[place - length :]
    return bytes(changed)


def _packed_edge(dice: random.Random) -> bytes:
    form = dice.choice(("<B", "<H", ">H", "<I", ">I", "<Q", ">Q"))
    size = 8 * struct.calcsize(form)
    return struct.pack(form, dice.choice(EDGES) % 2**size)


def mutate_text(data: bytes, dice: random.Random) -> bytes:
    """Replace, repeat, move or delete words and brackets of a text."""
    words = _split_words(data.decode("utf-8", errors="replace"))
    for _ in range(dice.randint(1, 3)):
        place = dice.randrange(len(words) + 1)
        kind = dice.randrange(5)
        if kind == 0:
            words[place : place + 1] = [dice.choice(_WORDS)]
        elif kind == 1:
            words[place:place] = [dice.choice(_WORDS)]
        elif kind == 2:
            del words[place : place + dice.randint(1, 5)]
        elif kind == 3:
            words[place:place] = words[max(0, place - dice.randint(1, 20)) : place] * dice.choice((1, 2, 40))
        else:
            words[place : place + 1] = [str(dice.choice(EDGES))]
    return "".join(words).encode("utf-8", errors="replace")


def _split_words(text: str) -> list[str]:
    words: list[str] = []
    for letter in text:
        if words and letter.isalnum() and words[-1].isalnum():
            words[-1] += letter
        else:
            words.append(letter)
    return words


def odd_value(dice: random.Random) -> Any:
    """Return a JSON value that is rarely expected."""
    depth = dice.choice((3, 50, 2000))
    nested: Any = []
    for _ in range(depth):
        nested = [nested]
    simple = (
        None,
        True,
        "",
        0,
        -1,
        0.5,
        1e308,
        [],
        {},
        [[]],
        {"": {}},
        10**30,
        dice.choice(EDGES),
        dice.choice(_WORDS),
    )
    return nested if dice.random() < 0.02 else dice.choice(simple)


def mutate_json(data: bytes, dice: random.Random) -> bytes:
    """Replace, delete, add or rename values anywhere in a JSON document."""
    try:
        document = json.loads(data)
    except ValueError:
        return mutate_bytes(data, dice)
    for _ in range(dice.randint(1, 3)):
        document = mutate_tree(document, dice)
    return _dump(document).encode("utf-8", errors="replace")


def _dump(document: Any) -> str:
    try:
        return json.dumps(document)
    except RecursionError:
        return "[" * 100_000


def mutate_tree(value: Any, dice: random.Random) -> Any:
    """Change one place in nested lists and dictionaries."""
    if not isinstance(value, (list, dict)) or not value or dice.random() < 0.15:
        return odd_value(dice)
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = dice.choice(keys)
    changed = value.copy()
    kind = dice.randrange(10)
    if kind == 0:
        del changed[key]
    elif kind == 1 and isinstance(changed, dict):
        changed[dice.choice(_WORDS)] = changed.pop(key)
    elif kind == 2 and isinstance(changed, list):
        changed.insert(key, odd_value(dice))
    elif kind == 3 and isinstance(changed, list):
        changed += changed[:1] * dice.choice((1, 3, 100))
    else:
        changed[key] = mutate_tree(value[key], dice)
    return changed


def inside_gzip(mutate: Mutate) -> Mutate:
    """Mutate what a gzip file holds and pack it again; now and then many times over, as a bomb would be."""

    def apply(data: bytes, dice: random.Random) -> bytes:
        try:
            plain = gzip.decompress(data)
        except (OSError, EOFError, zlib.error):
            return mutate_bytes(data, dice)
        return gzip.compress(mutate(plain, dice), compresslevel=1, mtime=0)

    return apply


def inside_zip(mutate: Mutate) -> Mutate:
    """Mutate one member of a zip and pack all again, now and then leaving out, doubling or renaming one."""

    def apply(data: bytes, dice: random.Random) -> bytes:
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                members = [(name, archive.read(name)) for name in archive.namelist()]
        except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError, RuntimeError, zlib.error, EOFError):
            return mutate_bytes(data, dice)
        place = dice.randrange(len(members) + 1)
        if place < len(members):
            name, content = members[place]
            members[place] = (name, mutate(content, dice))
            if dice.random() < 0.1:
                members[place] = (dice.choice((*_WORDS, "../x.npy", "/x.npy", "x\\y.npy", "c:x.npy")), content)
        if dice.random() < 0.1 and members:
            del members[dice.randrange(len(members))]
        return _zipped(members)

    return apply


def _zipped(members: list[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in members:
            info = zipfile.ZipInfo(name.replace("\x00", "") or "x")
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    return buffer.getvalue()


def mutate_npy(data: bytes, dice: random.Random) -> bytes:
    """Change the header of a NumPy array and keep its length right, or change its bytes."""
    if len(data) < 12 or dice.random() < 0.3:
        return mutate_bytes(data, dice)
    start, (size,) = 10, struct.unpack("<H", data[8:10])
    try:
        header = ast.literal_eval(data[start : start + size].decode("latin-1"))
    except (ValueError, SyntaxError):
        return mutate_bytes(data, dice)
    shape = list(header.get("shape", ()))
    kinds = (
        "<f4",
        "|u1",
        "<i8",
        "|O",
        "<U3",
        "|S9",
        "<c8",
        "<M8[s]",
        "|V4",
        "<f2",
        "|b1",
        ">f4",
        "<U0",
        [("a", "<i4")],
        "x",
        3,
    )
    if dice.random() < 0.5:
        header["descr"] = dice.choice(kinds)
    if dice.random() < 0.5:
        place = dice.randrange(len(shape) + 1)
        shape[place : place + 1] = [dice.choice(EDGES)] * dice.randint(0, 2)
        header["shape"] = tuple(shape)
    if dice.random() < 0.1:
        header["fortran_order"] = dice.choice((True, 1, None))
    text = repr(header).encode("latin-1") + b"\n"
    return data[:8] + struct.pack("<H", len(text)) + text + data[start + size :]


def mutate_safetensors(data: bytes, dice: random.Random) -> bytes:
    """Change the header of a safetensors file and keep its length right, or change its bytes."""
    size = int.from_bytes(data[:8], "little")
    if not 8 + size <= len(data) or dice.random() < 0.3:
        return mutate_bytes(data, dice)
    header = mutate_json(data[8 : 8 + size], dice)
    if dice.random() < 0.5:  # what our own metadata say stands as JSON inside the JSON
        try:
            document = json.loads(data[8 : 8 + size])
            document["__metadata__"]["edgeproof"] = mutate_json(
                document["__metadata__"]["edgeproof"].encode(), dice
            ).decode()
            header = json.dumps(document).encode("utf-8", errors="replace")
        except (ValueError, KeyError, TypeError):
            pass
    return len(header).to_bytes(8, "little") + header + data[8 + size :]


def mutate_png(data: bytes, dice: random.Random) -> bytes:
    """Change the content of one chunk of a PNG and put its checksum right."""
    chunks, position = [], 8
    while position + 12 <= len(data):
        (size,) = struct.unpack(">I", data[position : position + 4])
        chunks.append((data[position + 4 : position + 8], data[position + 8 : position + 8 + size]))
        position += 12 + size
    if not chunks:
        return mutate_bytes(data, dice)
    place = dice.randrange(len(chunks))
    kind, content = chunks[place]
    if kind == b"IDAT" and dice.random() < 0.7:
        try:
            content = zlib.compress(mutate_bytes(zlib.decompress(content), dice))
        except zlib.error:
            content = mutate_bytes(content, dice)
    else:
        content = mutate_bytes(content, dice)
    chunks[place] = (
        kind if dice.random() < 0.9 else dice.choice((b"tRNS", b"PLTE", b"zTXt", b"iCCP", b"acTL")),
        content,
    )
    if dice.random() < 0.2:
        chunks.insert(place, dice.choice(chunks))
    return data[:8] + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


def inside_tar(mutate: Mutate) -> Mutate:
    """Mutate one member of a compressed tar, its header or its content, and pack all again."""

    def apply(data: bytes, dice: random.Random) -> bytes:
        try:
            plain = gzip.decompress(data)
            with tarfile.open(fileobj=io.BytesIO(plain)) as archive:
                members = [(member, archive.extractfile(member)) for member in archive]
                contents = [(member, file.read() if file else b"") for member, file in members]
        except (OSError, EOFError, zlib.error, tarfile.TarError, ValueError):
            return mutate_bytes(data, dice)
        if dice.random() < 0.3 or not contents:
            return gzip.compress(mutate_bytes(plain, dice), compresslevel=1, mtime=0)
        place = dice.randrange(len(contents))
        member, content = contents[place]
        contents[place] = (member, mutate(content, dice))
        if dice.random() < 0.3:
            member.type = dice.choice(
                (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.XHDTYPE)
            )
            member.linkname = dice.choice(_WORDS).replace("\ud7ff", "")
        return _tarred(contents)

    return apply


def _tarred(contents: list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
        for member, content in contents:
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()

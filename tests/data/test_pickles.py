"""Pickles read as data: equal to what pickle gives, and nothing executed."""

from __future__ import annotations

import os
import pickle
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeproof.data.pickles import read_pickled_dict
from edgeproof.errors import DataError
from tests.data.files import cifar_pickle, pixels, refusal

EXECUTED = "edgeproof-executed"


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (EXECUTED,))


@pytest.fixture(autouse=True)
def _nothing_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    yield
    assert not Path(EXECUTED).exists()


def test_a_bomb_would_go_off_under_pickle_itself() -> None:
    pickle.loads(pickle.dumps({"data": Bomb()}))
    assert Path(EXECUTED).exists()
    Path(EXECUTED).rmdir()


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("kind", ["u1", "<i8", ">i4", "f4", "?"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_and_plain_values_equal_those_of_pickle(protocol: int, kind: str, order: Any) -> None:
    if protocol == 2:
        array = None  # Python 3 writes an array's bytes through a function call there; CIFAR's Python 2 did not
    else:
        array = np.arange(6).reshape(2, 3).astype(kind, order=order)
    value = {
        "data": array,
        "labels": [1, 2**40, -3],
        "name": "ä",
        "pair": (1.5, None, True, False),
        "none": [[], {}, ()],
    }
    read = read_pickled_dict(pickle.dumps(value, protocol=protocol), what="x")
    np.testing.assert_array_equal(read.pop("data"), value.pop("data"))
    assert read == value


def test_the_form_that_python_2_wrote_equals_what_pickle_reads() -> None:
    data = cifar_pickle(pixels(3), np.array([9, 0, 4]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # NumPy has moved the module that the pickle names
        expected = pickle.loads(data, encoding="bytes")
    read = read_pickled_dict(data, what="x")
    assert list(read) == ["batch_label", "data", "labels"]
    np.testing.assert_array_equal(read["data"], expected[b"data"])
    np.testing.assert_array_equal(read["data"], pixels(3).reshape(3, -1))
    assert read["labels"] == expected[b"labels"] == [9, 0, 4]


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_that_wants_to_execute_something_is_refused(protocol: int) -> None:
    with pytest.raises(DataError, match="batch is refused, and nothing in it was executed"):
        read_pickled_dict(pickle.dumps({"data": Bomb()}, protocol=protocol), what="batch")


ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(tR"


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (b"\x80\x02cos\nmkdir\n(U\x12" + EXECUTED.encode() + b"tR.", "it asks for 'os.mkdir'"),
        (b"\x80\x04\x8c\x02os\x8c\x05mkdir\x93.", "it asks for 'os.mkdir'"),
        (b"\x80\x02cbuiltins\neval\n.", "it asks for 'builtins.eval'"),
        (b"\x80\x02(ios\nmkdir\n.", "uses the instruction INST"),
        (b"\x80\x02(cnumpy\ndtype\no.", "uses the instruction OBJ"),
        (b"\x80\x02cnumpy\ndtype\n)\x81.", "uses the instruction NEWOBJ"),
        (b"\x80\x02\x82\x01.", "uses the instruction EXT1"),
        (b"\x80\x02U\x01xQ.", "uses the instruction BINPERSID"),
        (b"\x80\x02cnumpy\nndarray\n(tR.", "it calls 'numpy.ndarray'"),
        (b"\x80\x02U\x01a(tR.", "it calls 'bytes'"),
        (b"\x80\x02cnumpy\ndtype\n}b.", "sets the state of a _Name"),
        (b"\x80\x02}}b.", "sets the state of a dict"),
        (b"\x80\x02" + ARRAY + b"(K\x01)cnumpy\ndtype\n(U\x02O8tR\x89U\x00tb.", "holds an array of 'O8'"),
        (b"\x80\x02" + ARRAY + b"(K\x01)U\x02u1\x89U\x00tb.", "holds an array of bytes"),
        (b"\x80\x02})}s.", "has a dictionary key of type tuple"),
    ],
)
def test_instructions_and_names_beyond_plain_data_are_refused(program: bytes, message: str) -> None:
    with pytest.raises(DataError, match=f"x is refused, and nothing in it was executed: .*{message}"):
        read_pickled_dict(program, what="x")


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (b"", "x cannot be read as a pickle"),
        (b"\x80\x02}", "x cannot be read as a pickle"),
        (b"\x80\x02.", "takes more values than it has made"),
        (b"\x80\x02].", "x holds a list; expected a dictionary"),
        (b"\x80\x02}h\x07.", "x cannot be read as a pickle"),
        (b"\x80\x02T" + struct.pack("<i", 2**31 - 1) + b"abc.", "x cannot be read as a pickle"),
        (b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"abc.", "x cannot be read as a pickle"),
        (b"\x80\x02" + ARRAY + b"(K\x01J\xff\xff\xff\x7f\x85cnumpy\ndtype\n(U\x02u1tR\x89U\x01atb.", "cannot be read"),
    ],
)
def test_a_damaged_pickle_is_one_clear_error(program: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_pickled_dict(program, what="x")


@settings(deadline=None, max_examples=100)
@given(position=st.integers(0, 10_000), value=st.integers(0, 255), junk=st.binary(max_size=30), insert=st.booleans())
def test_a_mutated_pickle_is_read_or_refused_in_one_line(position: int, value: int, junk: bytes, insert: bool) -> None:
    data = bytearray(cifar_pickle(pixels(1, (3, 2, 2)), np.array([3])))
    position %= len(data)
    data[position : position + (0 if insert else 1)] = junk if insert else bytes([value])
    assert "\n" not in refusal(lambda: read_pickled_dict(bytes(data), what="x"))

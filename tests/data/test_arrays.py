"""Conversion of pixels, and npz files that are not trusted."""

from __future__ import annotations

import io
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeproof.data.arrays import read_npz, to_float, to_storage, write_npz
from edgeproof.errors import DataError
from tests.data.files import refusal


def header(shape: str, *, kind: str = "|u1") -> bytes:
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def write_member(path: Path, content: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", content)


def test_every_grey_level_survives_storage() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    stored = to_storage(to_float(levels, what="x"))
    assert stored.dtype == np.uint8
    np.testing.assert_array_equal(stored, levels)


def test_what_is_off_the_grid_is_stored_as_it_is() -> None:
    images = np.full((1, 1, 2, 2), 0.1234, np.float32)
    assert to_storage(images) is images


def test_the_rounding_of_other_tools_is_clipped_and_more_is_refused() -> None:
    near = to_float(np.full((1, 1, 2, 2), 1 + 5e-7), what="x")
    assert near.max() == 1
    with pytest.raises(DataError, match=r"x: images range over \[1.001, 1.001\]"):
        to_float(np.full((1, 1, 2, 2), 1.001), what="x")
    with pytest.raises(DataError, match=r"x: images are int32; expected uint8 in 0..255 or float"):
        to_float(np.zeros((1, 1, 2, 2), np.int32), what="x")


def test_arrays_come_back_and_equal_arrays_are_equal_bytes(tmp_path: Path) -> None:
    arrays = {"x": np.random.default_rng(0).random((3, 1, 2, 2)), "y": np.arange(3), "file": np.array(["a", "b"])}
    write_npz(tmp_path / "a.npz", arrays)
    time.sleep(0.01)
    write_npz(tmp_path / "b.npz", arrays)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    read = read_npz(tmp_path / "a.npz")
    assert list(read) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(read[name], array)


def test_numpy_reads_what_we_write_and_we_read_what_numpy_writes(tmp_path: Path) -> None:
    x = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    write_npz(tmp_path / "ours.npz", {"x": x})
    np.testing.assert_array_equal(np.load(tmp_path / "ours.npz")["x"], x)
    np.savez(tmp_path / "theirs.npz", x=x)
    np.testing.assert_array_equal(read_npz(tmp_path / "theirs.npz")["x"], x)


def test_a_missing_array_is_named(tmp_path: Path) -> None:
    write_npz(tmp_path / "a.npz", {"x": np.zeros(1)})
    with pytest.raises(DataError, match=r"a.npz has no array 'y'; it has: x"):
        read_npz(tmp_path / "a.npz", required=("x", "y"))


def test_pickled_objects_are_refused_unexecuted(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "executed",))

    np.savez(tmp_path / "bomb.npz", x=np.array([Bomb()], dtype=object))
    with pytest.raises(DataError, match=r"bomb.npz cannot be read as an npz of plain arrays"):
        read_npz(tmp_path / "bomb.npz")
    assert not (tmp_path / "executed").exists()


def test_an_array_that_claims_terabytes_is_one_clear_error(tmp_path: Path) -> None:
    write_member(tmp_path / "huge.npz", header("(1000000, 1000000, 4)") + bytes(64))
    with pytest.raises(DataError, match=r"an array of shape \(1000000, 1000000, 4\) and type uint8 in \d+ bytes"):
        read_npz(tmp_path / "huge.npz")


def test_an_archive_that_claims_terabytes_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_member(tmp_path / "big.npz", header("(64,)") + bytes(64))
    monkeypatch.setattr("edgeproof.data.arrays.MAX_BYTES", 100)
    with pytest.raises(DataError, match=r"would unpack to \d+ bytes; the limit is 100"):
        read_npz(tmp_path / "big.npz")


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04"])
def test_what_is_no_npz_is_one_clear_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"x.npz cannot be read as an npz of plain arrays"):
        read_npz(tmp_path / "x.npz")
    with pytest.raises(DataError, match=r"absent.npz cannot be opened"):
        read_npz(tmp_path / "absent.npz")


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, 10_000), value=st.integers(0, 255), cut=st.booleans())
def test_a_damaged_npz_is_read_or_refused_in_one_line(tmp_path: Path, position: int, value: int, cut: bool) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, x=np.arange(40, dtype=np.uint8))
    data = bytearray(buffer.getvalue())
    if cut:
        del data[position % len(data) :]
    else:
        data[position % len(data)] = value
    (tmp_path / "x.npz").write_bytes(data)
    assert "\n" not in refusal(lambda: read_npz(tmp_path / "x.npz"))

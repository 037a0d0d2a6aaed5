"""MNIST and Fashion-MNIST from IDX files."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeproof.data.base import load_dataset
from edgeproof.data.idx import read_idx
from edgeproof.errors import DataError
from tests.data.files import idx_bytes, pixels, refusal, write_mnist


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(("name", "second"), [("mnist", "1"), ("fashion-mnist", "Trouser")])
def test_the_four_official_files_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, second: str, packed: bool
) -> None:
    held = write_mnist(tmp_path / name, packed=packed)
    monkeypatch.setenv("EDGEPROOF_DATA", str(tmp_path))
    dataset = load_dataset(name)
    assert dataset.train is not None
    for part, (images, labels) in ((dataset.train, held["train"]), (dataset.test, held["test"])):
        np.testing.assert_array_equal(np.rint(part.images * 255), images[:, None])
        np.testing.assert_array_equal(part.labels, labels)
        assert (part.name, part.num_classes, part.classes[1]) == (name, 10, second)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "begins with nothing; expected 00000803, an IDX file of unsigned bytes with 3 dimension"),
        (b"PNG....." * 4, "begins with 504e472e; expected 00000803"),
        (idx_bytes(np.zeros(20, np.uint8)), "begins with 00000801"),
        (idx_bytes(pixels(2, (3, 3)))[:-1], "ends after 17 of 18 bytes"),
        (idx_bytes(pixels(2, (3, 3))) + b"x", "goes on after the 18 bytes"),
        (struct.pack(">4B3I", 0, 0, 8, 3, 2**31, 2**20, 2**20), "its header asks for 2361183241434822606848 bytes"),
        (struct.pack(">4B3I", 0, 0, 8, 3, 2**20, 2**11, 2), "ends after 0 of 4294967296 bytes"),
        (struct.pack(">4B3I", 0, 0, 8, 3, 2**32 - 1, 2**32 - 1, 0), "cannot be read as an IDX file .cannot reshape"),
    ],
)
@pytest.mark.parametrize("packed", [True, False])
def test_what_is_no_such_idx_file_is_one_clear_error(
    tmp_path: Path, content: bytes, message: str, packed: bool
) -> None:
    path = tmp_path / ("x.gz" if packed else "x")
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(DataError, match=message):
        read_idx(path, ndim=3)


def test_labels_that_are_no_classes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mnist(tmp_path / "mnist", packed=False)
    (tmp_path / "mnist" / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes(np.full(10, 11, np.uint8)))
    monkeypatch.setenv("EDGEPROOF_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"mnist/test: labels range over 11..11; expected 0..9"):
        load_dataset("mnist")


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, 10_000), value=st.integers(0, 255), cut=st.booleans())
def test_a_damaged_file_is_read_or_refused_in_one_line(tmp_path: Path, position: int, value: int, cut: bool) -> None:
    data = bytearray(gzip.compress(idx_bytes(pixels(2, (3, 3)))))
    if cut:
        del data[position % len(data) :]
    else:
        data[position % len(data)] = value
    (tmp_path / "x.gz").write_bytes(data)
    assert "\n" not in refusal(lambda: read_idx(tmp_path / "x.gz", ndim=3))

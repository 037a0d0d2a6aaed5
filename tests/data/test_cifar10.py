"""CIFAR-10 in its official forms and in Parquet."""

from __future__ import annotations

import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgeproof.data.base import Dataset, load_dataset
from edgeproof.data.cifar10 import CLASSES
from edgeproof.errors import DataError
from edgeproof.types import Array
from tests.data.files import cifar_batches, cifar_binary, cifar_pickle, encode, pixels, write_tar
from tests.data.test_pickles import EXECUTED, Bomb

Form = Callable[[Path, dict[str, tuple[Array, Array]]], None]


def binary_folder(folder: Path, batches: dict[str, tuple[Array, Array]]) -> None:
    folder.mkdir(parents=True)
    for name, (images, labels) in batches.items():
        (folder / f"{name}.bin").write_bytes(cifar_binary(images, labels))


def binary_subfolder(folder: Path, batches: dict[str, tuple[Array, Array]]) -> None:
    binary_folder(folder / "cifar-10-batches-bin", batches)


def binary_tar(folder: Path, batches: dict[str, tuple[Array, Array]]) -> None:
    folder.mkdir()
    files = {f"cifar-10-batches-bin/{name}.bin": cifar_binary(*batch) for name, batch in batches.items()}
    write_tar(folder / "cifar-10-binary.tar.gz", {"cifar-10-batches-bin/readme.html": b"<html>", **files})


def python_folder(folder: Path, batches: dict[str, tuple[Array, Array]]) -> None:
    (folder / "cifar-10-batches-py").mkdir(parents=True)
    for name, batch in batches.items():
        (folder / "cifar-10-batches-py" / name).write_bytes(cifar_pickle(*batch))


def python_tar(folder: Path, batches: dict[str, tuple[Array, Array]]) -> None:
    folder.mkdir()
    files = {f"cifar-10-batches-py/{name}": cifar_pickle(*batch) for name, batch in reversed(batches.items())}
    write_tar(folder / "cifar-10-python.tar.gz", files)


def write_parquet(path: Path, images: Array, labels: Array, *, kind: str = "PNG", image: str = "img") -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"bytes": encode(pixel, kind=kind), "path": f"{row}.png"} for row, pixel in enumerate(images)]
    parquet.write_table(pyarrow.table({image: rows, "label": labels.tolist()}), path, row_group_size=3)


def parquet_shards(folder: Path, batches: dict[str, tuple[Array, Array]]) -> None:
    *train, test = batches.values()
    for shard, parts in enumerate((train[:2], train[2:])):
        images, labels = (np.concatenate(column) for column in zip(*parts, strict=True))
        write_parquet(folder / f"train-0000{shard}-of-00002.parquet", images, labels)
    write_parquet(folder / "test-00000-of-00001.parquet", *test)


def parquet_subfolder(folder: Path, batches: dict[str, tuple[Array, Array]]) -> None:
    parquet_shards(folder / "plain_text", batches)


FORMS = (
    binary_folder, binary_subfolder, binary_tar, python_folder, python_tar, parquet_shards, parquet_subfolder,
)  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEPROOF_DATA", str(tmp_path))
    return tmp_path / "cifar10"


def check(dataset: Dataset, batches: dict[str, tuple[Array, Array]]) -> None:
    *train, test = batches.values()
    images, labels = (np.concatenate(column) for column in zip(*train, strict=True))
    assert dataset.train is not None
    for part, wanted, numbers in ((dataset.train, images, labels), (dataset.test, *test)):
        np.testing.assert_array_equal(np.rint(part.images * 255).astype(np.uint8), wanted)
        np.testing.assert_array_equal(part.labels, numbers)
        assert (part.classes, part.name) == (CLASSES, "cifar10")


@pytest.mark.parametrize("write", FORMS)
def test_every_form_gives_the_same_images_in_the_official_order(folder: Path, write: Form) -> None:
    batches = cifar_batches()
    write(folder, batches)
    check(load_dataset("cifar10"), batches)


def test_the_original_pixels_come_before_encoded_ones(folder: Path) -> None:
    batches = cifar_batches()
    binary_folder(folder, batches)
    write_parquet(folder / "train-0.parquet", pixels(2, seed=50), np.array([1, 2]))
    write_parquet(folder / "test-0.parquet", pixels(2, seed=51), np.array([1, 2]))
    check(load_dataset("cifar10"), batches)


def test_jpeg_copies_are_named_so(folder: Path) -> None:
    smooth = np.broadcast_to(np.arange(32, dtype=np.uint8) * 4, (2, 3, 32, 32))
    for split in ("train", "test"):
        write_parquet(folder / f"{split}-0.parquet", smooth, np.array([1, 2]), kind="JPEG", image="image")
    test = load_dataset("cifar10").test
    assert test.name == "cifar10 (JPEG)"
    assert np.abs(test.images * 255 - smooth).max() < 8


def test_a_hostile_pickle_is_refused_and_nothing_is_executed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for write in (python_folder, python_tar):
        place = folder / write.__name__
        monkeypatch.setenv("EDGEPROOF_DATA", str(place))
        place.mkdir(parents=True)
        write(place / "cifar10", cifar_batches())
        evil = pickle.dumps({b"data": Bomb(), b"labels": [1]}, protocol=2)
        if write is python_folder:
            (place / "cifar10" / "cifar-10-batches-py" / "data_batch_1").write_bytes(evil)
        else:
            files = dict.fromkeys(cifar_batches(), evil)
            write_tar(place / "cifar10" / "cifar-10-python.tar.gz", files)
        with pytest.raises(
            DataError, match=r"(data_batch_1|test_batch) is refused, and nothing in it was executed: it asks for"
        ):
            _ = load_dataset("cifar10").train
    assert not (tmp_path / EXECUTED).exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has 0 bytes; expected a multiple of 3073"),
        (bytes(3072), "has 3072 bytes; expected a multiple of 3073"),
        (bytes([10]) + bytes(3072), r"labels range over 0..10; expected 0..9 for 10 classes"),
    ],
)
def test_a_damaged_binary_batch_is_one_clear_error(folder: Path, content: bytes, message: str) -> None:
    binary_folder(folder, cifar_batches())
    (folder / "data_batch_5.bin").write_bytes(content)
    with pytest.raises(DataError, match=message):
        _ = load_dataset("cifar10").train


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (
            {"data": np.zeros((2, 3072), np.float32), "labels": [1, 2]},
            r"'data' is not a uint8 array of shape \(N, 3072\)",
        ),
        ({"data": np.zeros((2, 3000), np.uint8), "labels": [1, 2]}, r"'data' is not a uint8 array"),
        ({"labels": [1, 2]}, r"'data' is not a uint8 array"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": ["a", "b"]}, "'labels' is not a list of integers"),
        (
            {"data": np.zeros((2, 3072), np.uint8), "labels": [1]},
            r"labels are int64 of shape \(17,\); expected .*\(18,\)",
        ),
    ],
)
def test_a_python_batch_of_something_else_is_one_clear_error(folder: Path, batch: object, message: str) -> None:
    python_folder(folder, cifar_batches())
    (folder / "cifar-10-batches-py" / "data_batch_2").write_bytes(pickle.dumps(batch, protocol=4))
    with pytest.raises(DataError, match=message):
        _ = load_dataset("cifar10").train


def test_a_damaged_or_incomplete_archive_is_one_clear_error(folder: Path) -> None:
    python_tar(folder, cifar_batches())
    archive = folder / "cifar-10-python.tar.gz"
    data = archive.read_bytes()
    archive.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"cifar-10-python.tar.gz (cannot be read as a tar archive|holds no)"):
        _ = load_dataset("cifar10").train
    write_tar(archive, {"data_batch_1": b""})
    with pytest.raises(DataError, match="holds no test_batch; fetch it again"):
        _ = load_dataset("cifar10").train


@pytest.mark.parametrize("write", [binary_folder, binary_tar])
def test_an_absurdly_large_batch_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch, write: Form) -> None:
    monkeypatch.setattr("edgeproof.data.cifar10._MAX_BATCH_BYTES", 1000)
    write(folder, cifar_batches())
    with pytest.raises(DataError, match=r"_batch(_1)?.bin has 12292 bytes; expected at most 1000"):
        _ = load_dataset("cifar10").train


def test_an_archive_that_unpacks_to_too_much_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeproof.data.cifar10._MAX_ARCHIVE_BYTES", 20_000)
    binary_tar(folder, cifar_batches())
    with pytest.raises(DataError, match=r"cifar-10-binary\.tar\.gz unpacks to more than 20000 bytes"):
        _ = load_dataset("cifar10").train


def test_an_archive_of_too_many_members_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    write_tar(folder / "cifar-10-binary.tar.gz", {f"n{number}": b"" for number in range(200)})
    with pytest.raises(DataError, match="has more than 100 members"):
        load_dataset("cifar10")


def test_links_in_an_archive_are_not_followed(folder: Path) -> None:
    folder.mkdir()
    with tarfile.open(folder / "cifar-10-binary.tar.gz", "w:gz") as archive:
        for name in cifar_batches():
            member = tarfile.TarInfo(f"{name}.bin")
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(member)
    with pytest.raises(DataError, match=r"holds no test_batch.bin"):
        _ = load_dataset("cifar10").train


def test_parquet_of_something_else_is_one_clear_error(folder: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    write_parquet(folder / "test-0.parquet", pixels(2), np.array([1, 2]))
    train = folder / "train-0.parquet"
    train.write_bytes(b"PAR1 not really")
    with pytest.raises(DataError, match=r"train-0.parquet cannot be read as a Parquet file of encoded images"):
        _ = load_dataset("cifar10").train
    parquet.write_table(pyarrow.table({"text": ["a"], "label": [1]}), train)
    with pytest.raises(DataError, match="has columns text, label; expected img or image, and label or labels"):
        _ = load_dataset("cifar10").train
    parquet.write_table(pyarrow.table({"img": [{"bytes": b"junk", "path": ""}], "label": [1]}), train)
    with pytest.raises(DataError, match=r"cifar10: image 0 cannot be read as an image"):
        _ = load_dataset("cifar10").train
    parquet.write_table(pyarrow.table({"img": [{"bytes": None, "path": "a.png"}], "label": [1]}), train)
    with pytest.raises(DataError, match="image 0 has no bytes"):
        _ = load_dataset("cifar10").train
    write_parquet(train, pixels(2, (3, 16, 16)), np.array([1, 2]))
    with pytest.raises(DataError, match=r"images are \(3, 16, 16\); expected \(3, 32, 32\)"):
        _ = load_dataset("cifar10").train

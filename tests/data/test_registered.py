"""Each registered data set meets its contract; the real ones where their files are found."""

from __future__ import annotations

import numpy as np
import pytest

from edgeproof.data import cifar10, idx, source
from edgeproof.data.base import PARTS, Dataset, load_dataset, split_dataset
from edgeproof.errors import ConfigError
from edgeproof.plugins.registry import entries

SMALL = ("digits", "synthetic")
NAMES = [name for name, entry in entries("data").items() if not entry.options.get("path")]


@pytest.fixture(autouse=True)
def _nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(file: source.RemoteFile, folder: object) -> None:
        pytest.skip(f"{file.name} is not on this machine; put it where EDGEPROOF_DATA points")

    monkeypatch.setattr(source, "download", refuse)


def load(name: str) -> Dataset:
    if name == "digits":
        pytest.importorskip("sklearn")
    return load_dataset(name)


def test_the_data_sets_of_the_documentation_are_registered() -> None:
    assert set(NAMES) >= {"digits", "mnist", "fashion-mnist", "cifar10", "synthetic"}
    assert {name for name, entry in entries("data").items() if entry.options.get("path")} == {"npz", "folder"}
    assert all(entry.summary.endswith((".", ")")) for entry in entries("data").values())


@pytest.mark.parametrize(
    "name", [name if name in SMALL else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
)
def test_a_registered_data_set_meets_its_contract(name: str) -> None:
    dataset = load(name)
    assert dataset.train is not None
    for part, split in ((dataset.train, "train"), (dataset.test, "test")):
        assert (part.split, part.name.removesuffix(" (JPEG)")) == (split, name)
        assert sorted(set(part.labels.tolist())) == list(range(part.num_classes))
        assert len(set(part.index.tolist())) == len(part)
        assert len(set(part.classes)) == part.num_classes
    levels = dataset.test.images * 255
    np.testing.assert_allclose(levels, np.rint(levels), rtol=0, atol=1e-4)
    splits = split_dataset(dataset, seed=0, validation=0.1, calibration=64)
    assert len(splits.calibration) == 64
    assert sum(len(splits.part(part)) for part in PARTS[:3]) == len(dataset.train)


def test_digits_are_1797_images_of_which_540_are_for_testing() -> None:
    load_digits = pytest.importorskip("sklearn.datasets").load_digits()
    dataset = load("digits")
    assert dataset.train is not None
    assert (len(dataset.train), len(dataset.test)) == (1257, 540)
    assert sorted([*dataset.train.index, *dataset.test.index]) == list(range(1797))
    for part in (dataset.train, dataset.test):
        np.testing.assert_array_equal(part.labels, load_digits.target[part.index])
        # A pixel of the enlarged image at the centre of four is a blend of them; their means agree.
        means = load_digits.images[part.index].mean((1, 2)) / 16
        np.testing.assert_allclose(part.images.mean((1, 2, 3)), means, atol=0.03)
    whole, tested = (np.bincount(labels) for labels in (load_digits.target, dataset.test.labels))
    assert np.abs(tested - whole * 540 / 1797).max() < 1
    again = load("digits")
    np.testing.assert_array_equal(again.test.images, dataset.test.images)


@pytest.mark.parametrize(("name", "remote"), [("mnist", idx._MNIST_FILES), ("fashion-mnist", idx._FASHION_FILES)])
def test_the_real_idx_test_files_are_whole(name: str, remote: tuple[source.RemoteFile, ...]) -> None:
    folder = source.find_dataset(name, complete=idx._complete, remote=remote)
    test = idx.read_idx_split(folder, "test", name=name, classes=tuple("0123456789"))
    assert test.images.shape == (10_000, 1, 28, 28)
    counts = np.bincount(test.labels)
    assert counts.tolist() == (
        [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009] if name == "mnist" else [1000] * 10
    )


@pytest.mark.slow
def test_the_real_cifar_test_files_are_whole() -> None:
    pytest.importorskip("pyarrow")
    folder = source.find_dataset(
        "cifar10", complete=lambda place: cifar10._form(place) is not None, remote=cifar10._FILES
    )
    test = cifar10.read_cifar10(folder, "test")
    assert test.images.shape == (10_000, 3, 32, 32)
    assert np.bincount(test.labels).tolist() == [1000] * 10
    assert test.classes[int(test.labels[0])] == "cat"
    assert 0.4 < float(test.images.mean()) < 0.55


def test_synthetic_images_are_seeded_and_have_class_structure() -> None:
    first, again = (load_dataset("synthetic", params={"seed": 3, "num_classes": 3}) for _ in range(2))
    np.testing.assert_array_equal(first.test.images, again.test.images)
    assert first.train is not None
    other = load_dataset("synthetic", params={"seed": 4, "num_classes": 3})
    assert not np.array_equal(first.test.images, other.test.images)
    means = np.stack([first.train.images[first.train.labels == label].mean(0) for label in range(3)])
    distances = ((first.test.images[:, None] - means) ** 2).sum((2, 3, 4))
    assert (distances.argmin(1) == first.test.labels).mean() > 0.95


def test_synthetic_images_of_any_shape_are_made() -> None:
    dataset = load_dataset("synthetic", params={"input_shape": (3, 5, 7), "train": 5, "test": 4})
    assert dataset.test.images.shape == (4, 3, 5, 7)


def test_made_up_images_that_are_too_many_are_refused_before_they_are_made() -> None:
    with pytest.raises(ConfigError, match="expected at most 134217728 numbers in all"):
        load_dataset("synthetic", params={"train": 1_500_000, "input_shape": [1, 28, 28]})


@pytest.mark.parametrize("params", [{"noise": "x"}, {"input_shape": 5}, {"train": 2.5}])
def test_a_parameter_of_another_kind_is_refused(params: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="is not accepted"):
        load_dataset("synthetic", params=params)

"""Labelled images, splits and adversarial sets."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeproof.config import DataConfig
from edgeproof.data.base import (
    PARTS,
    AdversarialSet,
    Dataset,
    LabelledImages,
    load_adversarial_set,
    load_dataset,
    load_part,
    load_splits,
    save_adversarial_set,
    split_dataset,
)
from edgeproof.data.sampling import stratified_sample
from edgeproof.errors import ConfigError, DataError, RunError
from edgeproof.runs import Run
from tests.data.files import labelled


def counts(images: LabelledImages) -> list[int]:
    return np.bincount(images.labels, minlength=images.num_classes).tolist()


def dataset(*sizes: int) -> Dataset:
    return Dataset(labelled([2] * len(sizes), split="test"), lambda: labelled(sizes))


def test_images_know_their_shape_classes_and_length() -> None:
    images = labelled([3, 4], shape=(3, 5, 6))
    assert (len(images), images.input_shape, images.num_classes) == (7, (3, 5, 6), 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"images": np.zeros((4, 3, 8), np.float32)},
            r"toy/train: images have shape \(4, 3, 8\); expected \(N, C, H, W\)",
        ),
        ({"images": np.zeros((7, 1, 4, 4))}, "images are float64; expected float32"),
        ({"images": np.full((7, 1, 4, 4), np.nan, np.float32)}, "hold NaN or infinite"),
        ({"images": np.full((7, 1, 4, 4), np.inf, np.float32)}, "hold NaN or infinite"),
        ({"images": np.full((7, 1, 4, 4), 255, np.float32)}, r"range over \[255, 255\].*divide 0..255 pixels by 255"),
        ({"images": np.full((7, 1, 4, 4), -2.1, np.float32)}, "normalisation belongs inside the model"),
        ({"labels": np.zeros(6, np.int64)}, r"labels are int64 of shape \(6,\); expected int64 of shape \(7,\)"),
        ({"labels": np.zeros(7, np.int32)}, "labels are int32"),
        ({"labels": np.full(7, 2)}, r"labels range over 2..2; expected 0..1 for 2 classes"),
        ({"labels": np.full(7, -1)}, r"labels range over -1..-1"),
        ({"index": np.arange(6)}, r"index is int64 of shape \(6,\); expected int64 of shape \(7,\)"),
    ],
)
def test_what_is_not_images_with_labels_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        replace(labelled([3, 4]), **change)


def test_labels_of_one_column_are_taken_and_others_refused() -> None:
    images = np.zeros((2, 1, 4, 4), np.uint8)
    column = LabelledImages.from_arrays(images, np.array([[1], [0]]), classes=("a", "b"), name="toy", split="test")
    assert column.labels.tolist() == [1, 0]
    with pytest.raises(DataError, match=r"labels are float64 of shape \(2,\); expected integers"):
        LabelledImages.from_arrays(images, np.array([0.0, 1.0]), classes=("a", "b"), name="toy", split="test")


def test_taking_positions_keeps_rows_together() -> None:
    images = labelled([5, 5])
    taken = images.take(np.array([7, 2]), split="test")
    np.testing.assert_array_equal(taken.images, images.images[[7, 2]])
    assert taken.labels.tolist() == images.labels[[7, 2]].tolist()
    assert (taken.index.tolist(), taken.split) == ([7, 2], "test")


def test_a_head_is_stratified_and_in_the_original_order() -> None:
    head = labelled([60, 30, 10]).head(20)
    assert counts(head) == [12, 6, 2]
    assert (np.diff(head.index) > 0).all()
    assert len(labelled([3, 3]).head(None)) == len(labelled([3, 3]).head(9)) == 6


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=8), st.data())
def test_a_stratified_sample_is_within_one_of_proportion(sizes: list[int], data: st.DataObject) -> None:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    count = data.draw(st.integers(0, len(labels)))
    chosen = stratified_sample(labels, count, seed=0)
    assert len(set(chosen.tolist())) == len(chosen) == count
    got = np.bincount(labels[chosen], minlength=len(sizes))
    assert (np.abs(got - np.array(sizes) * count / max(len(labels), 1)) < 1).all()


def test_a_sample_of_more_than_there_is_is_refused() -> None:
    with pytest.raises(DataError, match="5 images were asked for and there are 4"):
        stratified_sample(np.zeros(4, np.int64), 5, seed=0)


def test_the_parts_of_a_split_are_disjoint_whole_and_stratified() -> None:
    splits = split_dataset(dataset(100, 50, 20), seed=3, validation=0.1, calibration=12)
    parts = [splits.part(name) for name in PARTS[:3]]
    index = np.concatenate([part.index for part in parts])
    assert sorted(index.tolist()) == list(range(170))
    assert [counts(part) for part in parts] == [[86, 41, 14], [10, 5, 2], [4, 4, 4]]
    assert [part.split for part in parts] == list(PARTS[:3])
    whole = labelled([100, 50, 20])
    for part in parts:
        np.testing.assert_array_equal(part.images, whole.images[part.index])


def test_a_split_depends_on_its_seed_alone() -> None:
    first, again, other = (
        split_dataset(dataset(40, 40), seed=seed, validation=0.2, calibration=8) for seed in (0, 0, 1)
    )
    for name in PARTS:
        np.testing.assert_array_equal(first.part(name).index, again.part(name).index)
    assert first.validation.index.tolist() != other.validation.index.tolist()


def test_calibration_takes_at_most_a_quarter_of_a_rare_class() -> None:
    splits = split_dataset(dataset(400, 8, 3), seed=0, validation=0.1, calibration=60)
    assert counts(splits.calibration) == [57, 2, 1]
    assert counts(splits.validation) == [40, 1, 1]


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.integers(3, 40), min_size=2, max_size=6),
    st.floats(0, 0.99),
    st.integers(0, 80),
)
def test_every_class_is_in_every_part_that_is_asked_for(sizes: list[int], validation: float, calibration: int) -> None:
    splits = split_dataset(dataset(*sizes), seed=0, validation=validation, calibration=calibration)
    assert sum(len(splits.part(name)) for name in PARTS[:3]) == sum(sizes)
    assert min(counts(splits.train)) >= 1
    if validation > 0:
        assert min(counts(splits.validation)) >= 1
    else:
        assert not len(splits.validation)
    assert len(splits.calibration) <= calibration
    if calibration >= len(sizes):
        assert min(counts(splits.calibration)) >= 1


def test_a_class_too_small_for_the_split_is_named() -> None:
    with pytest.raises(DataError, match="toy: class 'c1' has 2 training images; expected at least 3"):
        split_dataset(dataset(9, 2), seed=0, validation=0.1, calibration=4)
    assert counts(split_dataset(dataset(9, 2), seed=0, validation=0.1, calibration=0).train) == [8, 1]
    assert counts(split_dataset(dataset(9, 1), seed=0, validation=0, calibration=0).train) == [9, 1]


def test_a_limit_that_loses_a_class_is_refused() -> None:
    with pytest.raises(DataError, match=r"class 'c1' has 0 training images.*raise limit_train"):
        split_dataset(dataset(100, 3), seed=0, validation=0.1, calibration=4, limit_train=10)


def test_without_training_images_only_the_test_part_has_any() -> None:
    splits = split_dataset(Dataset(labelled([2, 2], split="test")), seed=0, validation=0.1, calibration=9)
    assert [len(splits.part(name)) for name in PARTS] == [0, 0, 0, 4]
    assert splits.part("train").split == "train"


def test_an_unknown_part_is_named_with_the_nearest_one() -> None:
    splits = split_dataset(dataset(9, 9), seed=0, validation=0.1, calibration=4)
    with pytest.raises(ConfigError, match=r"unknown split 'tests' \(did you mean 'test'\?\)"):
        splits.part("tests")


def test_training_and_test_images_must_fit_together() -> None:
    test = labelled([2, 2], split="test")
    with pytest.raises(DataError, match=r"train images are \(1, 5, 4\) and test images \(1, 4, 4\)"):
        _ = Dataset(test, lambda: labelled([2, 2], shape=(1, 5, 4))).train
    with pytest.raises(DataError, match="train and test images have different classes"):
        _ = Dataset(test, lambda: labelled([2, 2, 2])).train
    with pytest.raises(DataError, match="toy: there are no train images"):
        _ = Dataset(test, lambda: labelled([2, 2]).take(np.empty(0, np.int64))).train
    with pytest.raises(DataError, match="toy: there are no test images"):
        Dataset(test.take(np.empty(0, np.int64)))


def test_training_images_are_read_once_and_only_when_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def load_train() -> LabelledImages:
        read.append("train")
        return labelled([4, 4])

    dataset = Dataset(labelled([2, 2], split="test"), load_train)
    monkeypatch.setattr("edgeproof.data.base.load_dataset", lambda name, params: dataset)
    assert len(load_part(DataConfig(), "test")) == 4
    assert read == []
    assert len(load_part(DataConfig(calibration=0), "train")) == 6
    assert dataset.train is dataset.train
    assert read == ["train"]


def test_a_configuration_gives_its_splits() -> None:
    config = DataConfig(
        name="synthetic", params={"test": 60}, split_seed=1, validation=0.25, calibration=16, limit_train=128
    )
    splits = load_splits(config)
    assert [len(splits.part(name)) for name in PARTS] == [80, 32, 16, 60]
    for name in PARTS:
        np.testing.assert_array_equal(load_part(config, name).index, splits.part(name).index)


def test_an_unknown_data_set_or_parameter_is_an_error_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"unknown data 'digit' \(did you mean 'digits'\?\)"):
        load_dataset("digit")
    with pytest.raises(ConfigError, match=r"no parameter 'nois' \(did you mean 'noise'\?\)"):
        load_dataset("synthetic", params={"nois": 1})
    for name in ("npz", "npz:"):
        with pytest.raises(ConfigError, match="expected npz:PATH"):
            load_dataset(name)
    with pytest.raises(ConfigError, match="data set 'synthetic:x': expected synthetic"):
        load_dataset("synthetic:x")


def adversaries(**changes: Any) -> AdversarialSet:
    clean = labelled([3, 3], split="test")
    images = np.clip(clean.images + np.float32(0.1), 0, 1)
    values: dict[str, Any] = {
        "name": "pgd 0.1", "attack": "pgd-linf", "norm": "linf", "eps": 0.1, "images": images, "clean": clean,
        "source": "toy", "source_logits": np.ones((6, 2), np.float32), "params": {"steps": 3},
        "indicators": {"zero_gradient": 0.5},
    }  # fmt: skip
    return AdversarialSet(**{**values, **changes})


def test_an_adversarial_set_comes_back_as_it_was_written(tmp_path: Path) -> None:
    written = adversaries()
    run = Run.start("attack", "toy", config={}, root=tmp_path)
    save_adversarial_set(run, written)
    run.finish()
    read = load_adversarial_set(Run.open(run.path))
    np.testing.assert_array_equal(read.images, written.images)
    np.testing.assert_array_equal(read.clean.images, written.clean.images)
    np.testing.assert_array_equal(read.clean.labels, written.clean.labels)
    assert read.source_logits is not None
    np.testing.assert_array_equal(read.source_logits, np.ones((6, 2)))
    assert read.source_clean_logits is None
    same = ("name", "attack", "norm", "eps", "source", "params", "pixels", "indicators")
    assert [getattr(read, field) for field in same] == [getattr(written, field) for field in same]
    assert (read.clean.classes, read.clean.name, read.clean.split) == (("c0", "c1"), "toy", "test")


def test_equal_adversarial_sets_are_equal_bytes(tmp_path: Path) -> None:
    files = []
    for root in (tmp_path / "a", tmp_path / "b"):
        with Run.start("attack", "toy", config={}, root=root) as run:
            save_adversarial_set(run, adversaries())
        files.append([(run.path / name).read_bytes() for name in ("adversaries.npz", "clean.npz", "set.json")])
    assert files[0] == files[1]


def test_a_changed_set_is_noticed(tmp_path: Path) -> None:
    run = Run.start("attack", "toy", config={}, root=tmp_path)
    save_adversarial_set(run, adversaries())
    run.finish()
    path = run.path / "set.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "eps": 0.2}))
    with pytest.raises(RunError, match="changed after the run"):
        load_adversarial_set(Run.open(run.path))


def test_adversaries_of_other_samples_are_refused(tmp_path: Path) -> None:
    run = Run.start("attack", "toy", config={}, root=tmp_path)
    save_adversarial_set(run, adversaries())
    first = (run.path / "clean.npz").read_bytes()
    clean = labelled([3, 3], split="test")
    save_adversarial_set(run, adversaries(clean=replace(clean, index=clean.index[::-1].copy())))
    (run.path / "clean.npz").write_bytes(first)
    run.finish()
    with pytest.raises(DataError, match="not of the same samples"):
        load_adversarial_set(Run.open(run.path))


def test_adversaries_and_logits_must_fit_the_clean_images() -> None:
    with pytest.raises(DataError, match=r"adversaries have shape \(5, 1, 4, 4\), clean images \(6, 1, 4, 4\)"):
        adversaries(images=np.zeros((5, 1, 4, 4), np.float32))
    with pytest.raises(
        DataError, match=r"source's logits are float32 of shape \(6, 3\); expected numbers of shape \(6, 2\)"
    ):
        adversaries(source_logits=np.ones((6, 3), np.float32))

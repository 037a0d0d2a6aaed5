"""A user's own images in an npz."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeproof.data.base import load_dataset
from edgeproof.data.npz import to_nchw
from edgeproof.errors import DataError
from tests.data.files import pixels

COLOUR = pixels(6, (3, 8, 5))
LABELS = np.array([0, 1, 2, 2, 1, 0])


def load(path: Path, **arrays: Any) -> Any:
    np.savez(path / "mine.npz", **arrays)
    return load_dataset(f"npz:{path / 'mine.npz'}")


@pytest.mark.parametrize(
    "images",
    [COLOUR, COLOUR.transpose(0, 2, 3, 1), COLOUR.astype(np.float32) / np.float32(255), COLOUR / 255],
    ids=["uint8 NCHW", "uint8 NHWC", "float32 NCHW", "float64 NCHW"],
)
def test_every_layout_gives_the_same_images(tmp_path: Path, images: Any) -> None:
    dataset = load(tmp_path, x_train=images, y_train=LABELS, x_test=images[:2], y_test=LABELS[:2, None])
    assert dataset.train.input_shape == (3, 8, 5)
    np.testing.assert_allclose(dataset.train.images, COLOUR / 255, rtol=0, atol=1e-7)
    np.testing.assert_array_equal(dataset.test.images, dataset.train.images[:2])
    assert dataset.test.labels.tolist() == [0, 1]
    assert (dataset.train.name, dataset.train.classes) == ("npz:mine.npz", ("0", "1", "2"))


def test_grey_images_need_no_channel_axis(tmp_path: Path) -> None:
    grey = pixels(6, (8, 5))
    assert load(tmp_path, x_test=grey, y_test=LABELS).test.input_shape == (1, 8, 5)


def test_test_images_alone_can_be_evaluated_and_carry_class_names(tmp_path: Path) -> None:
    dataset = load(tmp_path, x_test=COLOUR, y_test=LABELS.astype(np.uint8), classes=np.array(["a", "b", "c", "d"]))
    assert dataset.train is None
    assert dataset.test.classes == ("a", "b", "c", "d")


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (
            (2, 3, 8, 3),
            r"x_test: the layout of shape \(2, 3, 8, 3\) is ambiguous, \(N, C, H, W\) or \(N, H, W, C\); store",
        ),
        ((2, 1, 9, 1), r"is ambiguous"),
        ((2, 4, 8, 5), r"has shape \(2, 4, 8, 5\); expected 1 or 3 channels on the second or the last axis"),
        ((2, 8), r"x_test has shape \(2, 8\); expected \(N, H, W, C\), \(N, C, H, W\) or \(N, H, W\)"),
    ],
)
def test_an_ambiguous_layout_is_an_error_that_says_so(tmp_path: Path, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(tmp_path, x_test=np.zeros(shape, np.uint8), y_test=LABELS[:2])


def test_float_images_are_never_ambiguous() -> None:
    images = np.zeros((2, 3, 8, 3), np.float32)
    assert to_nchw(images, what="x") is images


def test_float_images_with_channels_last_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"x_test is float64 of shape \(6, 8, 5, 3\); expected \(N, C, H, W\): transpose"
    ):
        load(tmp_path, x_test=COLOUR.transpose(0, 2, 3, 1) / 255, y_test=LABELS)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x_test": COLOUR}, r"mine.npz has no array 'y_test'; it has: x_test"),
        ({"x_test": COLOUR, "y_test": LABELS, "x_train": COLOUR}, "has only one of x_train and y_train"),
        ({"x_test": COLOUR, "y_test": LABELS[:3]}, r"labels are int64 of shape \(3,\); expected int64 of shape \(6,\)"),
        ({"x_test": COLOUR, "y_test": LABELS / 1}, r"labels are float64"),
        ({"x_test": COLOUR, "y_test": np.eye(6, dtype=int)}, r"labels are int64 of shape \(6, 6\)"),
        ({"x_test": COLOUR, "y_test": LABELS - 1}, r"labels range over -1..1"),
        ({"x_test": COLOUR, "y_test": LABELS, "classes": ["a", "b"]}, r"labels range over 0..2; expected 0..1"),
        ({"x_test": COLOUR, "y_test": LABELS, "classes": "abc"}, r"classes has shape \(\); expected \(K,\) names"),
        ({"x_test": COLOUR.astype(float), "y_test": LABELS}, r"divide 0..255 pixels by 255"),
        (
            {"x_test": COLOUR[:0], "y_test": LABELS[:0]},
            r"labels are int64 of shape \(0,\); expected one integer an image",
        ),
    ],
)
def test_what_does_not_fit_is_one_clear_error(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(tmp_path, **arrays)


@pytest.mark.parametrize(("name", "reason"), [("nowhere.npz", "No such file"), ("", "Is a directory")])
def test_a_file_that_is_not_there_is_not_called_damaged(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(DataError, match=rf"cannot be opened \({reason}.*\); expected an npz of plain arrays"):
        load_dataset(f"npz:{tmp_path / name}")

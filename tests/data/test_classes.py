"""Class names: one check of whose class is whose."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeproof.data.base import LabelledImages
from edgeproof.data.classes import class_index, fit_classes, match_classes, model_classes, read_class_file
from edgeproof.errors import ConfigError, DataError


def images(*names: str, labels: list[int] | None = None) -> LabelledImages:
    found = np.array(labels if labels is not None else range(len(names)), np.int64)
    return LabelledImages(
        np.zeros((len(found), 1, 2, 2), np.float32), found, np.arange(len(found)), names, "data", "test"
    )


def fitted(data: LabelledImages, names: tuple[str, ...], count: int | None = None) -> list[str]:
    """Return the model's name, else number, for each image."""
    result = fit_classes(data, names, count=count or len(names), model="net")
    return [result.classes[label] for label in result.labels]


@given(st.permutations(["ant", "bee", "cat", "10", "2"]), st.lists(st.integers(0, 4), max_size=9))
def test_every_image_keeps_its_name_in_any_order(order: list[str], labels: list[int]) -> None:
    data = images("ant", "bee", "cat", "10", "2", labels=labels)
    result = fit_classes(data, order, count=5, model="net")
    assert result.classes == tuple(order)
    assert [order[label] for label in result.labels] == [data.classes[label] for label in labels]


def test_ten_classes_of_a_thousand_are_found_by_name(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    thousand = tuple(f"n{number:04}" for number in range(1000))
    data = images("n0007", "n0500", "n0999")
    assert fit_classes(data, thousand, count=1000, model="net").labels.tolist() == [7, 500, 999]
    assert not caplog.text  # names have decided


def test_a_class_without_images_need_not_be_the_model_s() -> None:
    assert fitted(images("ant", "background", "bee", labels=[2, 0, 2]), ("bee", "ant")) == ["bee", "ant", "bee"]


def test_a_class_that_the_model_does_not_have_is_refused_by_name() -> None:
    with pytest.raises(
        DataError, match=r"data has images of the class 'bea', which net does not have \(did you mean 'bee'"
    ):
        fitted(images("ant", "bea"), ("bee", "ant", "cat"))
    with pytest.raises(DataError, match="class '1', which net does not have"):  # numbers that are names
        fitted(images("0", "1"), ("0", "x"))
    with pytest.raises(DataError, match="class 'crane', which net names more than one class so"):
        fitted(images("ant", "crane"), ("crane", "ant", "crane"))


@pytest.mark.parametrize(
    ("ours", "theirs", "count", "labels", "said"),
    [
        (("cat", "dog"), (), 2, [0, 1], "cat, dog of data are taken for its classes in this order"),
        (("0", "1", "2"), (), 4, [0, 1, 2], ""),
        (("0", "1", "2"), (), 3, [0, 1, 2], ""),
        (("1", "2", "3"), (), 3, [0, 1, 2], "1, 2, 3 of data are taken for its classes in this order"),
        (("1", "2", "3"), (), 4, [1, 2, 3], "class '1' of data is its class 1"),
        (("1", "2", "3"), ("0", "1", "2", "3"), 4, [1, 2, 3], ""),
        (("0", "10", "2"), tuple(map(str, range(11))), 11, [0, 10, 2], ""),
        (("0", "1"), ("cat", "dog", "eel"), 3, [0, 1], "label 0 of data is its class 'cat'"),
        (("cat", "dog"), ("0", "1"), 2, [0, 1], "cat, dog of data are taken for its classes in this order"),
    ],
)
def test_what_is_taken_where_names_cannot_decide_is_said(
    caplog: pytest.LogCaptureFixture,
    ours: tuple[str, ...],
    theirs: tuple[str, ...],
    count: int,
    labels: list[int],
    said: str,
) -> None:
    caplog.set_level("INFO")
    mapping, classes = match_classes(images(*ours), theirs, count=count, model="net")
    assert (mapping.tolist(), len(classes)) == (labels, count)
    assert said in caplog.text
    assert bool(caplog.text) == bool(said)


@pytest.mark.parametrize(
    ("ours", "theirs", "count"),
    [
        (("cat", "dog"), (), 3),
        (("cat", "dog", "eel"), (), 2),
        (("0", "1", "2"), ("cat", "dog"), 2),
        (("3", "9"), (), 4),
    ],
)
def test_what_cannot_be_known_is_refused_with_the_remedy(
    ours: tuple[str, ...], theirs: tuple[str, ...], count: int
) -> None:
    with pytest.raises(
        DataError, match=f"net has {count} classes.*--classes-file FILE, or in the array 'classes' of an npz"
    ):
        fit_classes(images(*ours), theirs, count=count, model="net")


def test_an_option_takes_a_name_before_a_number_and_a_position_with_a_hash() -> None:
    names = ("10", "2", "cat")
    assert [class_index(text, names) for text in ("10", "2", "cat", "#0", "#2", "0", "1")] == [0, 1, 2, 0, 2, 0, 1]
    for unknown in ("#3", "3", "#", "##1", "-1", "#-1", ""):
        with pytest.raises(ConfigError, match="known: 10, 2, cat"):
            class_index(unknown, names)
    with pytest.raises(ConfigError, match=r"known: 0, 1, .*, 19, \.\.\. \(500 in all\)"):
        class_index("cat", tuple(map(str, range(500))))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("c.txt", "cat\ndog, wild\neel\n\n"),
        ("c.txt", "\ufeffcat\r\ndog, wild\r\n eel "),
        ("c.json", json.dumps(["cat", "dog, wild", "eel"])),
        ("c.json", json.dumps({"2": "eel", "0": "cat", "1": "dog, wild"})),
        ("c.json", json.dumps({"eel": 2, "cat": 0, "dog, wild": 1})),
    ],
)
def test_a_class_file_is_read_in_each_form(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_bytes(content.encode())
    assert read_class_file(tmp_path / name) == ("cat", "dog, wild", "eel")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.txt", b"cat", "1 class names; expected 2 to"),
        ("c.txt", b"", "expected 2 to"),
        ("c.txt", b"cat\n\ndog", "class 1 is ''; expected a name"),
        ("c.txt", b"\xff\xfe", "cannot be read"),
        ("c.json", b"{", "cannot be read"),
        ("c.json", b"3", "int class names"),
        ("c.json", b'{"0": "a", "2": "b"}', "names no class 1 among 2"),
        ("c.json", b'{"a": 1, "b": 2}', "names no class 0 among 2"),
        ("c.json", b'{"0": ["n1", "cat"], "1": ["n2", "dog"]}', r"class 0 is \['n1', 'cat'\]; expected a name"),
        ("c.json", b'["a", "\\ud800"]', "expected a name"),
    ],
)
def test_a_class_file_that_names_no_classes_is_one_clear_error(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_class_file(tmp_path / name)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_class_file(tmp_path / "absent.txt")


def test_a_class_file_names_the_classes_of_a_model_that_does_not(tmp_path: Path) -> None:
    file = tmp_path / "c.txt"
    file.write_text("cat\ndog\n")
    assert model_classes((), str(file), count=2, model="net") == ("cat", "dog")
    assert model_classes(("0", "1"), str(file), count=2, model="net") == ("cat", "dog")
    assert model_classes(("x", "y"), None, count=2, model="net") == ("x", "y")
    with pytest.raises(ConfigError, match="net names its classes itself"):
        model_classes(("x", "y"), str(file), count=2, model="net")
    with pytest.raises(ConfigError, match="names 2 classes, and net has 3"):
        model_classes((), str(file), count=3, model="net")

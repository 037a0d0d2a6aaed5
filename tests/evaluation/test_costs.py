"""Costs: where they come from, what is refused, and what predictions cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeproof.errors import ConfigError
from edgeproof.evaluation.costs import check_costs, choose_costs, cost_record, protected_costs, read_costs
from edgeproof.evaluation.metrics import image_costs, mean_interval

CLASSES = ("ant", "bee", "cat")
COSTS = np.array([[0.0, 1, 2], [4, 0, 8], [16, 32, 0]])


def test_each_side_of_a_protected_class_is_dear_and_being_right_is_free() -> None:
    miss = protected_costs([1], cost=10, side="miss", num_classes=3)
    alarm = protected_costs([1], cost=10, side="false-alarm", num_classes=3)
    both = protected_costs([1], cost=10, side="both", num_classes=3)
    assert miss.tolist() == [[0, 1, 1], [10, 0, 10], [1, 1, 0]]
    assert alarm.tolist() == miss.T.tolist()
    assert both.tolist() == np.maximum(miss, alarm).tolist()


def test_several_classes_are_protected_together() -> None:
    miss = protected_costs([0, 2], cost=5, side="miss", num_classes=3)
    assert miss.tolist() == [[0, 5, 5], [1, 0, 1], [5, 5, 0]]
    chosen = choose_costs(file=None, protect=["cat", "0", "ant"], cost=5, side="miss", classes=CLASSES)
    assert chosen is not None
    assert chosen.source == "protect cat, ant, cost 5, side miss"
    assert [list(row) for row in chosen.matrix] == miss.tolist()


def test_the_expected_cost_is_that_counted_by_hand() -> None:
    labels = np.array([0, 0, 1, 1, 2])
    predicted = np.array([0, 2, 0, 2, 1])
    record = cost_record(predicted, labels, COSTS)
    assert image_costs(predicted, labels, COSTS).tolist() == [0, 2, 4, 8, 32]
    assert (record.mean, record.total, record.count) == (46 / 5, 46, 5)
    assert record.per_class == (1, 6, 32)
    assert [(pair.true, pair.predicted, pair.count, pair.total) for pair in record.pairs] == [
        (2, 1, 1, 32), (1, 2, 1, 8), (1, 0, 1, 4), (0, 2, 1, 2),
    ]  # fmt: skip


def test_an_image_without_a_prediction_costs_the_dearest_mistake_of_its_class() -> None:
    record = cost_record(np.array([-1, 0]), np.array([1, 0]), COSTS)
    assert record.total == 8
    assert record.pairs == ()


def test_classes_without_images_have_no_cost_and_no_images_no_mean() -> None:
    assert cost_record(np.array([0]), np.array([0]), COSTS).per_class == (0, None, None)
    empty = np.empty(0, np.int64)
    assert cost_record(empty, empty, COSTS).mean is None


def test_an_expected_cost_is_at_most_the_dearest_mistake() -> None:
    record = cost_record(np.array([1, 1, 1, 2]), np.array([2, 2, 2, 2]), COSTS)
    assert record.mean == 24
    assert record.high == COSTS.max() == 32


def test_the_interval_of_a_mean_is_the_normal_one_and_absent_where_nothing_varies() -> None:
    stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(0).choice([0.0, 1, 10], 200, p=[0.8, 0.15, 0.05])
    expected = stats.norm.interval(0.95, loc=values.mean(), scale=stats.sem(values))
    assert mean_interval(values) == pytest.approx(expected)
    assert mean_interval(np.zeros(5)) is None
    assert mean_interval(np.array([0.0] * 9 + [1]))[0] == 0  # type: ignore[index]


def write(path: Path, content: Any) -> Path:
    if path.suffix == ".npy":
        np.save(path, np.array(content))
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("c.csv", "0,1,2\n4,0,8\n16,32,0\n"),
        ("c.csv", "ant, bee, cat\n0, 1, 2\n4, 0, 8\n16, 32, 0\n"),
        ("c.csv", "cat,ant,bee\n0,16,32\n2,0,1\n8,4,0\n"),
        ("c.json", COSTS.tolist()),
        ("c.json", {"classes": ["cat", "ant", "bee"], "costs": [[0, 16, 32], [2, 0, 1], [8, 4, 0]]}),
        ("c.npy", COSTS.tolist()),
    ],
)
def test_a_file_gives_the_matrix_in_the_order_of_the_classes(tmp_path: Path, name: str, content: Any) -> None:
    assert read_costs(write(tmp_path / name, content), classes=CLASSES).tolist() == COSTS.tolist()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.txt", "0", r"c.txt: costs are read from .csv, .json, .npy files"),
        ("c.csv", "0,1\n1,x\n", "no matrix of numbers.*'x'"),
        ("c.json", {"costs": [[0]]}, "no matrix of numbers.*classes"),
        ("c.csv", "ant,bee,dog\n0,1,2\n4,0,8\n16,32,0\n", "names the classes ant, bee, dog; expected ant, bee, cat"),
        ("c.csv", "0,1\n1,0\n", r"have shape \(2, 2\); expected \(3, 3\), a row per true class"),
        ("c.json", [[0, 1, 1], [1, 0, -2], [1, 1, 0]], "taking 'bee' for 'cat' costs -2; expected a finite number"),
        ("c.csv", "0,1,1\n1,0,1\n1,inf,0\n", "taking 'cat' for 'bee' costs inf"),
        ("c.npy", [[0, 1, 1], [1, 3, 1], [1, 1, 0]], "being right on 'bee' costs 3; expected 0"),
    ],
)  # fmt: skip
def test_costs_that_cannot_be_meant_are_refused_in_one_line(
    tmp_path: Path, name: str, content: Any, message: str
) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(ConfigError, match=message) as raised:
        choose_costs(file=str(path), protect=(), cost=None, side=None, classes=CLASSES)
    assert "\n" not in str(raised.value)


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no.csv cannot be read \(No such file"):
        read_costs(tmp_path / "no.csv", classes=CLASSES)


def test_what_was_asked_for_is_said_in_the_record() -> None:
    named = choose_costs(file=None, protect=["bee"], cost=None, side=None, classes=CLASSES)
    numbered = choose_costs(file=None, protect=["1"], cost=10, side="both", classes=CLASSES)
    assert named == numbered
    assert named is not None
    assert named.source == "protect bee, cost 10, side both"
    assert choose_costs(file=None, protect=(), cost=None, side=None, classes=CLASSES) is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"file": "c.csv", "protect": ["bee"]}, "both say what mistakes cost"),
        ({"cost": 5.0}, "belong to a protected class"),
        ({"protect": ["bee", "be"]}, r"protect: unknown class 'be' \(did you mean 'bee'\?\); known: ant, bee, cat"),
        ({"protect": ["bee"], "cost": -1.0}, "costs -1; expected a finite number from 0 on"),
    ],
)
def test_options_that_contradict_each_other_are_refused(given: dict[str, Any], message: str) -> None:
    nothing: dict[str, Any] = {"file": None, "protect": (), "cost": None, "side": None}
    with pytest.raises(ConfigError, match=message):
        choose_costs(**{**nothing, **given}, classes=CLASSES)


def test_a_cost_matrix_must_be_a_matrix() -> None:
    with pytest.raises(ConfigError, match=r"shape \(3,\)"):
        check_costs(np.zeros(3), classes=CLASSES, source="here")

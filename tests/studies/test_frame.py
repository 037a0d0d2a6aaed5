"""Rows, and the numbers that findings and tables are made of."""

from __future__ import annotations

from statistics import mean
from typing import Any

import numpy as np
import pytest

from edgeproof.errors import StudyError
from edgeproof.evaluation.metrics import Rate
from edgeproof.studies.frame import (
    across,
    counts,
    distinct,
    gains,
    mean_cell,
    percent,
    rate,
    saved,
    seed_means,
    table,
    values,
    where,
)


def row(seed: int, hits: int, *, total: int = 40, **more: Any) -> dict[str, Any]:
    return {"seed": seed, "clean": counts(Rate(hits, total)), **more}


def test_rows_are_chosen_by_all_the_values_that_are_asked_for() -> None:
    rows = [row(0, 1, form="fp32"), row(1, 2, form="fp32"), row(0, 3, form="int8"), row(0, 4)]
    assert where(rows, form="fp32", seed=1) == [rows[1]]
    assert where(rows, form=None) == []
    assert where(rows) == rows
    assert distinct(rows, "form") == ["fp32", "int8"]
    assert distinct([], "form") == []


def test_a_rate_comes_back_as_it_was_put_in_and_in_per_cent() -> None:
    assert rate(row(0, 10), "clean") == Rate(10, 40)
    assert percent("clean")(row(0, 10)) == 25
    assert percent("clean")(row(0, 0, total=0)) is None
    with pytest.raises(KeyError):
        percent("attacked")(row(0, 10))


def test_undefined_numbers_are_left_out_of_values_and_means() -> None:
    rows = [row(0, 10), row(0, 0, total=0), row(1, 0, total=0), row(2, 30)]
    assert values(rows, percent("clean")) == [25, 75]
    assert seed_means(rows, percent("clean")) == {0: 25, 2: 75}


def test_the_mean_of_a_seed_weighs_its_rows_the_same_whatever_their_counts() -> None:
    rows = [row(0, 1, total=2), row(1, 3, total=4), row(0, 900, total=1000)]
    assert seed_means(rows, percent("clean")) == {0: pytest.approx((50 + 90) / 2), 1: 75}


def test_seed_means_are_those_of_a_loop_by_hand_on_random_rows() -> None:
    random = np.random.default_rng(0)
    rows = [row(int(random.integers(5)), int(random.integers(41))) for _ in range(100)]
    by_hand = {
        seed: mean(100 * each["clean"]["hits"] / 40 for each in rows if each["seed"] == seed) for seed in range(5)
    }
    assert seed_means(rows, percent("clean")) == pytest.approx(by_hand)


def test_a_gain_is_after_minus_before_at_each_seed() -> None:
    assert gains({0: 10.0, 1: 20.0}, {1: 25.0, 0: 40.0}) == [30, 5]
    assert gains({}, {}) == []


@pytest.mark.parametrize("before, after", [({0: 1.0}, {0: 1.0, 3: 2.0}), ({0: 1.0, 3: 2.0}, {0: 1.0})])
def test_a_seed_on_one_side_of_a_comparison_only_is_an_error(before: dict[int, float], after: dict[int, float]) -> None:
    with pytest.raises(StudyError, match=r"seeds 3 were measured on one side of a comparison only; expected both"):
        gains(before, after)


def test_the_extreme_of_several_columns_is_taken_seed_by_seed() -> None:
    columns = [{0: 1.0, 1: 5.0}, {1: 4.0, 0: 3.0}]
    assert across(max, columns) == {0: 3, 1: 5}
    assert across(min, columns) == {0: 1, 1: 4}
    assert across(max, []) == {}
    with pytest.raises(StudyError, match="seeds 1 were measured on one side"):
        across(max, [{0: 1.0, 1: 5.0}, {0: 3.0}])


def test_saved_rows_have_no_more_than_they_should_and_are_rounded_where_asked() -> None:
    rows = [row(0, 1, entropy=0.123456789, errors=[0.11119, 0.2], labels=np.arange(3)), row(1, 2)]
    first, second = saved(rows, without=("labels",), digits={"entropy": 6, "errors": 2})
    assert first == {"seed": 0, "clean": {"hits": 1, "total": 40}, "entropy": 0.123457, "errors": [0.11, 0.2]}
    assert list(first) == ["seed", "clean", "entropy", "errors"]
    assert second == {"seed": 1, "clean": {"hits": 2, "total": 40}}
    assert rows[0]["entropy"] == 0.123456789


def test_a_mean_has_the_standard_deviation_over_seeds_only_where_there_are_several() -> None:
    several, one, none = mean_cell([1.0, 3.0]), mean_cell([2.0], digits=2), mean_cell([], missing="undefined")
    assert (several.text, several.detail) == ("2.0", f"± {2**0.5:.1f}")
    assert (one.text, one.detail) == ("2.00", "")
    assert (none.text, none.detail) == ("undefined", "")


def test_a_table_takes_texts_and_cells() -> None:
    found = table(("Name",), ("A", "B"), [("x", mean_cell([1.0]), "2")], grouped=True)
    assert [(column.title, column.numeric) for column in found.columns] == [("Name", False), ("A", True), ("B", True)]
    assert [cell.text for cell in found.rows[0]] == ["x", "1.0", "2"]
    assert found.grouped

"""VNN-LIB as it is written, and text that is not."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from edgeproof.attacks.properties import vnnlib
from edgeproof.attacks.properties.vnnlib import parse_vnnlib, read_vnnlib
from edgeproof.errors import DataError
from tests.attacks.properties.relu_networks import declarations, local_robustness

BOX = declarations(2, 3) + "(assert (>= X_0 -1)) (assert (<= X_0 1e1)) (assert (and (<= -2.5 X_1) (<= X_1 .5)))\n"


def test_untargeted_property_has_an_alternative_for_each_other_class() -> None:
    asked = parse_vnnlib(local_robustness(np.array([-1.5, 200.0]), np.array([2.0, 255.0]), label=1, outputs=3))
    (region,) = asked.regions
    assert (asked.inputs, asked.outputs) == (2, 3)
    assert (region.lower.tolist(), region.upper.tolist()) == ([-1.5, 200.0], [2.0, 255.0])
    assert region.weights.tolist() == [[[-1, 1, 0]], [[0, 1, -1]]]  # Y_1 - Y_0 <= 0, or Y_1 - Y_2 <= 0
    assert region.limits.tolist() == [[0], [0]]


def test_targeted_property_comments_and_bounds_either_way_round() -> None:
    (region,) = parse_vnnlib(f"; (assert\n{BOX}(assert (<= Y_0 Y_2)) ; the end").regions
    assert (region.lower.tolist(), region.upper.tolist()) == ([-1, -2.5], [10, 0.5])
    assert region.weights.tolist() == [[[1, 0, -1]]]


def test_sums_products_and_constants_become_one_linear_condition() -> None:
    (region,) = parse_vnnlib(BOX + "(assert (>= (+ (* 2 Y_0) (- Y_1 3) (* Y_2 -1.5)) (- Y_0)))").regions
    assert region.weights.tolist() == [[[-3, -1, 1.5]]]  # 2 a + b - 3 - 1.5 c >= -a
    assert region.limits.tolist() == [[-3]]


def test_alternatives_multiply_out_and_are_grouped_by_their_box() -> None:
    text = BOX + "(assert (or (and (<= X_0 0) (or (<= Y_0 1) (<= Y_1 2))) (and (>= X_0 0) (<= Y_2 3) (<= Y_0 Y_1))))"
    left, right = parse_vnnlib(text).regions
    assert (left.upper[0], right.lower[0]) == (0, 0)
    assert (left.limits.tolist(), right.limits.tolist()) == ([[1], [2]], [[3, 0]])


def test_point_breaks_a_property_without_tolerance() -> None:
    (region,) = parse_vnnlib(BOX + "(assert (<= Y_0 Y_2))").regions
    inside, tie = np.array([10.0, 0.5]), np.array([1.0, 0.0, 1.0])
    assert region.holds(inside, tie)
    assert not region.holds(inside, tie + np.array([1e-9, 0, 0]))
    assert not region.holds(inside + np.array([1e-9, 0]), tie)


def test_float32_bounds_lie_inside_the_decimal_ones() -> None:
    text = (
        declarations(2, 1) + "(assert (>= X_0 0.1)) (assert (<= X_0 0.7)) (assert (>= X_1 0.1)) (assert (<= X_1 0.1))"
    )
    (region,) = parse_vnnlib(text).regions
    low, high = region.representable()
    assert low[0] >= 0.1 > np.nextafter(low[0], np.float32(-1))
    assert high[0] <= 0.7 < np.nextafter(high[0], np.float32(1))
    assert low[1] == high[1] == np.float32(0.1)  # no float32 is 0.1


def test_gzip_is_read_and_a_bomb_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "p.vnnlib.gz"
    file.write_bytes(gzip.compress(BOX.encode()))
    assert read_vnnlib(file).inputs == 2
    (tmp_path / "cut.vnnlib.gz").write_bytes(file.read_bytes()[:-12])
    with pytest.raises(DataError, match="not a whole gzip file"):
        read_vnnlib(tmp_path / "cut.vnnlib.gz")
    monkeypatch.setattr(vnnlib, "MAX_BYTES", 100)
    with pytest.raises(DataError, match=r"p\.vnnlib\.gz: more than 100 bytes"):
        read_vnnlib(file)
    with pytest.raises(DataError, match="cannot be read"):
        read_vnnlib(tmp_path / "none.vnnlib")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("(assert (<= X_0 1)", "1 brackets are not closed; is the file cut short"),
        (f"{BOX})", r"a \) too many in line 7"),
        ("hello", "'hello' stands outside brackets in line 1"),
        ("(" * 40, "nested deeper than 32"),
        ("(vnnlib-version <2.0>)", "VNN-LIB 2.0; expected 1.0"),
        ("(check-sat)", r"\(check-sat ...\) is not covered; expected \(declare-const X_0 Real\)"),
        ("(declare-const Z_0 Real)", "is not covered"),
        (f"{BOX}(assert (< Y_0 Y_1))", r"\(< Y_0 Y_1 ...\) is not covered; expected and, or, <= or >="),
        (f"{BOX}(assert (<= Y_0 Y_7))", r"'Y_7' is neither a number nor declared \(did you mean 'Y_\d'\?\)"),
        (f"{BOX}(assert (<= Y_0 inf))", "'inf' is not a finite number"),
        (f"{BOX}(assert (<= (* Y_0 Y_1) 1))", "not covered; expected sums of numbers and variables times numbers"),
        (f"{BOX}(assert (<= (+ X_0 X_1) 1))", "a condition joins X_0, X_1; expected bounds on single inputs"),
        (f"{BOX}(assert (<= X_0 Y_1))", "a condition joins X_0, Y_1"),
        (declarations(2, 1) + "(assert (<= X_0 1))", r"X_0 has no lower or no upper bound \(nor have 1 others\)"),
        ("(declare-const X_1 Real)(declare-const Y_0 Real)", "declares 1 X_i; expected X_0, X_1, ... without a gap"),
        (
            BOX + "(assert (or (<= Y_0 1) (<= Y_1 1)))" * 20,
            "multiply out to 1048576 alternatives; expected at most 10000",
        ),
        (f"{BOX}(assert (and {'(or (<= Y_0 1) (<= Y_1 1))' * 20}))", "an assertion multiplies out to 1048576"),
    ],
)
def test_text_that_is_no_covered_property_is_refused(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_vnnlib(text)

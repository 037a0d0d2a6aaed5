"""How numbers and names are written."""

from __future__ import annotations

import math

import pytest

from edgeproof.evaluation.metrics import Rate
from edgeproof.reports import numbers


@pytest.mark.parametrize(("value", "text"), [(0.8734, "87.3 %"), (0.0, "0.0 %"), (1.0, "100.0 %"), (None, "undefined")])
def test_a_fraction_is_shown_in_percent(value: float | None, text: str) -> None:
    assert numbers.percent(value) == text


@pytest.mark.parametrize("value", [None, math.nan])
def test_an_undefined_relative_difference_is_called_undefined(value: float | None) -> None:
    assert numbers.relative(value) == "undefined"


def test_a_relative_difference_is_in_percent_already_and_has_a_true_minus_sign() -> None:
    assert numbers.relative(76.44) == "76.4 %"
    assert numbers.relative(-3.0) == "−3.0 %"


def test_minus_zero_has_no_sign() -> None:
    assert numbers.points(-0.04) == "0.0"
    assert numbers.plain(-0.0375) == "−0.037"
    assert numbers.plain(None) == "undefined"


def test_an_interval_is_shown_in_percent_and_is_empty_when_there_is_none() -> None:
    assert numbers.interval(Rate(471, 540)) == "84.1–89.8"
    assert numbers.interval(Rate(0, 0)) == ""


@pytest.mark.parametrize(
    ("value", "text"), [(12345.6, "12,300"), (987.6, "988"), (4.5678, "4.57"), (0.01234, "0.0123"), (0.0, "0")]
)
def test_a_throughput_has_three_significant_digits(value: float, text: str) -> None:
    assert numbers.per_second(value) == text


@pytest.mark.parametrize(("value", "text"), [(0.04212, "0.042"), (0.0004, "< 0.001"), (1.0, "1.000")])
def test_a_p_value_has_three_decimals(value: float, text: str) -> None:
    assert numbers.p_value(value) == text


def test_control_characters_and_overrides_become_visible_and_other_scripts_stay() -> None:
    assert numbers.visible("a\x00\x1b[31m\u202e\n\ud800\ufffe") == r"a\x00\x1b[31m\u202e\n\ud800\ufffe"
    assert numbers.visible("Katze 猫 قطة é") == "Katze 猫 قطة é"


def test_a_mapping_is_written_on_one_line_without_what_is_not_set() -> None:
    values = {"steps": 20, "seed": 0, "step_size": None, "eps": 0.0313725, "options": {}, "on": ("a", "b")}
    assert numbers.pairs(values) == "steps 20, seed 0, eps 0.03137, on a b"

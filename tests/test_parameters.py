from __future__ import annotations

from typing import Literal

import pytest

from edgeproof.errors import ConfigError
from edgeproof.plugins.parameters import parse_value, read_params
from edgeproof.plugins.registry import find


@pytest.mark.parametrize(
    ("text", "annotation", "value"),
    [
        ("8/255", float, 8 / 255),
        (3, float, 3.0),
        ("1e-3", float | None, 1e-3),
        ("none", float | None, None),
        (None, int | None, None),
        ("12", int, 12),
        ("true", bool, True),
        (False, bool, False),
        ("b", Literal["a", "b"], "b"),
        ("7", str, "7"),
        ("truck, ship", tuple[str, ...], ("truck", "ship")),
        ([0, "1"], tuple[int, ...], (0, 1)),
        (8, tuple[str, ...], ("8",)),
        (0.5, tuple[float, ...], (0.5,)),
        ("", tuple[float, ...], ()),
    ],
)
def test_a_value_is_read_by_its_annotation(text: object, annotation: object, value: object) -> None:
    assert parse_value(text, annotation, name="x") == value
    assert type(parse_value(text, annotation, name="x")) is type(value)


@pytest.mark.parametrize(
    ("text", "annotation", "expected"),
    [
        ("8//255", float, "a number such as 8/255 or 0.03"),
        (True, float, "a number such as 8/255 or 0.03"),
        ("1.5", int, "a whole number"),
        (2.0, int, "a whole number"),
        (True, int, "a whole number"),
        ("2", bool, "true or false"),
        (1, bool, "true or false"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_what_was_expected(
    text: object, annotation: object, expected: str
) -> None:
    with pytest.raises(ConfigError, match=rf"x = {text!r} is not accepted; expected {expected}"):
        parse_value(text, annotation, name="x")


def test_an_unknown_choice_names_the_nearest() -> None:
    with pytest.raises(
        ConfigError, match=r"x = 'ascend' is not known \(did you mean 'ascent'\?\); expected ascent, descent"
    ):
        parse_value("ascend", Literal["ascent", "descent"], name="x")


def test_a_parameter_without_a_default_must_be_given() -> None:
    with pytest.raises(ConfigError, match="attack 'fgsm' needs a value for 'eps'"):
        read_params(find("attack", "fgsm"), {})


@pytest.mark.parametrize("value", [5, None, "1,2", [1, 2, 3, 4]])
def test_a_tuple_of_a_fixed_length_takes_no_other(value: object) -> None:
    with pytest.raises(ConfigError, match=r"shape = .* is not accepted; expected 3 values"):
        parse_value(value, tuple[int, int, int], name="shape")

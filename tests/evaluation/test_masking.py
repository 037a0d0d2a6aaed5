"""Each indicator of masked gradients is reported where it is planted, and none for a healthy network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from edgeproof.evaluation.gap import with_threats
from edgeproof.evaluation.masking import indicators, masking, warnings
from edgeproof.evaluation.results import IndicatorRecord, SetRecord
from edgeproof.evaluation.scoring import Predictions, score
from tests.evaluation.test_gap import CLEAN, engine, predictions, set_record

HEALTHY = {
    "zero_gradients": 0.01, "non_finite_gradients": 0.0, "saturated_loss": 0.02, "budget_used": 0.99, "probabilities": 0.0,
    "random_outputs": 0.0, "temperature_gain": 0.03, "transfer_gain": -0.1, "query_gain": 0.02, "large_eps_accuracy": 0.0,
}  # fmt: skip
PLANTED = {
    "zero-gradients": {"zero_gradients": 0.4}, "non-finite-gradients": {"non_finite_gradients": 0.02},
    "saturated-loss": {"saturated_loss": 0.3}, "budget-unused": {"budget_used": 0.3}, "probabilities": {"probabilities": 1.0},
    "randomness": {"random_outputs": 0.9}, "temperature": {"temperature_gain": 0.5}, "transfer-stronger": {"transfer_gain": 0.3},
    "query-stronger": {"query_gain": 0.2}, "eps-sweep": {"large_eps_accuracy": 0.8},
}  # fmt: skip


def attacked(measured: Mapping[str, float], name: str = "pgd", *, steps: int | None = 10, **changes: Any) -> SetRecord:
    update = {"indicators": {**HEALTHY, **measured}, "params": {"steps": steps}}
    return set_record(name, **changes).model_copy(update=update)


def found(right: Mapping[str, list[int]], sets: list[SetRecord]) -> tuple[IndicatorRecord, ...]:
    """The records of one engine; a set's row says on which images it is right."""
    made = predictions({"clean": [1] * len(next(iter(right.values()))), **right})
    labels = made.labels.repeat(len(next(iter(right.values()))) // 6)
    made = Predictions(labels=labels, cells=made.cells)
    names = [set_.name for set_ in sets]
    cells = score(made, engines=["ort-int8"], sets=names, reference="ort-int8", classes=("a", "b", "c"))
    return masking(made, with_threats(cells, [engine()], sets), engines=[engine()], sets=sets, classes=3)


def reported(measured: Mapping[str, float], **changes: Any) -> list[IndicatorRecord]:
    return [each for each in found({"pgd": [0] * 6}, [CLEAN, attacked(measured, **changes)]) if each.reported]


def test_a_healthy_network_raises_none() -> None:
    assert reported({}) == []


@pytest.mark.parametrize("name", PLANTED)
def test_what_the_attack_stage_has_measured_is_reported(name: str) -> None:
    (record,) = reported(PLANTED[name])
    assert (record.name, record.measured) == (name, next(iter(PLANTED[name].values())))
    (text,) = warnings([record])
    assert f"{record.measured:.1%} for 'pgd'; docs/masking.md#{name}" in text


def test_every_indicator_is_planted_above_and_has_a_section() -> None:
    known = [each.name for each in indicators(chance=0.1)]
    assert set(known) == set(PLANTED)
    text = (Path(__file__).resolve().parents[2] / "docs" / "masking.md").read_text(encoding="utf-8")
    assert [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")] == known


def test_saturation_does_not_matter_to_an_attack_on_the_margin() -> None:
    margin = attacked({"saturated_loss": 0.9}).model_copy(update={"params": {"loss": "margin"}})
    assert not any(each.reported for each in found({"pgd": [0] * 6}, [CLEAN, margin]))


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("transfer-stronger", attacked({}, "other", sources=("bb",))),
        ("query-stronger", attacked({}, "other", access="queries")),
    ],
)
def test_white_box_that_is_significantly_weaker_than_another_set_is_reported(name: str, first: SetRecord) -> None:
    right = {"pgd": [1, 1, 1, 1, 0, 0] * 5, "other": [0] * 30}
    (record,) = [each for each in found(right, [CLEAN, attacked({}), first]) if each.reported]
    assert (record.name, record.measured) == (name, pytest.approx(2 / 3))
    assert "'other' against 'pgd' on ort-int8" in record.where
    swapped = {"pgd": right["other"], "other": right["pgd"]}
    assert not any(each.reported for each in found(swapped, [CLEAN, attacked({}), first]))


OTHER = attacked({}, "other", sources=("bb",))
SQUARE = attacked({}, "square", access="queries")


def test_white_box_attacks_of_a_budget_count_together_image_by_image() -> None:
    # The single step is weaker than Square on most images, and what it leaves PGD gets.
    right = {"fgsm": [1, 1, 1, 1, 0, 0] * 5, "pgd": [0] * 30, "square": [0, 0, 1, 0, 0, 0] * 5}
    sets = [CLEAN, attacked({}, "fgsm", steps=1), attacked({}), SQUARE]
    assert [each.name for each in found(right, sets) if each.reported] == []
    weaker = found({**right, "pgd": right["fgsm"]}, sets)
    assert [(each.name, each.measured) for each in weaker if each.reported] == [("query-stronger", pytest.approx(0.5))]


def test_a_single_step_that_is_weaker_than_queries_is_measured_but_not_reported() -> None:
    right = {"fgsm": [1, 1, 1, 1, 0, 0] * 5, "square": [0] * 30}
    (query,) = [
        each for each in found(right, [CLEAN, attacked({}, "fgsm", steps=1), SQUARE]) if each.name == "query-stronger"
    ]
    assert (query.reported, query.measured) == (False, pytest.approx(2 / 3))
    assert query.where.endswith("not reported, since the white-box attack has 1 step")


@pytest.mark.parametrize(("steps", "reported"), [(20, True), (None, True), (10, False)])
def test_a_transferred_attack_is_compared_with_white_box_of_as_many_steps(steps: int | None, reported: bool) -> None:
    right = {"pgd": [1, 1, 1, 1, 0, 0] * 5, "other": [0] * 30}
    moved = OTHER.model_copy(update={"params": {"steps": 10, "restarts": 2}})
    (transfer,) = [
        each for each in found(right, [CLEAN, attacked({}, steps=steps), moved]) if each.name == "transfer-stronger"
    ]
    assert (transfer.reported, transfer.measured) == (reported, pytest.approx(2 / 3))
    if not reported:
        assert transfer.where.endswith("since the white-box attack has 10 steps, a 20")


def test_white_box_that_is_weaker_by_chance_is_not_reported() -> None:
    right = {"pgd": [1, 0, 0, 0, 0, 0] * 2, "other": [0] * 12}
    assert not any(
        each.reported for each in found(right, [CLEAN, attacked({}), attacked({}, "other", sources=("bb",))])
    )


@pytest.mark.parametrize(
    ("eps", "sources", "told"), [(0.5, ("aa",), True), (0.4, ("aa",), False), (0.5, ("bb",), False)]
)
def test_accuracy_that_stays_where_every_image_can_be_grey_is_reported(
    eps: float, sources: tuple[str, ...], told: bool
) -> None:
    records = found({"pgd": [1] * 30}, [CLEAN, attacked({}, eps=eps, sources=sources)])
    assert [each.name for each in records if each.reported] == (["eps-sweep"] if told else [])


def test_controls_and_clean_images_are_not_judged() -> None:
    assert found({"pgd": [0] * 6}, [CLEAN]) == ()

"""What an attack knew of an engine, by hashes, and what that gained, counted here by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from edgeproof.evaluation.gap import measured_gaps, threat_to, worst_cases
from edgeproof.evaluation.results import EngineRecord, SetRecord
from edgeproof.evaluation.scoring import Predictions


def engine(name: str = "ort-int8", sha256: str = "aa", made_from: tuple[str, ...] = ()) -> EngineRecord:
    return EngineRecord(
        name=name, backend="onnxruntime", precision="int8", device="cpu", provider="CPU", path="m.onnx", sha256=sha256, size=1,
        versions={}, note="", options={}, throughput=None, made_from=made_from,
    )  # fmt: skip


def set_record(
    name: str, *, access: str = "gradients", sources: tuple[str, ...] = ("aa",), eps: float = 0.1, norm: str = "linf"
) -> SetRecord:
    return SetRecord(
        name=name, kind="adversarial", attack="a", norm=norm, eps=eps, pixels="float", params={}, source="a name", count=6,
        sha256="", indicators={}, access=access, source_sha256=sources,
    )  # fmt: skip


CLEAN = set_record("clean").model_copy(update={"kind": "clean"})


@pytest.mark.parametrize(
    ("set_", "expected"),
    [
        (set_record("s"), "white-box"),
        (set_record("s", sources=("bb", "aa")), "white-box"),
        (set_record("s", sources=("bb",)), "transferred"),
        (set_record("s", access="queries"), "query"),
        (set_record("s", access="queries", sources=("bb",)), "transferred"),
        (set_record("s", access="data"), "transferred"),
        (set_record("s", access="none"), "control"),
        (set_record("s", sources=()), "unknown"),
        (set_record("s", access=""), "unknown"),
        (CLEAN, None),
    ],
)
def test_what_an_attack_knew_follows_from_the_hashes(set_: SetRecord, expected: str | None) -> None:
    assert threat_to(engine(), set_) == expected


@pytest.mark.parametrize(
    ("access", "sources", "expected"),
    [
        ("gradients", ("cc",), "checkpoint"),
        ("gradients", ("bb", "ff"), "checkpoint"),
        ("gradients", ("bb",), "transferred"),
        ("gradients", ("aa", "cc"), "white-box"),
        ("queries", ("cc",), "transferred"),
    ],
)
def test_an_attack_on_what_a_build_was_made_from_is_told_from_one_on_another_network(
    access: str, sources: tuple[str, ...], expected: str
) -> None:
    made = engine(made_from=("cc", "ff"))
    assert threat_to(made, set_record("s", access=access, sources=sources)) == expected


def predictions(right: dict[str, list[int]]) -> Predictions:
    """Six images; where a set has 1 the engine is right."""
    labels = np.zeros(6, np.int64)
    return Predictions(labels=labels, cells={("ort-int8", name): 1 - np.array(row) for name, row in right.items()})


RIGHT = {"moved": [1, 1, 1, 1, 0, 0], "own": [1, 0, 0, 0, 0, 1], "other eps": [0] * 6, "control": [0] * 6}
SETS = [
    set_record("own"), set_record("moved", sources=("bb",)), set_record("other eps", eps=0.2), set_record("control", access="none"),
]  # fmt: skip


def test_worst_counts_the_images_that_are_right_under_every_attack_of_the_budget() -> None:
    (found,) = worst_cases(predictions(RIGHT), engines=[engine()], sets=[CLEAN, *SETS])
    assert found.sets == ("own", "moved")
    assert (found.accuracy.hits, found.accuracy.total) == (1, 6)


def test_budgets_and_norms_are_kept_apart() -> None:
    sets = [set_record("own"), set_record("moved", norm="l2", sources=("bb",))]
    assert worst_cases(predictions(RIGHT), engines=[engine()], sets=sets) == ()
    assert measured_gaps(predictions(RIGHT), engines=[engine()], sets=sets) == ()


def test_gap_is_paired_and_goes_from_what_knows_less_to_what_knows_more() -> None:
    (found,) = measured_gaps(predictions(RIGHT), engines=[engine()], sets=[CLEAN, *SETS])
    assert (found.first, found.first_threat, found.second, found.second_threat) == (
        "moved", "transferred", "own", "white-box",
    )  # fmt: skip
    assert (found.only_first_right, found.only_second_right) == (3, 1)
    assert found.difference == pytest.approx(-2 / 6)
    assert found.low < found.difference < found.high
    assert found.p_value == pytest.approx(stats.binomtest(1, 4).pvalue)


def test_sets_that_know_the_same_or_do_not_say_make_no_gap() -> None:
    sets = [set_record("own"), set_record("moved"), set_record("other eps", sources=())]
    assert measured_gaps(predictions(RIGHT), engines=[engine()], sets=sets) == ()

"""Gates: how they are written, what they are measured on, and when they hold."""

from __future__ import annotations

import numpy as np
import pytest

from edgeproof.errors import ConfigError
from edgeproof.evaluation.costs import protected_costs
from edgeproof.evaluation.gates import METRICS, Gate, bind_gates, idle_gates, judge, parse_gates
from edgeproof.evaluation.results import CellRecord, EngineRecord, GateRecord, SetRecord
from edgeproof.evaluation.scoring import Predictions, score
from edgeproof.types import Array

CLASSES = ("ant", "bee", "cat", "dog")
ENGINES = {"ort-fp32": "fp32", "ort-int8-trt": "int8", "ort-int8-cpu": "int8"}
SETS = ("clean", "fgsm 8/255", "pgd-linf 8/255", "pgd-linf 16/255", "noise 16/255")
LABELS = np.arange(100) % 3  # no dogs


def set_record(name: str) -> SetRecord:
    attack = name.split()[0]
    clean = name == "clean"
    return SetRecord(
        name=name, kind="clean" if clean else "adversarial", attack=None if clean else attack, norm="linf", eps=0.1,
        pixels="float", params={}, source="m", count=100, sha256="", indicators={},
    )  # fmt: skip


def cells(right: dict[tuple[str, str], int], *, costs: Array | None = None) -> tuple[CellRecord, ...]:
    """The first `right` images are classified rightly, the rest wrongly; 90 where nothing is said."""
    made = {}
    for engine in ENGINES:
        for name in SETS:
            hits = right.get((engine, name), 90)
            made[engine, name] = np.where(np.arange(100) < hits, LABELS, (LABELS + 1) % 3)
    return score(
        Predictions(labels=LABELS, cells=made), engines=list(ENGINES), sets=SETS, reference="ort-fp32", classes=CLASSES,
        costs=costs,
    )  # fmt: skip


RIGHT = {
    ("ort-fp32", "pgd-linf 16/255"): 40,
    ("ort-fp32", "fgsm 8/255"): 60,
    ("ort-int8-trt", "clean"): 88,
    ("ort-int8-trt", "pgd-linf 16/255"): 35,
    ("ort-int8-trt", "fgsm 8/255"): 50,
    ("ort-int8-cpu", "noise 16/255"): 5,
}


def bound(*gates: Gate) -> tuple[Gate, ...]:
    records = [set_record(name) for name in SETS]
    return bind_gates(gates, engines=ENGINES, reference="ort-fp32", sets=records, classes=CLASSES)


def outcome(*, fail_under: tuple[str, ...] = (), max_drop: tuple[str, ...] = ()) -> tuple[GateRecord, ...]:
    return judge(bound(*parse_gates(fail_under, max_drop)), cells(RIGHT), reference="ort-fp32")


def test_robust_accuracy_is_that_of_the_worst_set_but_noise() -> None:
    records = outcome(fail_under=("robust_accuracy=0.4",))
    assert [(r.engine, r.set, r.measured, r.passed) for r in records] == [
        ("ort-fp32", "pgd-linf 16/255", 0.40, True),
        ("ort-int8-trt", "pgd-linf 16/255", 0.35, False),
        ("ort-int8-cpu", "fgsm 8/255", 0.90, True),  # the first of equals
    ]


def test_a_set_is_chosen_by_its_name_or_its_attack() -> None:
    (by_name,) = outcome(fail_under=("ort-fp32:robust_accuracy[pgd-linf 8/255]=0.9",))
    (by_attack,) = outcome(fail_under=("ort-fp32:robust_accuracy[fgsm]=0.9",))
    (noise,) = outcome(fail_under=("ort-int8-cpu:robust_accuracy[noise]=0.9",))
    assert [(r.set, r.measured) for r in (by_name, by_attack, noise)] == [
        ("pgd-linf 8/255", 0.9), ("fgsm 8/255", 0.6), ("noise 16/255", 0.05),
    ]  # fmt: skip


def test_a_precision_chooses_all_its_engines() -> None:
    assert [r.engine for r in outcome(fail_under=("int8:clean_accuracy=0.5",))] == ["ort-int8-trt", "ort-int8-cpu"]


def test_a_drop_is_counted_from_the_reference_on_the_same_set_and_the_largest_counts() -> None:
    # PGD: 0.40 to 0.35; FGSM: 0.60 to 0.50.
    (record,) = outcome(max_drop=("ort-int8-trt:robust_accuracy=0.05",))
    assert (record.set, record.passed) == ("fgsm 8/255", False)
    assert record.measured == pytest.approx(0.10)


def test_a_drop_of_exactly_the_limit_holds() -> None:
    assert 0.90 - 0.88 > 0.02  # in floating point
    records = outcome(max_drop=("int8:clean_accuracy=0.02",))
    assert [r.passed for r in records] == [True, True]


def test_the_reference_is_left_out_of_drops_and_agreement() -> None:
    assert [r.engine for r in outcome(max_drop=("clean_accuracy=0.1",))] == ["ort-int8-trt", "ort-int8-cpu"]
    assert [r.engine for r in outcome(fail_under=("agreement=0.9",))] == ["ort-int8-trt", "ort-int8-cpu"]


def test_a_class_is_chosen_by_its_name_or_number() -> None:
    by_name, by_number = (outcome(fail_under=(f"ort-fp32:robust_accuracy@{label}=0.4",))[0] for label in ("bee", "1"))
    assert (by_name.measured, by_name.count) == (by_number.measured, by_number.count)
    assert by_name.count == 33
    assert "robust_accuracy of bee" in by_name.message


def test_the_worst_class_is_measured_and_absent_ones_do_not_count() -> None:
    (record,) = outcome(fail_under=("ort-fp32:worst_class_clean_accuracy=0.9",))
    assert record.measured == pytest.approx(30 / 34)


def test_what_cannot_be_measured_does_not_pass() -> None:
    (record,) = outcome(fail_under=("ort-fp32:clean_accuracy@dog=0.0",))
    assert (record.measured, record.passed, record.count) == (None, False, 0)
    assert "cannot be measured" in record.message


def test_a_message_says_measured_interval_limit_and_count() -> None:
    (record,) = outcome(fail_under=("ort-int8-trt:clean_accuracy=0.9",))
    assert record.text == "fail-under ort-int8-trt:clean_accuracy=0.9"
    assert record.message.startswith("clean_accuracy of ort-int8-trt on 'clean' is 0.8800 [0.8")
    assert record.message.endswith("limit 0.9, n = 100")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("robust_accuracy", r"not understood; expected \[ENGINE:\]METRIC"),
        ("robust_acc=0.4", r"unknown metric 'robust_acc' \(did you mean 'robust_accuracy'\?\)"),
        ("clean_accuracy=40", r"40 is no fraction; expected a value from 0 to 1; did you mean 0.4\?"),
        ("clean_accuracy=-1", "-1 is no fraction"),
        ("clean_accuracy=high", "'high' is not a number"),
        ("agreement@bee=0.9", "agreement has no value per class"),
        ("worst_class_robust_accuracy@bee=0.9", "has no value per class"),
        ("clean_accuracy[fgsm]=0.9", r"is measured on the clean images; leave out \[fgsm\]"),
    ],
)
def test_a_gate_that_is_written_wrongly_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_gates((text,), ())


def test_agreement_has_no_drop() -> None:
    with pytest.raises(ConfigError, match="already relative to the reference"):
        parse_gates((), ("agreement=0.1",))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ort-fp33:clean_accuracy=0.9", r"unknown engine 'ort-fp33' \(did you mean 'ort-fp32'\?\)"),
        ("robust_accuracy[pgd]=0.9", "unknown set 'pgd'"),
        ("clean_accuracy@be=0.9", r"unknown class 'be' \(did you mean 'bee'\?\); known: ant, bee, cat, dog"),
        ("clean_accuracy@4=0.9", "unknown class '4'"),
        ("ort-fp32:agreement=0.9", "would compare the reference 'ort-fp32' with itself"),
    ],
)
def test_a_name_that_is_not_there_is_refused_with_the_nearest(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        bound(*parse_gates((text,), ()))


def test_robust_accuracy_without_an_attack_is_refused() -> None:
    gates = parse_gates(("robust_accuracy=0.4",), ())
    records = [set_record("clean"), set_record("noise 16/255")]
    with pytest.raises(ConfigError, match="no adversarial set is given"):
        bind_gates(gates, engines=ENGINES, reference="ort-fp32", sets=records, classes=CLASSES)


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_can_be_gated(metric: str) -> None:
    records = outcome(fail_under=(f"{metric}=0",))
    assert records
    assert all(record.passed and record.measured is not None for record in records)


def cost_outcome(*texts: str) -> tuple[GateRecord, ...]:
    """Missing a bee costs 10, every other mistake 1; images are ant, bee, cat in turn and the first ones are right."""
    costs = protected_costs([1], cost=10, side="miss", num_classes=4)
    return judge(bound(*parse_gates((), (), texts)), cells(RIGHT, costs=costs), reference="ort-fp32")


def test_the_expected_cost_is_limited_where_it_is_highest_over_the_attacks() -> None:
    # Of images 40 to 99, 20 are bees: 20 * 10 + 40. Of the last 10, images 90 to 99, three: 3 * 10 + 7.
    fp32, trt, cpu = cost_outcome("robust_cost=2.4")
    assert (fp32.set, fp32.measured, fp32.passed) == ("pgd-linf 16/255", 2.4, True)
    assert (trt.set, trt.passed) == ("pgd-linf 16/255", False)
    assert (cpu.measured, cpu.count) == (0.37, 100)
    (clean,) = cost_outcome("ort-fp32:clean_cost=0.36")
    assert (clean.measured, clean.passed) == (0.37, False)
    assert clean.message.endswith("is 0.3700 an image, limit 0.36, n = 100")


def test_the_cost_of_a_protected_class_is_the_mean_over_its_images() -> None:
    (bees,) = cost_outcome("ort-fp32:robust_cost[pgd-linf 16/255]@bee=6")
    assert (bees.measured, bees.count, bees.passed) == (pytest.approx(200 / 33), 33, False)
    (dogs,) = cost_outcome("ort-fp32:clean_cost@dog=100")
    assert not dogs.passed
    assert "cannot be measured" in dogs.message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("robust_accuracy=1", "unknown metric 'robust_accuracy'.*known: clean_cost, robust_cost"),
        ("clean_cost=-1", "-1 is no cost; expected a number from 0 on"),
        ("clean_cost[fgsm]=1", "is measured on the clean images"),
    ],
)
def test_a_cost_gate_that_cannot_be_meant_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_gates((), (), (text,))


def test_a_message_has_what_the_attack_knew() -> None:
    known = [each.model_copy(update={"threat": "checkpoint"}) for each in cells(RIGHT)]
    (record,) = judge(bound(*parse_gates(("ort-int8-trt:robust_accuracy=0.4",), ())), known, reference="ort-fp32")
    assert record.threat == "checkpoint"
    assert "on 'pgd-linf 16/255' (made on its checkpoint, not on this build) is 0.3500" in record.message


def engine(name: str, sha256: str) -> EngineRecord:
    return EngineRecord(
        name=name, backend="onnxruntime", precision=ENGINES[name], device="cpu", provider="CPU", path="m.onnx", sha256=sha256,
        size=1, versions={}, note="", options={}, throughput=None,
    )  # fmt: skip


def idle(
    *,
    fail_under: tuple[str, ...] = (),
    max_drop: tuple[str, ...] = (),
    right: dict[tuple[str, str], int] = RIGHT,
    same: bool = False,
) -> list[str]:
    engines = [engine(name, "same" if same else name) for name in ENGINES]
    engines = [each.model_copy(update={"precision": "fp32"}) if same else each for each in engines]
    gates = bound(*parse_gates(fail_under, max_drop))
    return list(idle_gates(gates, cells(right), engines=engines, reference="ort-fp32"))


def test_limits_that_can_fail_raise_no_warning() -> None:
    assert idle(fail_under=("robust_accuracy=0.4", "agreement=0.9"), max_drop=("robust_accuracy=0.1",)) == []


def test_a_drop_from_a_reference_at_0_percent_is_a_warning() -> None:
    lost = {**RIGHT, ("ort-fp32", "pgd-linf 16/255"): 0}
    (text,) = idle(max_drop=("robust_accuracy=0.1",), right=lost)
    assert (
        "'max-drop robust_accuracy=0.1' cannot fail on 'pgd-linf 16/255': the reference ort-fp32 has 0 % there" in text
    )
    assert idle(fail_under=("robust_accuracy=0.1",), right=lost) == []


def test_an_engine_against_itself_under_another_name_is_a_warning() -> None:
    texts = idle(fail_under=("ort-int8-cpu:agreement=0.9",), max_drop=("ort-int8-trt:clean_accuracy=0.1",), same=True)
    assert ["the same file as the reference ort-fp32" in text for text in texts] == [True, True]


@pytest.mark.parametrize("given", [{"fail_under": ("clean_accuracy=0",)}, {"max_drop": ("clean_accuracy=1",)}])
def test_a_limit_that_every_value_meets_is_a_warning(given: dict[str, tuple[str, ...]]) -> None:
    (text,) = idle(**given)
    assert "every value holds" in text

"""The study of protected classes: its trainings, its effects and its tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgeproof.data.arrays import write_npz
from edgeproof.errors import ConfigError, StudyError
from edgeproof.evaluation.costs import protected_costs
from edgeproof.evaluation.weights import LayerRecord
from edgeproof.reports.tables import Table
from edgeproof.runs import Run
from edgeproof.studies.frame import Row
from edgeproof.studies.protected import findings, report
from edgeproof.studies.protected.findings import (
    INT8_ENGINE,
    all_classes,
    confusion_columns,
    gain,
    protected_class,
    read_indicators,
    read_scores,
    verdicts,
)
from edgeproof.studies.protected.measure import choose_images
from edgeproof.studies.protected.published import PUBLISHED, published_sections
from edgeproof.studies.protected.rows import ROWS
from edgeproof.studies.verdicts import Verdict
from tests.studies.planning import jobs_of, planned

LABELS = np.repeat(np.arange(3), (20, 10, 10))
TOTALS = np.array([20, 10, 10])


def score(
    row: str, *, wrong: int = 0, seed: int = 0, column: str = "pgd", protected: int = 0, **more: Any
) -> dict[str, Any]:
    """The first `wrong` images of class 0, which is protected, are taken for class 2; all others are correct."""
    predicted = np.where(np.arange(40) < wrong, 2, LABELS)
    confusion = np.zeros((3, 3), np.int64)
    np.add.at(confusion, (LABELS, predicted), 1)
    return {
        "row": row, "seed": seed, "protected": protected, "engine": "torch-fp32", "set": column,
        **confusion_columns(confusion, TOTALS, protected=protected, cost=10.0), "labels": LABELS, "predicted": predicted, **more,
    }  # fmt: skip


def layer(
    row: str,
    *,
    seed: int = 0,
    protected: int = 0,
    hoyer: float | None = 0.5,
    kurtosis: float | None = 1.0,
    largest: float = 1.0,
) -> dict[str, Any]:
    record = LayerRecord(
        layer="conv1", tensor="0.weight", count=150, kurtosis=kurtosis, hoyer=hoyer, near_zero=0.1, max_abs=largest,
        max_over_median=3.0, penalty=2.0,
    )  # fmt: skip
    return {
        "row": row, "seed": seed, "protected": protected, "int8_sqnr_db": 40.0 + seed, "layer": record.model_dump(),
        "weight": np.zeros((1, 1, 2, 2)), "epochs": [record],
    }  # fmt: skip


def judged(scores: Sequence[Row], layers: Sequence[Row] = ()) -> dict[str, Verdict]:
    return {verdict.claim: verdict for verdict in verdicts(scores, layers)}


def text(table: Table) -> list[list[str]]:
    return [[cell.text for cell in each] for each in table.rows]


def test_every_comparison_is_between_trainings_of_as_many_epochs_from_the_same_weights() -> None:
    for first, second in (
        ("adv-continued", "csa-both"),
        ("adv-continued", "csa-miss"),
        ("normal-continued", "cse"),
        ("sparse-only", "cse"),
        ("l2-conv1", "cse"),
    ):
        assert ROWS[first].start == ROWS[second].start
    trainings = {name: job.config for name, job in jobs_of("protected").items() if job.stage == "train"}
    assert {config["epochs"] for config in trainings.values()} == {4}
    assert trainings["csa-miss-k8-s0"]["start_from"] == trainings["adv-continued-s0"]["start_from"] == "{adv-s0}"
    assert trainings["csa-miss-k8-s0"]["objective_params"]["side"] == "miss"


def test_what_does_not_know_the_protected_class_is_trained_once() -> None:
    names = [name for name, job in jobs_of("protected", protect="3,8").items() if job.stage == "train"]
    assert names.count("adv-s0") == 1
    assert {"cse-k3-s0", "cse-k8-s0"} <= set(names)
    assert len(names) == len(set(names))


def test_rows_that_cannot_be_meant_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"unknown row 'cs' \(did you mean 'cse'\?\)"):
        planned("protected", rows="normal,cs")
    with pytest.raises(ConfigError, match="'adv-continued' starts from 'adv', which is left out"):
        planned("protected", rows="normal,adv-continued")
    with pytest.raises(ConfigError, match="'normal' is left out"):
        planned("protected", rows=())


def test_the_images_are_drawn_by_seed_and_more_of_them_are_of_the_protected_class(tmp_path: Path) -> None:
    config = {"data": "digits", "protect": [8], "protected_images": 30, "other_images": 5}
    drawn = []
    for seed in (0, 1):
        with Run.start("job", "images", config={**config, "seed": seed}, out=tmp_path / str(seed)) as out:
            choose_images(out.config, out)
        drawn.append(np.load(tmp_path / str(seed) / "images.npz"))
    assert np.bincount(drawn[0]["y_test"]).tolist() == [5] * 8 + [30, 5]
    assert drawn[0]["x_test"].shape == (75, 1, 32, 32)
    assert not np.array_equal(drawn[0]["x_test"], drawn[1]["x_test"])


def test_accuracy_weighs_every_class_the_same_and_cost_and_alarms_are_those_counted_by_hand() -> None:
    each = score("cse", wrong=5)
    assert (protected_class(each), all_classes(each)) == (75, pytest.approx(100 * (0.75 + 1 + 1) / 3))
    assert (each["false_alarms"], each["false_alarm_percent"]) == (0, 0)
    assert each["expected_cost"] == pytest.approx(10 * 0.25 / 3)
    assert each["class_hits"] == [15, 10, 10]
    alarmed = score("cse", wrong=5, protected=2)
    assert (alarmed["false_alarms"], alarmed["false_alarm_percent"]) == (5, pytest.approx(100 * 0.25 / 2))
    assert alarmed["expected_cost"] == pytest.approx(10 * 0.25 / 3)
    assert protected_costs([0], cost=10, side="both", num_classes=3).max() == 10


def test_an_image_without_a_prediction_costs_as_much_as_the_worst_mistake() -> None:
    confusion = np.diag([10, 10, 10])
    found = confusion_columns(confusion, TOTALS, protected=0, cost=10.0)
    assert found["expected_cost"] == pytest.approx(10 * 0.5 / 3)
    assert found["class_hits"] == [10, 10, 10]
    assert found["class_totals"] == [20, 10, 10]


def test_accuracy_and_cost_are_scikit_learns_balanced_accuracy_and_a_weighted_confusion() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    random = np.random.default_rng(3)
    predicted = random.integers(0, 3, 40)
    confusion = metrics.confusion_matrix(LABELS, predicted)
    found = {**confusion_columns(confusion, TOTALS, protected=1, cost=7.0), "protected": 1}
    assert all_classes(found) == pytest.approx(100 * metrics.balanced_accuracy_score(LABELS, predicted))
    assert protected_class(found) == pytest.approx(
        100 * metrics.recall_score(LABELS, predicted, labels=[1], average=None)[0]
    )
    costs = np.where((LABELS == 1) | (predicted == 1), 7.0, 1.0) * (predicted != LABELS)
    assert found["expected_cost"] == pytest.approx(np.mean([costs[label == LABELS].mean() for label in range(3)]))


def test_with_one_seed_a_gain_is_paired_over_the_images() -> None:
    scores = [score("a", wrong=8), score("b", wrong=2)]
    effect = gain(scores, "a", "b", "pgd", protected_class)
    # 6 of 20 images gained: mean 0.3, variance 0.21
    half = 100 * 1.959964 * (0.21 / 20) ** 0.5
    assert (effect.value, effect.low, effect.high) == pytest.approx((30, 30 - half, 30 + half))
    overall = gain(scores, "a", "b", "pgd", all_classes)
    assert (overall.value, overall.low) == pytest.approx((10, 10 - half / 3))
    assert "within one seed" in effect.method


def test_a_paired_interval_is_the_normal_one_of_scipy_on_the_differences() -> None:
    stats = pytest.importorskip("scipy.stats")
    first, second = score("a", wrong=8), score("b", wrong=3)
    mine = LABELS == 0
    gained = 100.0 * ((second["predicted"] == LABELS).astype(float) - (first["predicted"] == LABELS))[mine]
    low, high = stats.norm.interval(0.95, loc=gained.mean(), scale=gained.std() / np.sqrt(len(gained)))
    effect = gain([first, second], "a", "b", "pgd", protected_class)
    assert (effect.low, effect.high) == pytest.approx((low, high))


def test_a_paired_interval_does_not_leave_what_a_difference_can_be() -> None:
    effect = gain([score("a", wrong=20), score("b", wrong=1)], "a", "b", "pgd", protected_class)
    assert (effect.value, effect.high) == (95, 100)
    equal = gain([score("a", wrong=4), score("b", wrong=4)], "a", "b", "pgd", protected_class)
    assert (equal.value, equal.low, equal.high) == (0, 0, 0)


def test_with_several_seeds_a_gain_is_over_seeds() -> None:
    stats = pytest.importorskip("scipy.stats")
    found = [
        score(row, wrong=wrong, seed=seed) for row, wrong, seed in (("a", 8, 0), ("b", 2, 0), ("a", 6, 1), ("b", 4, 1))
    ]
    effect = gain(found, "a", "b", "pgd", protected_class)
    assert effect.values == (30, 10)
    low, high = stats.t.interval(0.95, 1, loc=20, scale=stats.sem([30, 10]))
    assert (effect.low, effect.high) == pytest.approx((low, high))


def test_protected_classes_are_averaged_within_a_seed() -> None:
    pytest.importorskip("scipy")
    found = [
        score(row, wrong=wrong, seed=seed, protected=label)
        for seed in (0, 1)
        for label in (0, 1)
        for row, wrong in (("a", 8), ("b", 2 + 2 * seed))
    ]
    # Class 1 is always correct, class 0 gains 30 and 20 points.
    assert gain(found, "a", "b", "pgd", protected_class).values == pytest.approx((15, 10))


def test_a_row_that_lacks_a_seed_is_an_error() -> None:
    with pytest.raises(StudyError, match="seeds 1 were measured on one side"):
        gain([score("a"), score("a", seed=1), score("b")], "a", "b", "pgd", all_classes)


@pytest.mark.parametrize("after, outcome", [((2, 2, 3), "held"), ((14, 14, 15), "not held"), ((2, 8, 14), "undecided")])
@pytest.mark.parametrize(
    "second", ["csa-both", "csa-miss", "csa-false-alarm", "pgd-at", "trades", "cfa", "dafa", "worst-class"]
)
def test_gains_of_the_protected_class_are_over_adversarial_training_of_as_many_epochs(
    second: str, after: tuple[int, ...], outcome: str
) -> None:
    pytest.importorskip("scipy")
    scores = [score("adv-continued", wrong=8, seed=seed) for seed in range(3)]
    scores += [score(second, wrong=wrong, seed=seed) for seed, wrong in enumerate(after)]
    found = [
        verdict for claim, verdict in judged(scores).items() if claim.startswith("PGD accuracy of the protected class")
    ]
    assert [verdict.outcome for verdict in found] == [outcome]
    assert found[0].effect.values == pytest.approx([100 * (8 - wrong) / 20 for wrong in after])


def test_misses_only_may_cost_two_points_of_all_classes() -> None:
    pytest.importorskip("scipy")
    claim = "Misses only cost less than 2 points of all classes' PGD accuracy."
    for wrong, outcome in ((5, "held"), (8, "not held")):
        scores = [score("adv-continued", wrong=4, seed=seed) for seed in range(3)]
        scores += [score("csa-miss", wrong=wrong, seed=seed) for seed in range(3)]
        verdict = judged(scores)[claim]
        assert (verdict.outcome, verdict.threshold) == (outcome, -2.0)
        assert verdict.effect.value == pytest.approx(-100 * (wrong - 4) / 20 / 3)


@pytest.mark.parametrize(
    "claim, first, second",
    [
        ("CSE beats plain training of as many epochs under PGD, all classes.", "normal-continued", "cse"),
        ("CSE beats it on the protected class too.", "normal-continued", "cse"),
        ("CSE beats sparsity of conv1 alone under PGD, protected class.", "sparse-only", "cse"),
        ("CSE beats cost plus weight decay of conv1 under PGD, all classes.", "l2-conv1", "cse"),
        ("Cost alone, without penalty, raises PGD accuracy of the protected class.", "normal-continued", "cost-only"),
        ("Misses only raise PGD accuracy of the protected class over both sides.", "csa-both", "csa-miss"),
    ],
)
def test_each_claim_has_its_direction_and_stands_only_where_both_were_trained(
    claim: str, first: str, second: str
) -> None:
    pytest.importorskip("scipy")
    for wrong, other, outcome in ((8, 2, "held"), (2, 8, "not held")):
        scores = [
            score(row, wrong=count, seed=seed) for seed in range(3) for row, count in ((first, wrong), (second, other))
        ]
        for row in ("normal", "cse") if second == "cse" else ():  # one claim about CSE is about clean images
            scores += [
                score(row, column="clean", seed=seed, engine=engine)
                for seed in range(3)
                for engine in ("torch-fp32", INT8_ENGINE)
            ]
        layers = [layer(row, seed=seed) for row in (first, second) for seed in range(3)]
        assert judged(scores, layers)[claim].outcome == outcome
    assert claim not in judged([score(first, seed=seed) for seed in range(3)])


def test_what_int8_costs_is_compared_between_cse_and_the_row_normal() -> None:
    pytest.importorskip("scipy")
    lost = {"normal": 2, "cse": 8}
    scores = [
        score(row, column="clean", seed=seed, engine=engine, wrong=wrong if engine == INT8_ENGINE else 0)
        for row, wrong in lost.items()
        for engine in ("torch-fp32", INT8_ENGINE)
        for seed in range(3)
    ]
    verdict = judged(scores)["INT8 (trt) costs CSE more clean accuracy than it costs the row normal."]
    assert (verdict.outcome, verdict.effect.value) == ("held", pytest.approx(100 * (8 - 2) / 20 / 3))


def test_shapes_are_compared_training_by_training_and_then_averaged_by_seed() -> None:
    pytest.importorskip("scipy")
    layers = [layer("normal", seed=seed, protected=label, hoyer=0.2) for seed in (0, 1) for label in (0, 1)]
    layers += [
        layer("adv", seed=seed, protected=label, hoyer=0.3 + 0.1 * label + 0.01 * seed)
        for seed in (0, 1)
        for label in (0, 1)
    ]
    verdict = judged([score("normal"), score("adv")], layers)[
        "Hoyer sparsity of conv1 is higher in adv than in normal."
    ]
    assert verdict.effect.values == pytest.approx((0.15, 0.16))
    assert (verdict.outcome, verdict.effect.unit) == ("held", "")
    flat = judged([score("normal"), score("adv")], layers)["Kurtosis of conv1 is higher in adv than in normal."]
    assert (flat.outcome, flat.effect.value) == ("undecided", 0)


def test_scores_are_read_from_an_eval_run_with_its_own_images_transferred_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predicted = np.where(np.arange(40) < 5, -1, LABELS)
    cell = SimpleNamespace(
        matrix=lambda classes: np.diag([15, 10, 10]), rate=lambda label: SimpleNamespace(total=int(TOTALS[label]))
    )
    results = SimpleNamespace(
        classes=("a", "b", "c"),
        sets=[SimpleNamespace(name=name) for name in ("clean", "a")],
        engines=[SimpleNamespace(name="torch-fp32")],
        cell=lambda engine, name: cell,
        masking=[
            SimpleNamespace(name=name, reported=reported)
            for name, reported in (("eps-sweep", True), ("randomness", False), ("transfer", True))
        ],
    )
    monkeypatch.setattr(findings, "read_results", lambda path: results)
    with Run.start("eval", "e", config={}, out=tmp_path / "eval") as out:
        write_npz(
            out.path / "samples.npz",
            {"labels": LABELS, **{f"pred/torch-fp32--{name}": predicted for name in ("clean", "a")}},
        )
        (out.path / "results.json").write_text("{}")
    about = {"row": "normal", "seed": 0, "protected": 0}
    rows = list(read_scores(Run.open(out.path), about, columns=("clean", "pgd", "transfer"), cost=10))
    assert [row["set"] for row in rows] == ["clean", "pgd"]
    assert (protected_class(rows[0]), rows[0]["expected_cost"]) == (75, pytest.approx(10 * 0.25 / 3))
    assert list(read_indicators(Run.open(out.path), about)) == [{**about, "indicator": "eps-sweep"}]


def test_signal_to_noise_of_int8_weights_is_in_decibels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = np.random.default_rng(0).normal(size=(4, 1, 3, 3))
    runs = []
    for name, file in (("train", "model.safetensors"), ("export", "model.int8-trt.onnx")):
        with Run.start(name, name, config={}, out=tmp_path / name) as out:
            (out.path / file).write_text("x")
            (out.path / "history.json").write_text(
                json.dumps({"epochs": [{"layers": [layer("a", hoyer=h)["layer"]]} for h in (0.1, 0.4)]})
            )
        runs.append(Run.open(out.path))
    stored = {"model.safetensors": weight, "model.int8-trt.onnx": weight * 1.01}
    monkeypatch.setattr(findings, "read_weights", lambda path: {"linear": np.ones((2, 2)), "conv": stored[path.name]})
    found = findings.read_layer(runs[0], runs[1], {"row": "a"})
    assert found["int8_sqnr_db"] == pytest.approx(40)  # a hundredth of the weight is noise
    assert (found["layer"]["hoyer"], len(found["epochs"])) == (0.4, 2)
    stored["model.int8-trt.onnx"] = weight
    assert findings.read_layer(runs[0], runs[1], {"row": "a"})["int8_sqnr_db"] == float("inf")


def test_an_attack_that_should_not_be_stronger_than_pgd_is_an_indicator() -> None:
    healthy = [
        score("a", wrong=8),
        score("a", wrong=4, column="fgsm"),
        score("a", wrong=9, column="square"),
    ]  # 1.7 points stronger
    assert list(report.masking_indicators(healthy, [], "a")) == []
    odd = [score("a", wrong=8), score("a", column="clean"), score("a", wrong=14, column="square")]
    indicators = [{"row": "a", "indicator": "eps-sweep"}, {"row": "b", "indicator": "randomness"}]
    assert list(report.masking_indicators(odd, indicators, "a")) == [
        "Square leaves 76.7, PGD 86.7",
        "eps-sweep (1 of 1)",
    ]


def test_the_table_of_indicators_says_none_where_there_is_none() -> None:
    scores = [
        score("a", wrong=8),
        score("a", wrong=20, column="large"),
        score("a", column="clean"),
        score("b", wrong=8),
    ]
    assert text(report.masking(scores, [])) == [["a", "66.7", "none"], ["b", "undefined", "none"]]
    (a, b) = report.masking(scores, [{"row": "a", "indicator": "eps-sweep"}]).rows
    assert (a[2].tone, b[2].tone) == ("bad", "good")


def test_the_table_of_accuracies_has_all_classes_and_the_protected_one_over_seeds() -> None:
    scores = [score("normal", wrong=4 * seed, seed=seed) for seed in (0, 1)]
    table = report.accuracies(scores, ("pgd", "cw"))
    assert text(table) == [["normal", "96.7 / 90.0", "–"]]
    spread = np.std([100, 100 * (0.8 + 2) / 3], ddof=1), np.std([100, 80], ddof=1)
    assert table.rows[0][1].detail == f"± {spread[0]:.1f} / {spread[1]:.1f}"
    assert report.accuracies(scores[:1], ("pgd",)).rows[0][1].detail == ""


def test_the_table_of_costs_has_cost_with_two_decimals_and_alarms_with_one() -> None:
    scores = [score("normal", wrong=5, column=column, protected=2) for column in ("clean", "pgd")]
    assert text(report.costs(scores)) == [["normal", "0.83", "0.83", "12.5", "12.5"]]
    assert text(report.costs(scores[:1])) == [["normal", "0.83", "undefined", "12.5", "undefined"]]


def test_the_table_of_deployed_forms_has_a_row_for_each_engine() -> None:
    scores = [score("normal", wrong=wrong, engine=engine) for engine, wrong in (("torch-fp32", 0), ("ort-int8-trt", 4))]
    found = {line[1]: line[2:] for line in text(report.deployed(scores))}
    assert found["FP32"] == ["–", "100.0 / 100.0", "–"]
    assert found["INT8 (trt)"] == ["–", "93.3 / 80.0", "–"]


def test_the_table_of_shapes_counts_what_became_min_max_and_averages_the_measures() -> None:
    layers = [layer("normal", seed=seed) for seed in (0, 1)]
    layers += [
        layer("adv", seed=0, hoyer=0.6, kurtosis=2.0),
        layer("adv", seed=1, hoyer=0.6, kurtosis=2.0, largest=0.5),
    ]
    normal, adv = text(report.shapes(layers))
    assert (normal[-2:], adv[-2:]) == (["–", "40.5"], ["1 of 2", "40.5"])
    assert adv[2:4] == ["2.0", "0.60"]
    undefined = text(report.shapes([layer("normal", hoyer=None), layer("normal", seed=1)]))
    assert undefined[0][3] == "undefined"


@pytest.mark.parametrize("data", PUBLISHED)
def test_published_numbers_stand_in_rows_that_are_trained_here(data: str) -> None:
    printed = PUBLISHED[data]
    assert set(printed.rows) <= set(ROWS)
    assert {len(numbers) for numbers in printed.rows.values()} == {len(printed.columns)}
    (section,) = published_sections(data)
    assert str(section.blocks[0]).startswith(printed.about[:20])
    assert published_sections("digits") == ()

"""The study of universal perturbations: its plan, its rows and what it says of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeproof.data.arrays import write_npz
from edgeproof.errors import ConfigError, StudyError
from edgeproof.evaluation.metrics import Rate
from edgeproof.plugins.registry import find
from edgeproof.reports.figures.tradeoff import Place, tradeoff
from edgeproof.reports.tables import Table
from edgeproof.runs import Run
from edgeproof.studies.frame import Row, counts
from edgeproof.studies.universal import report
from edgeproof.studies.universal.findings import (
    FRESH,
    at_equal_fooling,
    entropy,
    excess,
    least_class_error,
    read_rows,
    top1,
    verdicts,
    worst_universal,
)
from edgeproof.studies.verdicts import Verdict
from tests.studies.planning import jobs_of

LABELS = np.repeat(np.arange(4), 25)
TRAININGS = ("natural", "uat", "two-stage-balanced")
GATHERS = "The plain perturbation gathers predictions: its most predicted class takes over 10 points more of them than on clean images."
EVEN = "At an equal fooling ratio the balanced perturbation spreads predictions more evenly"
FEWER = "At an equal fooling ratio its most predicted class takes fewer of them"
SUFFERS = "At an equal fooling ratio the class that suffers least suffers more"
CURVE = "Every point of the tau curve spreads predictions more evenly than the plain perturbation of its fooling ratio."
STRONG = "At full budget some tau fools as many images as the plain perturbation, to a point."
BEST = "Of the five robust trainings, the two-stage balanced one has the best clean accuracy."
NATURAL = "Under its worst fresh universal perturbation it is better than the natural network."


def row(attack: str, *, fooled: float = 0, top: float = 25, even: float = 1.0, **more: Any) -> dict[str, Any]:
    """A row of 1,000 images, its rates in per cent."""
    return {
        "training": "natural", "seed": 0, "attack": attack, "scale": 1.0, "form": "checkpoint",
        "accuracy": counts(Rate(round(10 * (100 - fooled)), 1000)), "fooling": counts(Rate(round(10 * fooled), 1000)),
        "top1": counts(Rate(round(10 * top), 1000)), "top3": counts(Rate(1000, 1000)), "entropy": even,
        "class_errors": [0.1, 0.2, 0.3, 0.4], **more,
    }  # fmt: skip


def study_rows(*, seeds: Sequence[int] = (0, 1, 2), **changed: Any) -> list[dict[str, Any]]:
    """Everything that is judged: the plain perturbation at two scales, one of tau 2, three trainings, an INT8 graph.

    Args:
        seeds: Seeds.
        changed: "ATTACK" or "TRAINING_ATTACK" (words joined by `_`) to changes of that row, functions of the seed.
    """
    rows = []
    for seed in seeds:
        for training in TRAININGS:
            rows.append(row("clean", seed=seed, training=training, accuracy=counts(Rate(900, 1000))))
            rows += [row(name, seed=seed, training=training, fooled=30) for name in FRESH]
            if training == "natural":
                rows.append(row("plain", seed=seed, scale=0.5, fooled=20, top=35, even=0.9))
                rows.append(row("plain", seed=seed, fooled=40, top=55, even=0.7))
                rows.append(row("balanced 2", seed=seed, fooled=30, top=45, even=0.8))
                for name, fooled in (("plain", 40), ("balanced 2", 30)):
                    rows.append(row(name, seed=seed, fooled=fooled, form="int8-cpu"))
    for each in rows:
        for name in (each["attack"], f"{each['training']}_{each['attack']}", f"{each['form']}_{each['attack']}"):
            if each["scale"] == 1.0 and (change := changed.get(name.replace(" ", "_").replace("-", "_"))):
                each.update(change(each["seed"]))
    return rows


def judged(rows: Sequence[Row]) -> dict[str, Verdict]:
    return {verdict.claim.split(" (tau")[0]: verdict for verdict in verdicts(rows, taus=(2.0,), tau=2.0)}


def rates(**per_cent: float) -> dict[str, dict[str, int]]:
    return {name: counts(Rate(round(10 * value), 1000)) for name, value in per_cent.items()}


def read(folder: Path, predicted: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Rows of what a measuring job has kept."""
    with Run.start("job", "m", config={}, out=folder) as out:
        write_npz(folder / "predictions.npz", {"labels": LABELS, "clean/checkpoint": LABELS, **predicted})
    assert out.path == folder
    return list(read_rows(Run.open(folder), training="natural", seed=0))


def lost(count: int) -> np.ndarray:
    """Predictions where the last `count` images are taken for class 0."""
    predicted = LABELS.copy()
    predicted[len(LABELS) - count :] = 0
    return predicted


def test_the_small_preset_trains_six_ways_at_three_seeds_and_judges_all_alike() -> None:
    jobs = jobs_of("universal")
    assert sum(name.startswith("train-") for name in jobs) == 6 * 3
    judges = [
        {key: value for key, value in job.config["attacks"].items() if key.startswith("fresh") or key == "pgd"}
        for name, job in jobs.items()
        if name.startswith("measure-")
    ]
    assert len(judges) == 18
    assert all(judge == judges[0] for judge in judges)
    assert set(jobs["measure-natural-0"].config["forms"]) == {"graphs", "lenet"}
    assert set(jobs["measure-natural-1"].config["forms"]) == {"graphs"}
    assert jobs["measure-uat-1"].config["forms"] == {}


def test_further_budgets_have_perturbations_of_their_own_and_only_the_natural_networks_get_them() -> None:
    jobs = jobs_of("universal", more_eps="10/255")
    attacks = jobs["measure-natural-0"].config["attacks"]
    assert attacks["plain 10/255"]["eps"] == pytest.approx(10 / 255)
    assert attacks["plain"]["eps"] == pytest.approx(8 / 255)
    assert not any("10/255" in name for name in jobs["measure-uat-0"].config["attacks"])


def test_the_claims_tau_must_be_measured() -> None:
    with pytest.raises(ConfigError, match=r"tau = 7 is none of taus \(2\); expected one of them"):
        find("study", "universal").load()(taus=(2.0,), tau=7.0)


def test_a_row_has_its_measures_from_the_predicted_classes(tmp_path: Path) -> None:
    clean, found = read(tmp_path / "m", {"plain@0.5/checkpoint": lost(30)})
    assert (clean["attack"], clean["scale"], clean["fooling"]["hits"]) == ("clean", 1.0, 0)
    assert (found["attack"], found["scale"], found["form"]) == ("plain", 0.5, "checkpoint")
    assert [found[name]["hits"] for name in ("fooling", "accuracy", "top1", "top3")] == [30, 70, 55, 100]
    assert found["class_errors"] == [0.0, 0.0, pytest.approx(5 / 25), 1.0]
    assert least_class_error(found) == 0


def test_the_entropy_of_a_row_is_scipys_over_log_k(tmp_path: Path) -> None:
    stats = pytest.importorskip("scipy.stats")
    _, found = read(tmp_path / "m", {"plain@1/checkpoint": lost(30)})
    assert found["entropy"] == pytest.approx(stats.entropy([55, 25, 20]) / math.log(4))
    assert entropy(found) == pytest.approx(100 * found["entropy"])


def test_a_form_is_fooled_against_its_own_clean_predictions(tmp_path: Path) -> None:
    rows = read(tmp_path / "m", {"clean/int8": lost(10), "plain@1/int8": lost(15)})
    assert rows[2]["form"] == "int8"
    assert rows[2]["fooling"]["hits"] == 5
    assert rows[2]["accuracy"]["hits"] == 85


def test_at_equal_fooling_a_curve_is_read_between_its_points_and_flat_beyond_them() -> None:
    curve = [row("plain", fooled=40, top=65), row("clean", top=25), row("plain", fooled=20, top=45)]
    assert at_equal_fooling(curve, top1, ratio=30) == pytest.approx((45 + 65) / 2)
    assert at_equal_fooling(curve, top1, ratio=10) == pytest.approx((25 + 45) / 2)
    assert at_equal_fooling(curve, top1, ratio=90) == 65


@pytest.mark.parametrize("ratio", [3.0, 17.5, 33.0, 60.0])
def test_reading_a_curve_is_scipys_linear_interpolation(ratio: float) -> None:
    interpolate = pytest.importorskip("scipy.interpolate")
    fooled, tops = [0, 10, 30, 45], [25, 40, 42, 70]
    curve = [row("plain", fooled=x, top=y) for x, y in zip(fooled, tops, strict=True)]
    line = interpolate.interp1d(fooled, tops, bounds_error=False, fill_value=(25, 70))
    assert at_equal_fooling(curve, top1, ratio=ratio) == pytest.approx(float(line(ratio)))


def test_an_excess_compares_with_the_plain_perturbation_of_the_same_seed() -> None:
    rows = study_rows(
        balanced_2=lambda seed: {"entropy": 0.8 + 0.01 * seed}, plain=lambda seed: {"entropy": 0.7 + 0.02 * seed}
    )
    # The plain one fools 30 % half-way between its scales: (0.9 + 0.7 + 0.02 s) / 2.
    assert excess(rows, "balanced 2", entropy) == pytest.approx(dict.fromkeys(range(3), 0.0))
    stronger = study_rows(balanced_2=lambda seed: {"entropy": 0.9})
    assert excess(stronger, "balanced 2", entropy) == pytest.approx(dict.fromkeys(range(3), 10.0))


def test_gathered_predictions_are_held_above_ten_points_more_than_on_clean_images() -> None:
    pytest.importorskip("scipy")
    verdict = judged(study_rows())[GATHERS]
    assert (verdict.outcome, verdict.threshold) == ("held", 10)
    assert verdict.effect.values == pytest.approx((30, 30, 30))
    assert judged(study_rows(plain=lambda seed: rates(top1=30)))[GATHERS].outcome == "not held"
    assert judged(study_rows(plain=lambda seed: rates(top1=30 + 10 * seed)))[GATHERS].outcome == "undecided"


@pytest.mark.parametrize(
    "claim, better, worse, unit",
    [
        (EVEN, {"entropy": 0.9}, {"entropy": 0.7}, "% of log K"),
        (FEWER, rates(top1=40), rates(top1=50), "points"),
        (SUFFERS, {"class_errors": [0.2] * 4}, {"class_errors": [0.0] * 4}, "points"),
        (CURVE, {"entropy": 0.9}, {"entropy": 0.7}, "% of log K"),
        (STRONG, rates(fooling=41), rates(fooling=38), "points"),
    ],
)
def test_each_claim_on_balance_has_its_direction(claim: str, better: Any, worse: Any, unit: str) -> None:
    pytest.importorskip("scipy")
    held, lost = (
        judged(study_rows(balanced_2=lambda seed, change=change: change))[claim] for change in (better, worse)
    )
    assert (held.outcome, lost.outcome) == ("held", "not held")
    assert held.effect.unit == unit
    torn = judged(study_rows(balanced_2=lambda seed: better if seed else worse))[claim]
    assert torn.outcome == "undecided"


def test_as_strong_to_a_point_is_held_half_a_point_below_and_not_two_below() -> None:
    pytest.importorskip("scipy")
    close, far = (judged(study_rows(balanced_2=lambda seed, f=f: rates(fooling=f)))[STRONG] for f in (39.5, 38.0))
    assert (close.outcome, close.threshold) == ("held", -1.0)
    assert far.outcome == "not held"


def test_the_curve_is_judged_by_the_worst_tau_of_each_seed_and_strength_by_the_best() -> None:
    pytest.importorskip("scipy")
    rows = study_rows(balanced_2=lambda seed: {"entropy": 0.9})
    other = [row("balanced 4", seed=seed, fooled=30, even=0.7 if seed == 1 else 0.95) for seed in range(3)]
    found = {v.claim.split(" (tau")[0]: v for v in verdicts([*rows, *other], taus=(2.0, 4.0), tau=2.0)}
    assert found[CURVE].effect.values == pytest.approx((10, -10, 10))
    assert found[EVEN].effect.values == pytest.approx((10, 10, 10))
    assert found[STRONG].effect.values == pytest.approx((-10, -10, -10))


@pytest.mark.parametrize("graph, outcome", [(39, "held"), (38, "undecided"), (37, "not held")])
def test_transfer_to_an_integer_graph_is_held_to_two_points(graph: float, outcome: str) -> None:
    pytest.importorskip("scipy")
    found = judged(study_rows(int8_cpu_plain=lambda seed: rates(fooling=graph)))
    verdict = found["The perturbation 'plain' made on the checkpoint fools the int8-cpu graph as often, to two points."]
    assert (verdict.outcome, verdict.threshold, verdict.effect.value) == (outcome, -2.0, graph - 40)
    assert not any("lenet" in claim for claim in judged([*study_rows(), row("plain", form="lenet")]))


def test_the_balanced_training_is_judged_against_the_best_of_the_others_at_each_seed() -> None:
    pytest.importorskip("scipy")
    rows = study_rows(
        two_stage_balanced_clean=lambda seed: rates(accuracy=91), uat_clean=lambda seed: rates(accuracy=88 + seed)
    )
    assert judged(rows)[BEST].effect.values == pytest.approx((3, 2, 1))
    # The natural network is none of them, however good it is.
    better = study_rows(
        natural_clean=lambda seed: rates(accuracy=99), two_stage_balanced_clean=lambda seed: rates(accuracy=91)
    )
    assert judged(better)[BEST].outcome == "held"


def test_no_worse_to_a_point_under_the_worst_fresh_perturbation() -> None:
    pytest.importorskip("scipy")
    claim = (
        "Under its worst fresh universal perturbation the two-stage balanced network is no worse than uat, to a point."
    )
    for left, outcome in ((69.5, "held"), (69, "undecided"), (68, "not held")):
        rows = study_rows(two_stage_balanced_fresh_margin=lambda seed, left=left: rates(accuracy=left))
        assert judged(rows)[claim].outcome == outcome
    assert judged(study_rows(natural_fresh_plain=lambda seed: rates(accuracy=50)))[NATURAL].effect.value == 20


def test_the_worst_universal_perturbation_is_the_least_of_three_at_each_seed() -> None:
    rows = study_rows(
        seeds=(0, 1),
        uat_fresh_plain=lambda seed: rates(accuracy=60 + 10 * seed),
        uat_fresh_balanced=lambda seed: rates(accuracy=65),
    )
    assert worst_universal(rows, "uat") == pytest.approx({0: 60, 1: 65})


def test_one_seed_decides_nothing() -> None:
    assert {verdict.outcome for verdict in judged(study_rows(seeds=(4,))).values()} == {"undecided"}


def test_a_training_that_is_missing_at_a_seed_is_an_error() -> None:
    rows = [each for each in study_rows() if (each["training"], each["seed"]) != ("uat", 2)]
    with pytest.raises(StudyError, match="seeds 2 were measured on one side of a comparison only"):
        judged(rows)


def text(table: Table) -> list[list[str]]:
    return [[cell.text for cell in each] for each in table.rows]


def test_a_place_is_dominated_by_one_that_is_as_good_in_both_and_better_in_one() -> None:
    assert report.dominated([(0.5, 0.5), (0.5, 0.6), (0.6, 0.4), (0.5, 0.6)]) == [True, False, False, False]


def test_the_table_of_perturbations_marks_the_dominated_and_leaves_the_oracle_out() -> None:
    fooled = {"plain": 40, "margin": 30, "balanced 2": 30, "adjusted": 10, "penalised": 20, "deepfool": 5, "class": 90}
    rows = [
        row(name, fooled=share, even=0.9 if name == "balanced 2" else 0.7, seed=seed)
        for name, share in fooled.items()
        for seed in (0, 1)
    ]
    table = report.strength(rows, "", (2.0,))
    assert {line[0].text: line[0].detail for line in table.rows} == {
        "plain": "", "margin": "dominated", "balanced 2": "", "adjusted": "dominated", "penalised": "dominated",
        "deepfool": "dominated", "class": "oracle",
    }  # fmt: skip
    plain = table.rows[0]
    assert [cell.text for cell in plain[1:]] == ["40.0", "60.0", "25.0", "100.0", "70.0", "10.0", "11.2"]
    assert plain[1].detail == "± 0.0"


def test_the_spread_of_class_errors_is_numpys_standard_deviation_of_a_population() -> None:
    rows = [
        row(name, class_errors=[0.0, 0.5, 0.9, 0.2])
        for name in ("plain", "margin", "adjusted", "penalised", "deepfool", "class")
    ]
    assert text(report.strength(rows, "", ()))[0][-1] == f"{100 * np.std([0.0, 0.5, 0.9, 0.2]):.1f}"


def test_the_table_of_trainings_has_the_worst_class_in_brackets() -> None:
    rows = study_rows(seeds=(0, 1), uat_fresh_plain=lambda seed: rates(accuracy=60 + 10 * seed))
    for name in ("fresh class", "pgd"):
        rows += [row(name, fooled=50, seed=seed, training=training) for training in TRAININGS for seed in (0, 1)]
    found = {line[0]: line[1:] for line in text(report.trainings(rows))}
    assert found["uat"] == ["90.0 [60]", "65.0 [60]", "70.0 [60]", "70.0 [60]", "50.0 [60]", "50.0 [60]", "65.0"]


def test_the_table_of_transfer_has_a_row_for_each_form() -> None:
    rows = [
        *study_rows(seeds=(0,)),
        row("margin", fooled=35),
        row("margin", fooled=36, form="int8-cpu"),
        row("plain", fooled=9, form="lenet"),
    ]
    assert text(report.transfer(rows, 2.0)) == [
        ["checkpoint", "40.0", "35.0", "30.0"],
        ["int8-cpu", "40.0", "36.0", "30.0"],
        ["lenet", "9.0", "–", "–"],
    ]


def test_a_dominated_point_is_drawn_pale() -> None:
    series = {"one": [Place("a", 0.5, 0.9), Place("b", 0.3, 0.8, faint=True)], "other": [Place("c", 0.1, 1.0)]}
    drawn = tradeoff("Caption", series, up="strength", across="balance", description="what it shows").svg
    assert drawn.count("<circle") == 3
    assert drawn.count(" pale") == 1
    assert "one b: 30.0 %, 0.800" in drawn

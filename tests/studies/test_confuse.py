"""The study `confuse`: what it plans, what it measures and what it says of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from edgeproof.errors import ConfigError
from edgeproof.evaluation.metrics import Rate
from edgeproof.reports.figures.svg import Figure
from edgeproof.reports.tables import Table
from edgeproof.runs import Run, write_json
from edgeproof.studies.confuse import report
from edgeproof.studies.confuse.findings import CLEAN, detections, verdicts
from edgeproof.studies.confuse.measure import DETECTED, MEASURED, UNSAVED, fit_classical, read_measured
from edgeproof.studies.confuse.published import PUBLISHED
from edgeproof.studies.frame import Row, counts
from edgeproof.studies.verdicts import Verdict
from tests.studies.planning import jobs_of

CLASSES = ["a", "b", "c"]
STUCK = [[10, 0, 0], [10, 0, 0], [10, 0, 0]]
CONFUSED = [[0, 9, 1], [0, 1, 9], [9, 1, 0]]
LEARNED = [[9, 1, 0], [1, 9, 0], [0, 0, 10]]
WRONG = "A victim fitted to the poisoned images is wrong on more than 85 % of the clean test images."
SPREAD = "It is confused and not stuck: over 50 % of its predictions are of other classes than the most frequent one."
FED = "It has learned what it was given: over 90 % on its own training images."
NOISE = "The noise alone, without an image, tells it the class: over 50 % on test images' noise."
PART = "With a fifth of the images clean, training still reaches over 80 %."
WANTED = "The label-specific noise sends over half of the clean test images to the wanted class."
JPEG = "JPEG at quality 10 before training brings a victim back over 50 %."
SEEN = "Whoever receives the images and has clean ones sees it: over 90 % are flagged, at 5 % false alarms."


def measured(folder: Path, confusion: list[list[int]], **found: Any) -> dict[str, Any]:
    """What a measuring job has written and `read_measured` makes of it."""
    with Run.start("job", "m", config=found, out=folder) as out:
        written = {"classes": CLASSES, "confusion": confusion, "poisoned": None, "noise": [], "target": None, **found}
        write_json(out.path / MEASURED, written)
    return read_measured(Run.open(folder))


def victim(confusion: Sequence[Sequence[int]], *, table: str = "main", seed: int = 0, **more: Any) -> dict[str, Any]:
    """A row of a poisoned victim; `poison=None` makes it a clean one."""
    matrix = np.array(confusion)
    total = int(matrix.sum())
    return {
        "table": table, "network": "lenet", "poison": "poison", "seed": seed, "eps": 0.3, "share": 1.0, "defence": None,
        "clean": counts(Rate(int(np.trace(matrix)), total)), "top_class": counts(Rate(int(matrix.sum(0).max()), total)),
        "confusion": matrix.tolist(), "classes": CLASSES, "goals": None, **more,
    }  # fmt: skip


def seen(images: str, flagged: int, *, alarms: int = 5, p_value: float = 0.5) -> dict[str, Any]:
    """A row of the detector on 100 images."""
    rates = {"flagged": flagged, "false_alarms": alarms, "labels_suspected": 90, "labels_trusted": 90}
    records = {name: TypeAdapter(Rate).dump_python(Rate(hits, 100)) for name, hits in rates.items()}
    return {"table": "detector", "images": images, "auc": 0.9, "p_value": p_value, **records}


def judged(rows: Sequence[Row], published: Mapping[str, str] | None = None) -> dict[str, Verdict]:
    return {verdict.claim: verdict for verdict in verdicts(rows, published=published or {})}


def outcomes(rows: Sequence[Row]) -> dict[str, str]:
    return {claim: verdict.outcome for claim, verdict in judged(rows).items()}


def text(table: Any) -> list[list[str]]:
    assert isinstance(table, Table)
    return [[cell.text for cell in row] for row in table.rows]


def test_a_measured_victim_is_counted_from_its_confusion(tmp_path: Path) -> None:
    row = measured(tmp_path, CONFUSED, poisoned={"hits": 97, "total": 100}, target=[1, 2, 0])
    assert row["clean"] == {"hits": 1, "total": 30}
    assert row["top_class"] == {"hits": 11, "total": 30}
    assert row["wanted"] == {"hits": 27, "total": 30}
    assert row["poisoned"] == {"hits": 97, "total": 100}
    assert "noise_train" not in row
    assert set(UNSAVED) <= set(row)


def test_a_clean_victim_has_no_wanted_class_and_one_with_noise_has_both_rates(tmp_path: Path) -> None:
    row = measured(tmp_path, LEARNED, noise=[{"hits": 5, "total": 9}, {"hits": 6, "total": 9}])
    assert not {"wanted", "poisoned"} & set(row)
    assert (row["noise_train"]["hits"], row["noise_test"]["hits"]) == (5, 6)


def test_a_victim_stuck_in_one_class_is_not_taken_for_a_confused_one() -> None:
    pytest.importorskip("scipy")
    for confusion, wrong, spread in (
        (CONFUSED, "held", "held"),
        (STUCK, "not held", "not held"),
        (LEARNED, "not held", "held"),
    ):
        found = outcomes([victim(confusion, seed=seed) for seed in (0, 1)])
        assert (found[WRONG], found[SPREAD]) == (wrong, spread), confusion


def test_claims_over_seeds_are_about_poisoned_victims_of_the_main_table_alone() -> None:
    pytest.importorskip("scipy")
    rows = [
        victim(CONFUSED, seed=0),
        victim(CONFUSED, seed=1),
        victim(LEARNED, seed=0, poison=None),
        victim(LEARNED, table="transfer"),
    ]
    effect = judged(rows)[WRONG].effect
    assert effect.values == pytest.approx((100 - 100 / 30, 100 - 100 / 30))


@pytest.mark.parametrize(
    "claim, key, hits", [(FED, "poisoned", (97, 95)), (NOISE, "noise_test", (70, 72))], ids=["training images", "noise"]
)
def test_what_a_victim_has_learned_is_the_mean_over_the_seeds_that_measured_it(
    claim: str, key: str, hits: tuple[int, int]
) -> None:
    stats = pytest.importorskip("scipy.stats")
    rows = [victim(CONFUSED, seed=seed, **{key: {"hits": hits[seed], "total": 100}}) for seed in (0, 1)]
    effect = judged([*rows, victim(CONFUSED, seed=2)])[claim].effect
    low, high = stats.t.interval(0.95, 1, loc=np.mean(hits), scale=stats.sem(hits))
    assert (effect.value, effect.low, effect.high) == pytest.approx((np.mean(hits), low, high))
    assert judged([victim(CONFUSED)])[claim].effect.value is None


@pytest.mark.parametrize("hits, outcome", [(95, "held"), (80, "undecided"), (60, "not held")])
def test_a_fifth_of_clean_images_is_judged_by_wilsons_interval_against_eighty_per_cent(hits: int, outcome: str) -> None:
    stats = pytest.importorskip("scipy.stats")
    row = victim(CONFUSED, table="poison", share=0.8) | {"clean": {"hits": hits, "total": 100}}
    verdict = judged([row, victim(LEARNED, table="poison", share=0.5)])[PART]
    interval = stats.binomtest(hits, 100).proportion_ci(method="wilson")
    assert (verdict.effect.low, verdict.effect.high) == pytest.approx((100 * interval.low, 100 * interval.high))
    assert verdict.outcome == outcome


def test_the_wanted_class_is_judged_where_there_is_one() -> None:
    wanted = victim(CONFUSED, table="target", wanted={"hits": 27, "total": 30})
    assert outcomes([wanted])[WANTED] == "held"
    assert outcomes([wanted | {"wanted": {"hits": 3, "total": 30}}])[WANTED] == "not held"
    assert WANTED not in outcomes([victim(CONFUSED)])


def test_jpeg_is_judged_on_poisoned_images_alone() -> None:
    restored = victim(LEARNED, table="defence", defence="jpeg=10")
    assert outcomes([restored, victim(STUCK, table="defence", defence="jpeg=10", poison=None)])[JPEG] == "held"
    assert outcomes([victim(CONFUSED, table="defence", defence="jpeg=10")])[JPEG] == "not held"
    assert JPEG not in outcomes([victim(LEARNED, table="defence", defence="blur=1")])


def test_the_noise_counts_as_seen_where_most_of_its_images_are_flagged() -> None:
    for hits, outcome in ((99, "held"), (90, "undecided"), (50, "not held")):
        rows = [seen(CLEAN, 5), seen("generator", hits), seen("class patterns", 100 - hits)]
        assert outcomes(rows)[SEEN] == outcome
    assert SEEN not in outcomes([seen(CLEAN, 5)])


def test_each_claim_has_its_threshold() -> None:
    rows = [
        victim(CONFUSED, wanted={"hits": 1, "total": 30}),
        victim(CONFUSED, table="poison", share=0.8),
        victim(CONFUSED, table="defence", defence="jpeg=10"),
        seen("generator", 50),
    ]
    thresholds = {claim: verdict.threshold for claim, verdict in judged(rows).items()}
    assert thresholds == {WRONG: 85, SPREAD: 50, FED: 90, NOISE: 50, PART: 80, WANTED: 50, JPEG: 50, SEEN: 90}


def test_published_numbers_stand_next_to_the_claims_that_they_are_about() -> None:
    found = judged([victim(CONFUSED), victim(CONFUSED, table="poison", share=0.8)], PUBLISHED["mnist"])
    assert found[WRONG].published == "100 − 0.25 ± 0.04"
    assert found[FED].published == "98 (Figure 8)"
    assert found[NOISE].published == "95.15"
    assert found[PART].published == "86"
    assert {verdict.published for verdict in judged([victim(CONFUSED)]).values()} == {""}


def test_each_draw_of_the_detector_is_a_row(tmp_path: Path) -> None:
    runs = {}
    for images, draws in ((CLEAN, 2), ("generator", 1)):
        row = {key: value for key, value in seen(images, 5).items() if key not in ("table", "images")}
        with Run.start("job", "look", config={"images": images}, out=tmp_path / images) as out:
            write_json(out.path / DETECTED, {"draws": [row] * draws})
        runs[images] = Run.open(tmp_path / images)
    rows = list(detections(runs))
    assert [row["images"] for row in rows] == [CLEAN, CLEAN, "generator"]
    assert rows[0]["flagged"]["hits"] == 5


def test_the_detector_is_described_by_its_clean_draws_and_tabled_by_the_first_of_each_kind() -> None:
    rows = [seen(CLEAN, 4, alarms=2), seen(CLEAN, 6, alarms=7, p_value=1e-5), seen("generator", 99)]
    told, table = report.detected(rows)
    assert "In 2 draws of clean training images it flagged 2.0 to 7.0 % of the trusted ones" in str(told)
    assert "1 of them had p under 0.001" in str(told)
    assert [row[0] for row in text(table)] == [CLEAN, "generator"]


def test_the_main_table_has_mean_and_standard_deviation_over_seeds() -> None:
    rows = [victim(CONFUSED, seed=0), victim(STUCK, seed=1), victim(LEARNED, seed=0, poison=None)]
    found = text(report.spread_table(rows, {"poisoned": "0.25"}))
    spread = np.std([100 / 30, 100 / 3], ddof=1)
    assert found[0] == ["clean", f"{2800 / 30:.2f} %", "", "93.33", ""]
    assert found[1] == ["poisoned", f"{(100 / 30 + 100 / 3) / 2:.2f} %", f"{spread:.2f}", "3.33, 33.33", "0.25"]


@pytest.mark.parametrize("turned", [False, True])
def test_clean_and_poisoned_training_stand_side_by_side_in_whichever_order_they_were_fitted(turned: bool) -> None:
    both = [victim(LEARNED, defence="blur=1", poison=None), victim(STUCK, defence="blur=1")]
    found = report.pairs(both[::-1] if turned else both, {"poisoned blur=1": "22"}, "defence", first="Defence")
    assert text(found) == [["blur=1", "93.3 %", "", "33.3 %", "22", "100.0 %"]]


def test_budgets_are_in_their_order_with_the_studys_own_among_them() -> None:
    rows = [victim(STUCK, eps=0.1), victim(LEARNED, eps=8 / 255), victim(CONFUSED, eps=0.3)]
    table, figure = report.budgets(rows, {"budget 0.1": "98"}, eps=0.3)
    assert text(table) == [["8/255", "93.3 %", ""], ["0.1", "33.3 %", "98"], ["0.3", "3.3 %", ""]]
    assert isinstance(figure, Figure)
    assert figure.svg.count("<circle") == 3


def test_a_share_of_poisoned_images_stands_next_to_as_many_random_labels() -> None:
    poisoned = [victim(LEARNED, share=0.5), victim(STUCK, share=0.9)]
    flipped = [victim(CONFUSED, share=0.9), victim(LEARNED, share=0.5)]
    table, _ = report.shares(poisoned, flipped, {"flip 0.9": "87"})
    assert text(table) == [["0.5", "93.3 %", "", "93.3 %", ""], ["0.9", "33.3 %", "", "3.3 %", "87"]]


def test_where_label_specific_noise_sends_images_is_counted_by_class() -> None:
    row = victim(CONFUSED, goals=[1, 2, 0], wanted={"hits": 27, "total": 30})
    told, _ = report.targeted(row)
    assert str(told).startswith(
        "Wanted: a as b, b as c, c as a. 90.0 % of the clean test images go there, 3.3 % to their own"
    )
    assert "most frequent one of 3 of 3 classes" in str(told)
    other, _ = report.targeted(row | {"goals": [2, 0, 1]})
    assert "most frequent one of 0 of 3 classes" in str(other)


def test_baselines_stand_under_the_studys_own_noise() -> None:
    told, table = report.baselines(victim(CONFUSED), [victim(STUCK, poison="patterns")])
    assert text(table) == [["generator", "3.3 %", "36.7 %"], ["patterns", "33.3 %", "100.0 %"]]
    assert str(told).startswith("Noise of the same budget, 0.3: patterns is one random pattern")


@pytest.mark.parametrize("data", PUBLISHED)
def test_published_numbers_are_those_of_networks_and_budgets_that_the_study_has(data: str) -> None:
    jobs = jobs_of("confuse", preset="paper" if data == "cifar10" else "medium")
    networks = {str(job.config.get("model") or job.config.get("kind")) for job in jobs.values()}
    for name in PUBLISHED[data]:
        kind, _, what = name.partition(" ")
        if kind in ("clean", "poisoned") and what and "=" not in what and what != "grey":
            assert what in networks, name


def test_each_budget_gets_a_generator_of_its_own() -> None:
    jobs = {name: job.config for name, job in jobs_of("confuse", budgets="0.1,8/255").items()}
    assert jobs["poison-0.1"]["eps"] == 0.1
    assert "reuse" not in jobs["poison-8-255"]
    assert jobs["budget-0.1"]["poison"] == "{poison-0.1}"


def test_other_budgets_and_all_that_needs_them_come_last() -> None:
    names = list(jobs_of("confuse", budgets="0.1"))
    late = ["poison-0.1", "budget-0.1", "budget-0.1-measured", "look-poison-0.1"]
    assert names[-4:] == late


def test_defences_change_the_training_that_they_name() -> None:
    defences = "cutout,mixup,jpeg=10,adversarial=0.1"
    for augment, cut in (("none", "cutout"), ("flip-crop", "flip-crop-cutout")):
        jobs = {name: job.config for name, job in jobs_of("confuse", defences=defences, augment=augment).items()}
        assert jobs["poisoned-cutout"]["augment"] == cut
        assert jobs["poisoned-mixup"]["objective"] == "mixup"
        assert jobs["poisoned-jpeg-10"]["squeeze"] == "jpeg=10"
        assert jobs["poisoned-adversarial-0.1"]["objective_params"]["eps"] == "0.1"


def test_what_a_signature_cannot_say_is_refused_before_anything_runs() -> None:
    with pytest.raises(ConfigError, match="seeds is empty; expected one or more"):
        jobs_of("confuse", seeds=())
    with pytest.raises(ConfigError, match=r"unknown 'class-pattern' \(did you mean 'class-patterns'\?\)"):
        jobs_of("confuse", baselines="class-pattern")


def test_a_random_forest_is_fitted_and_measured_like_a_network(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    config = {"kind": "forest", "seed": 0, "poison": None, "data": {"name": "synthetic"}}
    with Run.start("job", "forest", config=config, out=tmp_path / "run") as out:
        fit_classical(config, out)
    found = json.loads((out.path / MEASURED).read_text(encoding="utf-8"))
    confusion = np.array(found["confusion"])
    assert confusion.sum() == 64
    assert np.trace(confusion) > 60
    assert read_measured(Run.open(out.path))["clean"]["hits"] == np.trace(confusion)

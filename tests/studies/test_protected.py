"""The study of protected classes: its trainings, its effects and its tables."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from edgeproof.errors import ConfigError
from edgeproof.evaluation.costs import protected_costs
from edgeproof.plugins.registry import find
from edgeproof.runs import Run
from edgeproof.studies.base import Study, study_params
from edgeproof.studies.protected_jobs import ROWS, choose_images
from edgeproof.studies.protected_published import PUBLISHED, published_sections
from edgeproof.studies.protected_report import _signs
from edgeproof.studies.protected_scores import Score, Scores, all_classes, protected_class

LABELS = np.repeat(np.arange(3), (20, 10, 10))


def study(**given: object) -> Study:
    entry = find("study", "protected")
    made: Study = entry.load()(**study_params(entry, preset="small", given=given))
    return made


def score(row: str, *, wrong: int = 0, seed: int = 0, column: str = "pgd") -> Score:
    """The first `wrong` images of class 0, which is protected, are taken for class 2; all others are right."""
    predicted = np.where(np.arange(40) < wrong, 2, LABELS)
    confusion = np.zeros((3, 3), np.int64)
    np.add.at(confusion, (LABELS, predicted), 1)
    return Score(
        row=row, seed=seed, label=0, engine="torch-fp32", column=column, confusion=confusion,
        totals=np.array([20, 10, 10]), labels=LABELS, predicted=predicted, cost=10.0,
    )  # fmt: skip


def test_every_comparison_is_between_trainings_of_as_many_epochs_from_the_same_weights() -> None:
    for first, second in (
        ("adv-continued", "csa-both"),
        ("adv-continued", "csa-miss"),
        ("normal-continued", "cse"),
        ("sparse-only", "cse"),
        ("l2-conv1", "cse"),
    ):
        assert ROWS[first].start == ROWS[second].start
    trainings = {job.name: job.config for job in study().jobs if job.stage == "train"}
    assert {config["epochs"] for config in trainings.values()} == {4}
    assert trainings["csa-miss-k8-s0"]["start_from"] == trainings["adv-continued-s0"]["start_from"] == "{adv-s0}"
    assert trainings["csa-miss-k8-s0"]["objective_params"]["side"] == "miss"


def test_what_does_not_know_the_protected_class_is_trained_once() -> None:
    names = [job.name for job in study(protect="3,8").jobs if job.stage == "train"]
    assert names.count("adv-s0") == 1
    assert {"cse-k3-s0", "cse-k8-s0"} <= set(names)
    assert len(names) == len(set(names))


def test_rows_that_cannot_be_meant_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"unknown row 'cs' \(did you mean 'cse'\?\)"):
        study(rows="normal,cs")
    with pytest.raises(ConfigError, match="'adv-continued' starts from 'adv', which is left out"):
        study(rows="normal,adv-continued")
    with pytest.raises(ConfigError, match="'normal' is left out"):
        study(rows=())


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
    assert (each.protected, each.all) == (75, pytest.approx(100 * (0.75 + 1 + 1) / 3))
    assert each.false_alarms == 0
    assert each.expected_cost == pytest.approx(10 * 0.25 / 3)
    alarmed = dataclasses.replace(each, label=2)
    assert alarmed.false_alarms == pytest.approx(100 * 0.25 / 2)
    assert alarmed.expected_cost == pytest.approx(10 * 0.25 / 3)
    lost = dataclasses.replace(each, confusion=each.confusion - np.diag([5, 0, 0]))
    assert lost.expected_cost == pytest.approx((10 * 0.25 + 10 * 0.25) / 3)
    assert protected_costs([0], cost=10, side="both", num_classes=3).max() == 10


def test_with_one_seed_a_gain_is_paired_over_the_images() -> None:
    scores = Scores((score("a", wrong=8), score("b", wrong=2)), {})
    gain = scores.gain("a", "b", "pgd", protected_class)
    # 6 of 20 images gained: mean 0.3, variance 0.21
    half = 100 * 1.959964 * (0.21 / 20) ** 0.5
    assert (gain.value, gain.low, gain.high) == pytest.approx((30, 30 - half, 30 + half))
    overall = scores.gain("a", "b", "pgd", all_classes)
    assert (overall.value, overall.low) == pytest.approx((10, 10 - half / 3))
    assert "within one seed" in gain.method


def test_with_several_seeds_a_gain_is_over_seeds() -> None:
    stats = pytest.importorskip("scipy.stats")
    found = [
        score(row, wrong=wrong, seed=seed) for row, wrong, seed in (("a", 8, 0), ("b", 2, 0), ("a", 6, 1), ("b", 4, 1))
    ]
    gain = Scores(tuple(found), {}).gain("a", "b", "pgd", protected_class)
    assert gain.values == (30, 10)
    low, high = stats.t.interval(0.95, 1, loc=20, scale=stats.sem([30, 10]))
    assert (gain.low, gain.high) == pytest.approx((low, high))


def test_an_attack_that_should_not_be_stronger_than_pgd_is_a_sign() -> None:
    healthy = Scores(
        (score("a", wrong=8), score("a", wrong=4, column="fgsm"), score("a", wrong=0, column="square")), {}
    )
    assert list(_signs(healthy, "a")) == []
    odd = Scores(
        (score("a", wrong=8), score("a", column="clean"), score("a", wrong=14, column="square")),
        {("a", 0, 0): ("eps-sweep",)},
    )
    assert list(_signs(odd, "a")) == ["Square leaves 76.7, PGD 86.7", "eps-sweep (1 of 1)"]


@pytest.mark.parametrize("data", PUBLISHED)
def test_published_numbers_stand_in_rows_that_are_trained_here(data: str) -> None:
    printed = PUBLISHED[data]
    assert set(printed.rows) <= set(ROWS)
    assert {len(numbers) for numbers in printed.rows.values()} == {len(printed.columns)}
    (section,) = published_sections(data)
    assert str(section.blocks[0]).startswith(printed.about[:20])
    assert published_sections("digits") == ()

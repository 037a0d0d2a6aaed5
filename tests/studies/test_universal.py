"""The study of universal perturbations: its plan, its points and what it says of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeproof.data.arrays import write_npz
from edgeproof.errors import ConfigError
from edgeproof.plugins.registry import find
from edgeproof.reports.figures.tradeoff import Place, tradeoff
from edgeproof.runs import Run
from edgeproof.studies.base import Study, study_params
from edgeproof.studies.ma_cao.claims import judge_claims, worst_universal
from edgeproof.studies.ma_cao.collect import Measured, Plan
from edgeproof.studies.ma_cao.points import Point, at_equal_fooling, dominated, read_points

LABELS = np.repeat(np.arange(4), 25)
SEEDS = (0, 1)
PLAN = Plan(SEEDS, ("natural", "uat", "two-stage-balanced"), eps=0.1, more_eps=(), taus=(2.0,), tau=2.0)


def plan(preset: str) -> Study:
    entry = find("study", "universal")
    made: Study = entry.load()(**study_params(entry, preset=preset, given={}))
    return made


def point(
    predicted: np.ndarray, folder: Path, *, training: str, attack: str, seed: int = 0, scale: float = 1.0
) -> Point:
    place = folder / f"{training}-{attack}-{seed}-{scale}"
    with Run.start("job", "m", config={}, out=place) as out:
        arrays = {"labels": LABELS, "clean/checkpoint": LABELS, f"{attack}@{scale:g}/checkpoint": predicted}
        write_npz(place / "predictions.npz", arrays)
        out.finish()
    return read_points(Run.open(place), training=training, seed=seed)[1]


def lost(count: int, *, to: int = 0) -> np.ndarray:
    """Predictions where the last `count` images are taken for one class."""
    predicted = LABELS.copy()
    predicted[len(LABELS) - count :] = to
    return predicted


@pytest.mark.parametrize("preset", ["smoke", "small", "fashion", "paper"])
def test_every_preset_has_configurations_that_the_stages_accept(preset: str) -> None:
    for job in plan(preset).jobs:
        job.checked_config()


def test_the_small_preset_trains_six_ways_at_three_seeds_and_judges_all_alike() -> None:
    jobs = {job.name: job for job in plan("small").jobs}
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


def test_a_point_has_its_measures_from_the_predicted_classes(tmp_path: Path) -> None:
    found = point(lost(30), tmp_path, training="natural", attack="plain", scale=0.5)
    assert (found.attack, found.scale, found.form) == ("plain", 0.5, "checkpoint")
    assert (found.fooling.hits, found.accuracy.hits, found.top1.hits) == (30, 70, 55)
    assert found.class_errors == (0.0, 0.0, pytest.approx(5 / 25), 1.0)
    assert found.record()["top3"] == {"hits": 100, "total": 100}


def test_at_equal_fooling_a_curve_is_read_between_its_points(tmp_path: Path) -> None:
    curve = [
        point(lost(count), tmp_path, training="natural", attack="plain", scale=count / 100) for count in (0, 20, 40)
    ]
    assert at_equal_fooling(curve, "top1", fooling=30) == pytest.approx((45 + 65) / 2)
    assert at_equal_fooling(curve, "top1", fooling=90) == 65


def test_a_place_is_dominated_by_one_that_is_as_good_in_both_and_better_in_one() -> None:
    assert dominated([(0.5, 0.5), (0.5, 0.6), (0.6, 0.4), (0.5, 0.6)]) == [True, False, False, False]


def test_what_spreads_more_at_equal_fooling_holds_the_claim(tmp_path: Path) -> None:
    even = LABELS.copy()
    even[::4] = (LABELS[::4] + 1) % 4  # a quarter of each class goes to the next one
    points = []
    for seed in SEEDS:
        for training in PLAN.trainings:
            for attack in ("clean", "fresh plain", "fresh margin", "fresh balanced"):
                points.append(point(lost(10 + seed), tmp_path, training=training, attack=attack, seed=seed))
        points += [
            point(lost(count), tmp_path, training="natural", attack="plain", scale=scale, seed=seed)
            for scale, count in ((0.5, 20), (1.0, 40 + seed))
        ]
        points.append(point(even, tmp_path, training="natural", attack="balanced 2", seed=seed))
    measured = Measured(tuple(points))
    verdicts = {verdict.claim.split(" (")[0]: verdict for verdict in judge_claims(PLAN, measured)}
    spread = verdicts["At an equal fooling ratio the balanced perturbation spreads predictions more evenly"]
    assert spread.outcome == "held"
    assert all(value > 0 for value in spread.effect.values)
    assert (
        verdicts["At full budget some tau fools as many images as the plain perturbation, to a point."].outcome
        == "not held"
    )
    assert worst_universal(measured, "uat") == [90.0, 89.0]


def test_a_dominated_point_is_drawn_pale() -> None:
    series = {"one": [Place("a", 0.5, 0.9), Place("b", 0.3, 0.8, faint=True)], "other": [Place("c", 0.1, 1.0)]}
    drawn = tradeoff("Caption", series, up="strength", across="balance", description="what it shows").svg
    assert drawn.count("<circle") == 3
    assert drawn.count(" pale") == 1
    assert "one b: 30.0 %, 0.800" in drawn


def test_the_claims_tau_must_be_measured() -> None:
    with pytest.raises(ConfigError, match=r"tau = 7 is none of taus \(2\); expected one of them"):
        find("study", "universal").load()(taus=(2.0,), tau=7.0)

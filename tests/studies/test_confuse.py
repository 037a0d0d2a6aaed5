"""The study `confuse`: what it plans, what it measures and what it says of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgeproof.evaluation.detection import DetectRecord
from edgeproof.evaluation.metrics import Rate
from edgeproof.evaluation.scoring import rate_record
from edgeproof.plugins.registry import find
from edgeproof.runs import Run
from edgeproof.studies.base import Study, study_params
from edgeproof.studies.feng_cai_zhou.fits import MEASURED, Fit, Measured, fit_classical
from edgeproof.studies.feng_cai_zhou.looks import CLEAN, Looks, look_cells, look_section, seen_by_detector
from edgeproof.studies.feng_cai_zhou.report import verdicts

CLASSES = ("a", "b", "c")
STUCK = np.array([[10, 0, 0], [10, 0, 0], [10, 0, 0]])
CONFUSED = np.array([[0, 9, 1], [0, 1, 9], [9, 1, 0]])


def measured(counts: np.ndarray, *, seed: int = 0, target: tuple[int, ...] | None = None) -> Measured:
    hits = Rate(int(np.trace(counts)), int(counts.sum()))
    fit = Fit(f"poisoned-{seed}", "main", "lenet", "poison", seed=seed, eps=0.3, noise=True)
    rate = Rate(97, 100)
    return Measured(fit, hits, counts, CLASSES, poisoned=rate, noise=(rate, rate), target=target)


def outcomes(counts: np.ndarray) -> list[str]:
    return [
        verdict.outcome
        for verdict in verdicts([measured(counts, seed=seed) for seed in (0, 1)], looks={}, published={})
    ]


def test_a_victim_stuck_in_one_class_is_told_from_a_confused_one() -> None:
    assert outcomes(CONFUSED)[:2] == ["held", "held"]
    assert outcomes(STUCK)[:2] == ["not held", "not held"]


def test_the_wanted_class_is_counted_along_its_own_diagonal() -> None:
    found = measured(CONFUSED, target=(1, 2, 0))
    assert found.wanted == Rate(27, 30)
    assert measured(CONFUSED).wanted is None
    assert found.cell()["wanted"] == {"hits": 27, "total": 30}


@pytest.mark.parametrize("preset", sorted(find("study", "confuse").options["presets"]))
def test_every_job_of_a_preset_is_accepted_and_reads_jobs_before_it(preset: str) -> None:
    entry = find("study", "confuse")
    study: Study = entry.load()(**study_params(entry, preset=preset, given={}))
    known: set[str] = set()
    for job in study.jobs:
        assert job.name not in known
        assert set(job.needs) <= known, job.name
        job.checked_config()
        known.add(job.name)


def test_each_budget_gets_a_generator_of_its_own() -> None:
    entry = find("study", "confuse")
    study: Study = entry.load()(**study_params(entry, preset="small", given={"budgets": "0.1,8/255"}))
    jobs = {job.name: job.config for job in study.jobs}
    assert jobs["poison-0.1"]["eps"] == 0.1
    assert "reuse" not in jobs["poison-8-255"]
    assert jobs["budget-0.1"]["poison"] == "{poison-0.1}"


def test_the_noise_counts_as_seen_where_most_of_its_images_are_flagged() -> None:
    def looked(hits: int) -> Looks:
        rate = rate_record(Rate(hits, 100))
        one = DetectRecord(
            auc=0.9, p_value=0.5, flagged=rate, false_alarms=rate_record(Rate(5, 100)), labels_suspected=rate, labels_trusted=rate
        )  # fmt: skip
        return {CLEAN: (one, one), "generator": (one,)}

    told = {hits: [verdict.outcome for verdict in seen_by_detector(looked(hits))] for hits in (99, 50)}
    assert told == {99: ["held"], 50: ["not held"]}
    said, table = look_section(looked(99))
    assert "In 2 draws of clean training images it flagged 5.0 to 5.0 % of the trusted ones" in str(said)
    assert [row[0].text for row in table.rows] == [CLEAN, "generator"]
    assert [cell["images"] for cell in look_cells(looked(99))] == [CLEAN, CLEAN, "generator"]


def test_defences_change_the_training_that_they_name() -> None:
    entry = find("study", "confuse")
    defences = "cutout,mixup,jpeg=10,adversarial=0.1"
    for augment, cut in (("none", "cutout"), ("flip-crop", "flip-crop-cutout")):
        given = {"defences": defences, "augment": augment}
        study: Study = entry.load()(**study_params(entry, preset="small", given=given))
        jobs = {job.name: job.config for job in study.jobs}
        assert jobs["poisoned-cutout"]["augment"] == cut
        assert jobs["poisoned-mixup"]["objective"] == "mixup"
        assert jobs["poisoned-jpeg-10"]["squeeze"] == "jpeg=10"
        assert jobs["poisoned-adversarial-0.1"]["objective_params"]["eps"] == "0.1"


def test_a_random_forest_is_fitted_and_measured_like_a_network(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    config = {"kind": "forest", "seed": 0, "poison": None, "data": {"name": "synthetic"}}
    with Run.start("job", "forest", config=config, out=tmp_path / "run") as out:
        fit_classical(config, out)
    found = json.loads((out.path / MEASURED).read_text(encoding="utf-8"))
    counts = np.array(found["confusion"])
    assert counts.sum() == 64
    assert np.trace(counts) > 60

"""The study of quantisation: its plan, its rows and what it says of them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgeproof.data.arrays import write_npz
from edgeproof.errors import StudyError
from edgeproof.evaluation.metrics import Rate
from edgeproof.reports.tables import Table
from edgeproof.runs import Run
from edgeproof.studies.frame import counts, saved
from edgeproof.studies.quantization import findings, report
from edgeproof.studies.quantization.findings import (
    ADVERSARIAL,
    BEST,
    FLOAT,
    MEDIAN,
    QAT,
    read_builds,
    same_method,
    spread,
    verdicts,
)
from edgeproof.studies.verdicts import Verdict
from tests.studies.planning import jobs_of

BUILDS = (FLOAT, BEST, MEDIAN, QAT, ADVERSARIAL)
LOOKS = "INT8 looks more robust than float under transferred PGD"
WHITE = "INT8 is more robust than float when both are attacked white-box"
STRONGER = "PGD on the INT8 graph itself is stronger on it than transferred PGD"
OVERSTATED = "Robustness of INT8 is overstated by transferred PGD alone (transferred - worst of both)"
SAMPLES = "Samples of calibration images change accuracy under attack by more than a point"
CHOSEN = "A build chosen on validation adversaries is more robust than the median one"
TRAINED = "Quantisation-aware training is more robust than the best calibration"
STILL = "Adversarial quantisation-aware training is more robust still"
COSTS = "It costs clean accuracy against the best calibration"
DIVA = "DIVA finds fewer images on a build trained for INT8 than on the median one"


def row(build: str, seed: int = 0, **per_cent: float) -> dict[str, Any]:
    """A build on 500 images, its rates in per cent."""
    rates = {
        "clean": 60.0,
        "transferred": 40.0,
        "white_box": 40.0,
        "worst": 40.0,
        **({} if build == FLOAT else {"hidden": 2.0}),
        **per_cent,
    }
    found = {name: counts(Rate(round(5 * value), 500)) for name, value in rates.items()}
    return {"seed": seed, "build": build, **found, "worst_class": 10.0, "images_per_s": 100.0}


def judged(
    *, seeds: tuple[int, ...] = (0, 1, 2), given: tuple[float, ...] = (0.0, 0.0, 0.0), **changed: dict[str, float]
) -> dict[str, Verdict]:
    """Judge equal builds, some of them changed; names have `_` for `-`."""
    rows = [row(build, seed, **changed.get(build.replace("-", "_"), {})) for seed in seeds for build in BUILDS]
    return {verdict.claim: verdict for verdict in verdicts(rows, spread=given)}


@pytest.mark.parametrize(
    "claim, build, measure, up",
    [
        (LOOKS, "ptq_median", "transferred", True),
        (LOOKS, "float", "transferred", False),
        (WHITE, "ptq_median", "white_box", True),
        (WHITE, "float", "white_box", False),
        (STRONGER, "ptq_median", "transferred", True),
        (STRONGER, "ptq_median", "white_box", False),
        (OVERSTATED, "ptq_median", "worst", False),
        (CHOSEN, "ptq_best", "worst", True),
        (CHOSEN, "ptq_median", "worst", False),
        (TRAINED, "qat", "worst", True),
        (TRAINED, "ptq_best", "worst", False),
        (STILL, "adversarial_qat", "worst", True),
        (STILL, "qat", "worst", False),
        (COSTS, "ptq_best", "clean", True),
        (COSTS, "adversarial_qat", "clean", False),
        (DIVA, "ptq_median", "hidden", True),
        (DIVA, "qat", "hidden", False),
    ],
)
def test_each_claim_is_about_one_measure_of_two_builds(claim: str, build: str, measure: str, up: bool) -> None:
    """A build that has five points more of something holds a claim or refutes it; one that is as before does neither."""
    pytest.importorskip("scipy")
    before = row("x")[measure]["hits"] / 5
    verdict = judged(**{build: {measure: before + 5}})[claim]
    assert verdict.effect.value == pytest.approx(5 if up else -5)
    assert verdict.outcome == ("held" if up else "not held")
    assert verdict.threshold == 0
    assert judged()[claim].outcome == "undecided"
    assert judged()[claim].effect.value == 0


def test_a_change_of_one_build_moves_no_claim_about_others() -> None:
    pytest.importorskip("scipy")
    moved = {claim for claim, verdict in judged(adversarial_qat={"worst": 45}).items() if verdict.effect.value}
    assert moved == {STILL}


@pytest.mark.parametrize(
    "given, outcome", [((2.0, 2.1, 1.9), "held"), ((0.2, 0.3, 0.1), "not held"), ((0.0, 1.0, 2.0), "undecided")]
)
def test_calibration_samples_matter_above_a_point(given: tuple[float, ...], outcome: str) -> None:
    pytest.importorskip("scipy")
    verdict = judged(given=given)[SAMPLES]
    assert (verdict.outcome, verdict.threshold, verdict.effect.values) == (outcome, 1.0, given)


def test_effects_are_paired_by_seed_with_students_interval() -> None:
    stats = pytest.importorskip("scipy.stats")
    rows = [
        row(build, seed, **({"worst": 40 + 2 * seed} if build == BEST else {})) for seed in range(4) for build in BUILDS
    ]
    effect = {verdict.claim: verdict for verdict in verdicts(rows, spread=())}[CHOSEN].effect
    assert effect.values == pytest.approx((0, 2, 4, 6))
    low, high = stats.t.interval(0.95, 3, loc=3, scale=stats.sem([0, 2, 4, 6]))
    assert (effect.low, effect.high) == pytest.approx((low, high))


def test_one_seed_decides_nothing_and_a_missing_one_is_an_error() -> None:
    assert {verdict.outcome for verdict in judged(seeds=(3,), given=(2.0,)).values()} == {"undecided"}
    rows = [row(build, seed) for seed in (0, 1) for build in BUILDS if (build, seed) != (QAT, 1)]
    with pytest.raises(StudyError, match="seeds 1 were measured on one side"):
        verdicts(rows, spread=())


def evaluated(folder: Path, monkeypatch: pytest.MonkeyPatch, right: dict[str, list[int]]) -> list[dict[str, Any]]:
    """Rows of an eval run of six images, three of each class, from what is correct on each set."""
    labels = np.array([0, 0, 0, 1, 1, 1])
    jobs = ["transferred-0", "white-float-0", "white-qat-0", "diva-qat-0"]
    with Run.start("eval", "verdict", config={"sets": [f"jobs/{job}" for job in jobs]}, out=folder) as out:
        arrays = {"labels": labels}
        for key, correct in right.items():
            build, _, job = key.partition(" ")
            name = job and f"set-{jobs.index(f'{job}-0')}"
            arrays[f"pred/{build}--{name or 'clean'}"] = np.where(np.isin(np.arange(6), correct), labels, 1 - labels)
        write_npz(out.path / "samples.npz", arrays)
        (out.path / "results.json").write_text("{}")
    results = SimpleNamespace(
        classes=("a", "b"),
        sets=[
            SimpleNamespace(name=name, kind="clean" if name == "clean" else "adversarial")
            for name in ("clean", *(f"set-{n}" for n in range(4)))
        ],
        engines=[
            SimpleNamespace(name="float", throughput=None),
            SimpleNamespace(name="qat", throughput=SimpleNamespace(images_per_s=9.0)),
        ],
    )
    monkeypatch.setattr(findings, "read_results", lambda path: results)
    return list(read_builds(Run.open(folder), seed=0))


def test_builds_are_counted_image_by_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = evaluated(
        tmp_path / "eval",
        monkeypatch,
        {
            "float": [0, 1, 2, 3, 4], "float transferred": [0, 1, 3], "float white-float": [0, 3, 4], "float white-qat": [],
            "float diva-qat": [0, 1, 2, 3], "qat": [0, 1, 2, 3, 5], "qat transferred": [0, 1, 2, 3], "qat white-float": [],
            "qat white-qat": [1, 2, 4], "qat diva-qat": [0],
        },
    )  # fmt: skip
    float_, qat = found
    assert [float_[key]["hits"] for key in ("clean", "transferred", "white_box", "worst")] == [5, 3, 3, 2]
    assert [qat[key]["hits"] for key in ("clean", "transferred", "white_box", "worst")] == [5, 4, 3, 2]
    assert "hidden" not in float_
    # Both get 0, 1, 2 and 3 right; of these DIVA leaves float 0 to 3 and the build 0: three are hidden.
    assert qat["hidden"] == {"hits": 3, "total": 4}
    assert float_["worst_class"] == pytest.approx(100 / 3)
    assert qat["worst_class"] == 0
    assert (np.isnan(float_["images_per_s"]), qat["images_per_s"]) == (True, 9.0)
    assert list(saved(found, without=findings.UNSAVED)[1]) == [
        "seed",
        "build",
        "clean",
        "transferred",
        "white_box",
        "worst",
        "hidden",
        "worst_class",
    ]


def candidate(
    robust: int, *, method: str = "minmax", calibration: str = "clean 1", keep: tuple[str, ...] = (), flips: int = 0
) -> dict[str, Any]:
    return {
        "method": method, "calibration": calibration, "keep_float": list(keep), "flips_clean": flips, "flips_robust": 2 * flips,
        "clean": {"hits": 300}, "robust": {"hits": robust, "value": robust / 500},
    }  # fmt: skip


SEARCH = {
    "candidates": [
        candidate(200),
        candidate(206, calibration="clean 2", flips=3),
        candidate(203, calibration="clean 3", flips=1),
        candidate(100, method="entropy"),
        candidate(100, calibration="adversarial"),
        candidate(100, keep=("conv1",)),
    ]
}


def test_the_spread_is_over_clean_samples_of_the_first_method_with_no_layer_kept_in_float() -> None:
    assert same_method(SEARCH) == pytest.approx([40, 41.2, 40.6])
    assert spread({0: SEARCH, 1: {"candidates": SEARCH["candidates"][:1]}}) == pytest.approx([1.2, 0])


def test_the_table_of_samples_has_the_smallest_and_the_largest_of_each() -> None:
    table = report.variance({0: SEARCH, 4: {"candidates": SEARCH["candidates"][:1]}})
    assert [[cell.text for cell in line] for line in table.rows] == [
        ["0", "3", "300–300", "200–206", "1–3", "2–6"],
        ["4", "1", "300–300", "200–200", "0–0", "0–0"],
    ]


def test_the_table_of_builds_has_means_with_each_seeds_value_next_to_them() -> None:
    rows = [row(build, seed, worst=40 + seed) for seed in (0, 2) for build in (FLOAT, QAT)]
    table = report.builds(rows)
    assert isinstance(table, Table)
    assert [cell.text for cell in table.rows[0]] == ["float", "60.0", "40.0", "40.0", "41.0", "10.0", "", "100"]
    assert [cell.text for cell in table.rows[1]] == ["qat", "60.0", "40.0", "40.0", "41.0", "10.0", "2.0", "100"]
    assert table.rows[1][4].detail == "40.0, 42.0"


def test_every_build_is_attacked_on_its_own_graph_and_by_diva_but_float() -> None:
    jobs = jobs_of("quantization", recipe="trt", steps=10)
    assert [name for name in jobs if name.startswith(("white", "diva"))] == [
        "white-float-0", "white-ptq-best-0", "diva-ptq-best-0", "white-ptq-median-0", "diva-ptq-median-0", "white-qat-0",
        "diva-qat-0", "white-adversarial-qat-0", "diva-adversarial-qat-0",
    ]  # fmt: skip
    diva = jobs["diva-qat-0"].config
    assert (diva["model"], diva["deployed"], diva["params.steps"]) == (
        "{search-0}/model.fp32.onnx",
        "{qat-0}/model.int8-trt.onnx",
        20,
    )
    assert jobs["white-qat-0"].config["params.steps"] == 10
    assert jobs["adversarial-qat-0"].config["qat.eps"] == pytest.approx(1 / 255)
    assert "qat.eps" not in jobs["qat-0"].config


def test_builds_are_chosen_on_validation_images_and_judged_on_test_images() -> None:
    jobs = {name: job.config for name, job in jobs_of("quantization", images=40, validation_images=30).items()}
    assert (jobs["judge-0"]["split"], jobs["judge-0"]["limit"]) == ("validation", 30)
    assert (jobs["sample-0"]["split"], jobs["sample-0"]["limit"]) == ("calibration", 128)
    assert jobs["search-0"]["adversaries"] == "{judge-0}"
    assert {jobs[name]["limit"] for name in jobs if name.startswith(("white", "diva", "transferred"))} == {40}
    assert not any("judge" in name for name in jobs["verdict-0"]["sets"])


def test_what_a_search_has_tried_is_read_from_its_run(tmp_path: Path) -> None:
    with Run.start("export", "search", config={}, out=tmp_path / "search") as out:
        (out.path / "search.json").write_text(json.dumps(SEARCH))
    assert findings.read_search(Run.open(out.path)) == SEARCH

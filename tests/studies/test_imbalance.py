"""The study of class-imbalanced networks: its plan, its cells and what it says of them."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeproof.data.arrays import write_npz
from edgeproof.plugins.registry import find
from edgeproof.runs import Run
from edgeproof.studies.base import Study, study_params
from edgeproof.studies.possas_zhou import published
from edgeproof.studies.possas_zhou.cells import Measured, read_measured
from edgeproof.studies.possas_zhou.claims import judge_claims
from edgeproof.studies.possas_zhou.measure import NETWORKS

ROOT = Path(__file__).resolve().parent.parent.parent
LABEL, TWIN, COUNT = 2, 0, 100


def plan(preset: str, **given: Any) -> Study:
    entry = find("study", "imbalance")
    study: Study = entry.load()(**study_params(entry, preset=preset, given=given))
    return study


def test_the_full_protocol_is_fifty_cells_and_twenty_one_networks() -> None:
    jobs = {job.name: job for job in plan("paper", remedies="none").jobs}
    assert Counter(name.split("-")[0] for name in jobs) == {"data": 1, "train": 21, "export": 21, "measure": 10}
    same = [(target, network) for target in published.CLEAN for network in NETWORKS]
    different = [(target, network) for target in published.CLEAN for network in NETWORKS[1:]]
    assert len(same + different) == 50
    assert all(tuple(jobs[f"measure-{target}-0"].config["networks"]) == NETWORKS for target in published.CLEAN)
    assert jobs["train-under-cat-0"].config["data.imbalance"] == "under:cat=1000"
    assert jobs["train-over-cat-0"].config["data.imbalance"] == "over:cat=1000"


def test_every_preset_has_configurations_that_the_stages_accept() -> None:
    for preset in ("smoke", "small", "document", "paper"):
        for job in plan(preset).jobs:
            job.checked_config()


def test_the_document_has_twenty_one_networks_and_remedies_for_one() -> None:
    trainings = [job for job in plan("document").jobs if job.stage == "train"]
    assert len(trainings) == 21 + 5
    assert len({job.name for job in trainings}) == len(trainings)
    assert {(job.config["seed"], job.config["data.split_seed"]) for job in trainings} == {(0, 0), (1, 1), (2, 2)}


def test_the_published_means_are_those_that_the_paper_and_its_slip_are_made_of() -> None:
    assert published.mean_attacked("under", "different") == pytest.approx(53.8)
    assert published.mean_attacked("balanced", "same") == pytest.approx(25.8)
    assert published.mean_attacked("under", "same") == pytest.approx(14.17)
    assert published.mean_clean("under") == pytest.approx(66.0)
    assert [round(published.mean_relative(network), 2) for network in NETWORKS] == [69.85, 80.05, 49.72]


def logits(right: int, twin: int = 0) -> np.ndarray[Any, Any]:
    """Logits of the target's images: `right` of 100 of them right, the next `twin` taken for the twin, the rest for class 1."""
    classes = np.full(COUNT, 1)
    classes[:right], classes[right : right + twin] = LABEL, TWIN
    return np.eye(3, dtype=np.float32)[classes] * 2


def measured(folder: Path, *, seed: int = 0, under: tuple[int, int, int] = (40, 4, 20)) -> Measured:
    """A measured class: (clean, same, different) hits of 100 for each network; INT8 loses two of the under-sampled's hits."""
    hits = {"balanced": (80, 40, 40), "under": under, "over": (90, 60, 85)}
    arrays = {"labels": np.full(COUNT, LABEL), "rows": np.arange(COUNT)}
    for network, (clean, same, different) in hits.items():
        for form, lost in (("fp32", 0), ("int8", 2 if network == "under" else 0)):
            arrays[f"clean/{network}/{form}"] = logits(max(clean - lost, 0), twin=5)
            for attack in ("fast", "PGD 8/255"):
                arrays[f"{attack}/{network}/{network}/{form}"] = logits(max(same - lost, 0), twin=25)
                if network != "balanced":
                    arrays[f"{attack}/balanced/{network}/{form}"] = logits(different, twin=10)
    with Run.start("job", "measure", config={"seed": seed}, root=folder) as run:
        write_npz(run.path / "logits.npz", arrays)
        run.finish()
    return read_measured(Run.open(run.path), target="truck", seed=seed)


def test_a_cell_counts_what_its_logits_say(tmp_path: Path) -> None:
    cell = measured(tmp_path).cells["under", "fp32", "PGD 8/255", "same"]
    record = cell.record()
    assert record["clean"] == {"hits": 40, "total": 100}
    assert record["attacked"] == {"hits": 4, "total": 100}
    assert record["robust_among_correct"] == {"hits": 4, "total": 40}
    assert record["relative_difference"] == pytest.approx(90)
    assert record["drop_points"] == pytest.approx(36)
    assert record["margins"] == {"p10": 2, "p50": 2, "p90": 2}
    assert measured(tmp_path).cells["under", "fp32", "fast", "different"].attacked_accuracy.hits == 20


def verdicts(*found: Measured) -> dict[str, tuple[str, float | None]]:
    judged = judge_claims(found, twins={"truck": TWIN}, pgd=("PGD 8/255",))
    return {verdict.claim: (verdict.outcome, verdict.effect.value) for verdict in judged}


def test_effects_are_differences_between_networks(tmp_path: Path) -> None:
    said = verdicts(*(measured(tmp_path / str(seed), seed=seed, under=(40 + seed, 4, 20)) for seed in range(3)))
    assert said["Clean accuracy on the target class: over-sampled > balanced"] == ("held", pytest.approx(10))
    assert said["Clean accuracy on the target class: balanced > under-sampled"] == ("held", pytest.approx(39))
    relative = sum(100 * (40 + seed - 4) / (40 + seed) for seed in range(3)) / 3 - 50
    assert said["Relative difference: under-sampled > balanced"] == ("held", pytest.approx(relative))
    assert said["Drop in points turns the order round: balanced > under-sampled"] == ("held", pytest.approx(3))
    different = "Accuracy of the under-sampled network: different-model attack > same-model attack"
    assert said[different] == ("held", pytest.approx(16))
    assert said["Flow to the twin class under attack: under-sampled > balanced"] == ("undecided", pytest.approx(0))
    int8 = "INT8 costs the under-sampled network more accuracy under attack than the balanced one"
    assert said[int8] == ("held", pytest.approx(2))
    assert not any("logit-adjustment" in claim for claim in said)


def test_a_relative_difference_without_hits_is_undefined_and_decides_nothing(tmp_path: Path) -> None:
    found = measured(tmp_path, under=(0, 0, 0))
    assert found.cells["under", "fp32", "fast", "same"].record()["relative_difference"] is None
    assert verdicts(found)["Relative difference: under-sampled > balanced"] == ("undecided", None)


def test_one_seed_is_judged_by_resampling_its_images_together(tmp_path: Path) -> None:
    [verdict] = [
        verdict
        for verdict in judge_claims([measured(tmp_path)], twins={"truck": TWIN}, pgd=())
        if verdict.claim == "Clean accuracy on the target class: balanced > under-sampled"
    ]
    assert verdict.outcome == "held"
    assert "within one seed: paired bootstrap" in verdict.effect.method
    # Paired on nested hits, 40 of 100 images differ: the interval is that of a binomial share of 0.4.
    assert (verdict.effect.low, verdict.effect.high) == pytest.approx((30.4, 49.6), abs=2)


@pytest.mark.slow
def test_a_killed_study_ends_in_the_same_bytes_as_one_that_was_not(tmp_path: Path) -> None:
    def command(out: Path) -> list[str]:
        return [
            sys.executable,
            "cli.py",
            "study",
            "imbalance",
            "--preset",
            "smoke",
            "--processes",
            "2",
            "--out",
            str(out),
        ]

    subprocess.run(command(tmp_path / "whole"), cwd=ROOT, check=True, capture_output=True)
    broken = tmp_path / "broken"
    for ended, how in (("data", signal.SIGKILL), ("train-balanced-0", signal.SIGINT)):
        with subprocess.Popen(command(broken), cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
            while not (broken / "jobs" / ended / "manifest.json").exists() and process.poll() is None:
                time.sleep(0.1)
            process.send_signal(how)
            said = process.communicate()[1]
        assert process.returncode != 0
        if how == signal.SIGINT:
            assert process.returncode == 130
            assert "the same command continues it" in said
            assert len(said.strip().splitlines()) == 1
        time.sleep(1)
    subprocess.run(command(broken), cwd=ROOT, check=True, capture_output=True)
    assert (broken / "study.json").read_bytes() == (tmp_path / "whole" / "study.json").read_bytes()

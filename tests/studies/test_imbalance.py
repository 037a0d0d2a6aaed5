"""The study of class-imbalanced networks: its plan, its rows and what it says of them."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeproof.data.arrays import write_npz
from edgeproof.evaluation.metrics import Rate
from edgeproof.reports.tables import Table
from edgeproof.runs import Run
from edgeproof.studies.frame import Row, where
from edgeproof.studies.imbalance import findings, published, report
from edgeproof.studies.imbalance.findings import Measured, measured_row, partners, read_measured, verdicts
from edgeproof.studies.imbalance.published import NETWORKS
from edgeproof.studies.verdicts import Verdict
from tests.studies.planning import jobs_of

ROOT = Path(__file__).resolve().parent.parent.parent
LABEL, PARTNER, COUNT = 2, 0, 100
CLEAN = "Clean accuracy on the target class: balanced > under-sampled"
RELATIVE = "Relative difference: under-sampled > balanced"
FLOW = "Flow to the twin class under attack: under-sampled > balanced"


def test_the_full_protocol_is_fifty_cells_and_twenty_one_networks() -> None:
    jobs = jobs_of("imbalance", preset="paper", remedies="none")
    assert Counter(name.split("-")[0] for name in jobs) == {"data": 1, "train": 21, "export": 21, "measure": 10}
    same = [(target, network) for target in published.CLEAN for network in NETWORKS]
    different = [(target, network) for target in published.CLEAN for network in NETWORKS[1:]]
    assert len(same + different) == 50
    assert all(tuple(jobs[f"measure-{target}-0"].config["networks"]) == NETWORKS for target in published.CLEAN)
    assert jobs["train-under-cat-0"].config["data.imbalance"] == "under:cat=1000"
    assert jobs["train-over-cat-0"].config["data.imbalance"] == "over:cat=1000"


def test_the_medium_preset_has_twenty_one_networks_and_remedies_for_one() -> None:
    trainings = [job for job in jobs_of("imbalance", preset="medium").values() if job.stage == "train"]
    assert len(trainings) == 21 + 5
    assert {(job.config["seed"], job.config["data.split_seed"]) for job in trainings} == {(0, 0), (1, 1), (2, 2)}


def test_sets_with_few_large_classes_are_trained_for_more_epochs() -> None:
    jobs = jobs_of("imbalance", epochs=7, rare_epochs=13)
    epochs = {name: job.config["epochs"] for name, job in jobs.items() if job.stage == "train"}
    assert {name for name, count in epochs.items() if count == 13} == {
        "train-over-truck-0",
        "train-over-ship-0",
        "train-long-tailed-0",
        "train-long-tailed-logit-adjustment-0",
    }
    assert set(epochs.values()) == {7, 13}


def test_the_iterative_variant_is_measured_only_where_it_is_asked_for() -> None:
    attacks = {n: jobs_of("imbalance", iterations=n)["measure-truck-0"].config["attacks"] for n in (1, 5)}
    assert list(attacks[1]) == ["fast", "PGD 0.01", "PGD 8/255"]
    assert attacks[5]["iterative"]["params"]["steps"] == 5


def test_the_published_means_are_those_that_the_paper_and_its_slip_are_made_of() -> None:
    assert published.mean_attacked("under", "different") == pytest.approx(53.8)
    assert published.mean_attacked("balanced", "same") == pytest.approx(25.8)
    assert published.mean_attacked("under", "same") == pytest.approx(14.17)
    assert published.mean_clean("under") == pytest.approx(66.0)
    assert [round(published.mean_relative(network), 2) for network in NETWORKS] == [69.85, 80.05, 49.72]


def logits(right: int, partner: int = 0) -> np.ndarray[Any, Any]:
    """Logits of the target's images: `right` of 100 of them correct, the next `partner` taken for the paired class, the rest for class 1."""
    classes = np.full(COUNT, 1)
    classes[:right], classes[right : right + partner] = LABEL, PARTNER
    return np.eye(3, dtype=np.float32)[classes] * 2


def measured(
    folder: Path,
    *,
    seed: int = 0,
    under: tuple[int, int, int] = (40, 4, 20),
    target: str = "truck",
    remedy: int | None = None,
) -> Measured:
    """A measured class: (clean, same, different) hits of 100 for each network; INT8 loses two of the under-sampled's hits."""
    hits = {"balanced": (80, 40, 40), "under": under, "over": (90, 60, 85)}
    if remedy is not None:
        hits["under, logit-adjustment"] = (remedy, remedy // 2, 0)
    arrays = {"labels": np.full(COUNT, LABEL), "rows": np.arange(COUNT)}
    for network, (clean, same, different) in hits.items():
        for form, lost in (("fp32", 0), ("int8", 2 if network == "under" else 0)):
            if form == "int8" and network not in NETWORKS:
                continue
            arrays[f"clean/{network}/{form}"] = logits(max(clean - lost, 0), partner=5)
            for attack in ("fast", "PGD 8/255"):
                arrays[f"{attack}/{network}/{network}/{form}"] = logits(max(same - lost, 0), partner=25)
                if network in ("under", "over"):
                    arrays[f"{attack}/balanced/{network}/{form}"] = logits(different, partner=10)
    with Run.start("job", "measure", config={"seed": seed, "target": target}, root=folder) as run:
        write_npz(run.path / "logits.npz", arrays)
        run.finish()
    return read_measured(Run.open(run.path), target=target, seed=seed)


def judged(rows: Sequence[Row]) -> dict[str, Verdict]:
    targets = {str(row["target"]) for row in rows}
    found = verdicts(rows, partners=dict.fromkeys(targets, PARTNER), pgd=("PGD 8/255",))
    return {verdict.claim: verdict for verdict in found}


def outcomes(rows: Sequence[Row]) -> dict[str, tuple[str, Any]]:
    return {claim: (verdict.outcome, verdict.effect.value) for claim, verdict in judged(rows).items()}


def over_seeds(folder: Path, *unders: tuple[int, int, int]) -> list[dict[str, Any]]:
    return [
        row for seed, under in enumerate(unders) for row in measured(folder / str(seed), seed=seed, under=under).rows
    ]


def test_a_row_counts_what_its_logits_say(tmp_path: Path) -> None:
    rows = measured(tmp_path).rows
    (row,) = where(rows, network="under", form="fp32", attack="PGD 8/255", adversary="same")
    assert row["clean"] == {"hits": 40, "total": 100}
    assert row["attacked"] == {"hits": 4, "total": 100}
    assert row["robust_among_correct"] == {"hits": 4, "total": 40}
    assert row["relative_difference"] == pytest.approx(90)
    assert row["drop_points"] == pytest.approx(36)
    assert row["margins"] == {"p10": 2, "p50": 2, "p90": 2}
    (other,) = where(rows, network="under", form="fp32", attack="fast", adversary="different")
    assert other["attacked"]["hits"] == 20
    assert not where(rows, network="balanced", adversary="different")


def test_robustness_is_among_the_correctly_classified_and_an_image_that_becomes_correct_does_not_count() -> None:
    labels = np.zeros(4, np.int64)
    clean, attacked = (np.eye(2, dtype=np.float32)[classes] for classes in ([0, 0, 1, 1], [0, 1, 0, 1]))
    row = measured_row(labels, clean, attacked)
    assert (row["clean"]["hits"], row["attacked"]["hits"]) == (2, 2)
    assert row["robust_among_correct"] == {"hits": 1, "total": 2}
    assert (row["relative_difference"], row["drop_points"]) == (0, 0)


def test_margins_are_the_true_logit_minus_the_largest_other_one_of_correct_images() -> None:
    clean = np.array([[5.0, 1.0, 3.0], [4.0, 3.5, 0.0], [0.0, 9.0, 0.0], [6.0, 2.0, 5.0]])
    row = measured_row(np.zeros(4, np.int64), clean, clean)
    assert row["margins"] == pytest.approx(
        {"p10": np.percentile([2, 0.5, 1], 10), "p50": 1.0, "p90": np.percentile([2, 0.5, 1], 90)}
    )
    wrong = measured_row(np.full(4, 2), clean, clean)
    assert wrong["margins"] == {"p10": None, "p50": None, "p90": None}


def test_the_confusion_of_a_network_is_that_of_the_whole_clean_test_set(tmp_path: Path) -> None:
    networks = measured(tmp_path).networks
    assert list(networks) == list(NETWORKS)
    assert networks["under"]["confusion"].tolist() == [[0, 0, 0], [0, 0, 0], [5, 55, 40]]


def test_effects_are_differences_between_networks(tmp_path: Path) -> None:
    pytest.importorskip("scipy")
    found = outcomes(over_seeds(tmp_path, (40, 4, 20), (41, 4, 20), (42, 4, 20)))
    assert found["Clean accuracy on the target class: over-sampled > balanced"] == ("held", pytest.approx(10))
    assert found[CLEAN] == ("held", pytest.approx(39))
    relative = sum(100 * (40 + seed - 4) / (40 + seed) for seed in range(3)) / 3 - 50
    assert found[RELATIVE] == ("held", pytest.approx(relative))
    assert found["Relative difference: balanced > over-sampled"] == ("held", pytest.approx(50 - 100 / 3))
    assert found["Relative difference under PGD 8/255: under-sampled > balanced"] == ("held", pytest.approx(relative))
    assert found["Drop in points turns the order round: balanced > under-sampled"] == ("held", pytest.approx(3))
    over = "Accuracy of the over-sampled network: different-model attack > same-model attack"
    assert found[over] == ("held", pytest.approx(25))
    under = "Accuracy of the under-sampled network: different-model attack > same-model attack"
    assert found[under] == ("held", pytest.approx(16))
    assert found[FLOW] == ("undecided", pytest.approx(0))
    added = "What the attack adds to that flow, beyond the clean images: under-sampled > balanced"
    assert found[added] == ("undecided", pytest.approx(0))
    int8 = "INT8 costs the under-sampled network more accuracy under attack than the balanced one"
    assert found[int8] == ("held", pytest.approx(2))
    clean = "INT8 costs the under-sampled network more clean accuracy on the target class than the balanced one"
    assert found[clean] == ("held", pytest.approx(2))
    assert not any("logit-adjustment" in claim for claim in found)


def test_a_flow_that_was_there_without_the_attack_is_not_added_by_it(tmp_path: Path) -> None:
    rows = measured(tmp_path).rows
    (row,) = where(rows, network="under", form="fp32", attack="fast", adversary="same")
    row["predicted_clean"] = np.where(np.arange(COUNT) >= COUNT - 15, PARTNER, row["predicted_clean"])
    found = judged(rows)
    added = "What the attack adds to that flow, beyond the clean images: under-sampled > balanced"
    assert found[added].effect.value == pytest.approx((25 - 20) - (25 - 5))
    assert found[FLOW].effect.value == pytest.approx(0)


def test_each_claim_of_the_paper_turns_to_not_held_where_the_networks_are_exchanged(tmp_path: Path) -> None:
    pytest.importorskip("scipy")
    rows = over_seeds(tmp_path, (40, 4, 20), (41, 4, 20), (42, 4, 20))
    exchanged = {"balanced": "under", "under": "balanced", "over": "over"}
    # The balanced network has no different-model attack, so its same-model one stands in for it.
    twice = [row | {"adversary": "different"} for row in where(rows, network="balanced")]
    found = outcomes([row | {"network": exchanged[row["network"]]} for row in (*rows, *twice)])
    before = outcomes(rows)
    for claim in (CLEAN, RELATIVE, "Drop in points turns the order round: balanced > under-sampled"):
        assert before[claim] == ("held", pytest.approx(-found[claim][1]))
        assert found[claim][0] == "not held"


def test_a_claim_whose_seeds_disagree_is_undecided_and_its_note_counts_them(tmp_path: Path) -> None:
    pytest.importorskip("scipy")
    verdict = judged(over_seeds(tmp_path, (40, 4, 20), (95, 4, 20), (70, 4, 20)))[CLEAN]
    assert verdict.outcome == "undecided"
    assert verdict.effect.values == pytest.approx((40, -15, 10))
    assert verdict.note == "2 of 3"


def test_a_seed_counts_once_however_many_targets_were_measured_at_it(tmp_path: Path) -> None:
    pytest.importorskip("scipy")
    rows = []
    for seed, target, clean in ((0, "truck", 40), (0, "ship", 60), (1, "truck", 50)):
        rows += measured(tmp_path / f"{seed}{target}", seed=seed, target=target, under=(clean, 4, 20)).rows
    verdict = judged(rows)[CLEAN]
    assert verdict.effect.values == pytest.approx(((40 + 20) / 2, 30))
    assert verdict.note == "3 of 3"


def test_a_relative_difference_without_hits_is_undefined_and_decides_nothing(tmp_path: Path) -> None:
    found = measured(tmp_path, under=(0, 0, 0)).rows
    (row,) = where(found, network="under", form="fp32", attack="fast", adversary="same")
    assert row["relative_difference"] is None
    assert outcomes(found)[RELATIVE] == ("undecided", None)
    assert judged(found)[RELATIVE].note == "0 of 0, 1 undefined"


def test_seeds_without_hits_are_left_out_of_a_relative_difference_and_counted(tmp_path: Path) -> None:
    pytest.importorskip("scipy")
    verdict = judged(over_seeds(tmp_path, (40, 4, 20), (0, 0, 0), (50, 5, 20)))[RELATIVE]
    assert verdict.effect.values == pytest.approx((40, 40))
    assert verdict.note == "2 of 2, 1 undefined"


def test_a_remedy_is_judged_against_the_network_that_it_remedies(tmp_path: Path) -> None:
    pytest.importorskip("scipy")
    rows = [row for seed in range(2) for row in measured(tmp_path / str(seed), seed=seed, remedy=70 + seed).rows]
    found = judged(rows)
    raised = found["logit-adjustment raises the clean accuracy of the under network on the target class"]
    assert raised.effect.values == pytest.approx((30, 31))
    assert found["logit-adjustment raises its accuracy under attack"].effect.values == pytest.approx((31, 31))
    assert not any("class-balanced" in claim or "long-tailed" in claim for claim in found)


def test_one_seed_is_judged_by_resampling_its_images_together(tmp_path: Path) -> None:
    verdict = judged(measured(tmp_path).rows)[CLEAN]
    assert verdict.outcome == "held"
    assert "within one seed: paired bootstrap" in verdict.effect.method
    # Paired on nested hits, 40 of 100 images differ: the interval is that of a binomial share of 0.4.
    assert (verdict.effect.low, verdict.effect.high) == pytest.approx((30.4, 49.6), abs=2)


def test_the_bootstrap_is_the_percentile_interval_of_scipy(tmp_path: Path) -> None:
    stats = pytest.importorskip("scipy.stats")
    rows = measured(tmp_path).rows
    effect = judged(rows)[CLEAN].effect
    (balanced,) = where(rows, network="balanced", form="fp32", attack="fast", adversary="same")
    (under,) = where(rows, network="under", form="fp32", attack="fast", adversary="same")
    gained = 100.0 * ((balanced["predicted_clean"] == LABEL).astype(float) - (under["predicted_clean"] == LABEL))
    expected = stats.bootstrap(
        (gained,), np.mean, n_resamples=4000, method="percentile", random_state=0
    ).confidence_interval
    assert (effect.low, effect.high) == pytest.approx((expected.low, expected.high), abs=1.5)


def test_equal_networks_resampled_together_have_an_interval_of_no_width(tmp_path: Path) -> None:
    rows = measured(tmp_path, under=(80, 40, 40)).rows
    effect = judged(rows)[CLEAN].effect
    assert (effect.value, effect.low, effect.high) == (0, 0, 0)


@pytest.mark.parametrize("name, partner", [("cat", 5), ("truck", 1), ("ship", 3)])
def test_a_class_is_paired_as_in_the_paper_and_else_with_what_balanced_networks_take_it_for(
    name: str, partner: int
) -> None:
    classes = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    confusion = np.eye(10, dtype=np.int64) * 50
    confusion[8, [2, 3]] = (4, 5)
    under = confusion.copy()
    under[8, 4] = 40
    networks = [
        {"target": name, "network": "balanced", "confusion": confusion},
        {"target": name, "network": "balanced", "confusion": confusion},
        {"target": name, "network": "under", "confusion": under},
    ]
    assert partners(networks, classes) == {name: partner}


def text(table: Table) -> list[list[str]]:
    return [[cell.text for cell in row] for row in table.rows]


def test_the_table_of_the_paper_has_published_means_only_where_every_target_has_one(tmp_path: Path) -> None:
    rows = [*measured(tmp_path / "a").rows, *measured(tmp_path / "b", target="ship", under=(40, 10, 20)).rows]
    table = report.under_attack(rows)
    assert text(table) == [
        ["truck", "20.0", "85.0", "40.0", "4.0", "60.0"],
        ["ship", "20.0", "85.0", "40.0", "10.0", "60.0"],
        ["mean", "20.0", "85.0", "40.0", "7.0", "60.0"],
    ]
    assert [cell.detail for cell in table.rows[2]][1:] == [
        "paper 57.5",
        "paper 88",
        "paper 43",
        "paper 20",
        "paper 56.5",
    ]
    mixed = report.under_attack([*rows, *measured(tmp_path / "c", target="8").rows])
    assert [cell.detail for cell in mixed.rows[3]][1:] == [""] * 5


def test_the_table_of_losses_has_relative_difference_points_and_margins(tmp_path: Path) -> None:
    rows = [*measured(tmp_path / "0").rows, *measured(tmp_path / "1", seed=1, under=(50, 4, 20)).rows]
    table = report.taken(rows)
    assert text(table)[:3] == [
        ["truck", "balanced", "80.0", "50.0", "40.0", "2.00"],
        ["truck", "under", "45.0", "91.0", "41.0", "2.00"],
        ["truck", "over", "90.0", "33.3", "30.0", "2.00"],
    ]
    assert [cell.detail for cell in table.rows[1]] == ["", "", "paper 80", "paper 73.8", "paper 59", "2.00 to 2.00"]


def test_the_table_of_losses_is_undefined_where_nothing_is_correct(tmp_path: Path) -> None:
    row = text(report.taken(measured(tmp_path, under=(0, 0, 0)).rows))[1]
    assert row == ["truck", "under", "0.0", "undefined", "0.0", "undefined"]


def test_the_table_of_flows_takes_the_clean_flow_off(tmp_path: Path) -> None:
    rows = measured(tmp_path).rows
    assert text(report.flows(rows, ("a", "b", "truck"), {"truck": PARTNER})) == [
        ["truck to a", "balanced", "5.0", "25.0", "", "+20.0"],
        ["truck to a", "under", "5.0", "25.0", "10.0", "+20.0"],
        ["truck to a", "over", "5.0", "25.0", "10.0", "+20.0"],
    ]


def test_the_table_of_forms_is_in_points_next_to_the_checkpoint(tmp_path: Path) -> None:
    rows = measured(tmp_path).rows
    fp16 = [row | {"form": "fp16"} for row in where(rows, form="fp32")]
    found = {row[1]: row[2:] for row in text(report.forms([*rows, *fp16]))}
    assert found["under, same"] == ["40.0", "4.0", "0.0", "0.0", "−2.0", "−2.0"]
    assert found["balanced, same"] == ["80.0", "40.0", "0.0", "0.0", "0.0", "0.0"]
    assert found["under, different"] == ["40.0", "20.0", "0.0", "0.0", "−2.0", "0.0"]
    assert list(found) == ["balanced, same", "under, same", "over, same", "under, different", "over, different"]


def test_the_table_of_attacks_has_accuracy_and_robustness_of_each(tmp_path: Path) -> None:
    table = report.attacks(measured(tmp_path).rows)
    assert [column.title for column in table.columns][2:] == [
        "fast, accuracy", "fast, robust", "PGD 8/255, accuracy", "PGD 8/255, robust",
    ]  # fmt: skip
    assert text(table)[1] == ["truck", "under", "4.0", "10.0", "4.0", "10.0"]


def test_the_table_of_remedies_has_the_trainings_of_those_targets_and_seeds_alone_that_had_one(tmp_path: Path) -> None:
    with_one, without = measured(tmp_path / "0", remedy=70), measured(tmp_path / "1", seed=1)
    networks = [*with_one.networks.values(), *without.networks.values()]
    found = text(report.remedies([*with_one.rows, *without.rows], networks))
    assert [row[:2] for row in found] == [["truck, seed 0", name] for name in (*NETWORKS, "under, logit-adjustment")]
    assert found[3][2:] == ["70.0", "70.0", "35.0", "35.0", "2.00"]


def test_the_table_of_trainings_gives_ranges_over_seeds(tmp_path: Path) -> None:
    both = [measured(tmp_path / str(seed), seed=seed, under=(40 + 10 * seed, 4, 20)) for seed in (0, 1)]
    networks = [
        row | {"of_target": 270 + n, "images": 13500, "kept_epoch": 7, "steps": 1000, "seconds": 30.0}
        for one in both
        for n, row in enumerate(one.networks.values())
    ]
    networks[4]["of_target"] = 300
    found = {row[1]: row[2:] for row in text(report.trained(networks))}
    assert found["under"] == ["271–300", "13,500", "7", "45.0", "2"]
    assert found["balanced"] == ["270", "13,500", "7", "80.0", "2"]


def test_rows_are_saved_without_what_is_per_image(tmp_path: Path) -> None:
    row = measured(tmp_path).rows[0]
    assert {key for key, value in row.items() if isinstance(value, np.ndarray)} == set(findings.PER_IMAGE)
    assert Rate(**row["clean"]).total == COUNT


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

"""The saved documents of studies are those that their saved rows give, as far as rows hold what a document shows."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeproof.evaluation.weights import LayerRecord
from edgeproof.plugins.registry import find
from edgeproof.reports.document import Block, Document, Section, standalone, write_markdown
from edgeproof.reports.figures.svg import Figure
from edgeproof.reports.markdown import escape
from edgeproof.studies.base import StudyResults, command_line, settings_section, study_params, verdict_section
from edgeproof.studies.confuse import findings as confuse
from edgeproof.studies.confuse import report as confuse_report
from edgeproof.studies.confuse.published import PUBLISHED
from edgeproof.studies.frame import Row, where
from edgeproof.studies.imbalance import findings as imbalance
from edgeproof.studies.imbalance import report as imbalance_report
from edgeproof.studies.protected import findings as protected
from edgeproof.studies.protected import report as protected_report
from edgeproof.studies.quantization import findings as quantization
from edgeproof.studies.quantization import report as quantization_report
from edgeproof.studies.universal import findings as universal
from edgeproof.studies.universal import report as universal_report
from edgeproof.studies.verdicts import Verdict

pytest.importorskip("scipy")
DOCUMENTS = Path(__file__).resolve().parents[2] / "docs" / "studies"
NAMES = sorted(path.stem for path in DOCUMENTS.glob("*.json"))


def saved(name: str) -> StudyResults:
    return StudyResults.model_validate_json((DOCUMENTS / f"{name}.json").read_bytes())


def of_study(study: str) -> list[str]:
    return [name for name in NAMES if name.split("-")[0] == study]


def markdown(folder: Path, *blocks: Block) -> str:
    """What a document has of these blocks; figures are compared by `figures`."""
    found = Document("", "", (Section("", tuple(blocks)),), "")
    write_markdown(found, folder / "x.md")
    return (folder / "x.md").read_text(encoding="utf-8").partition("## \n\n")[2].partition("\n\n## How")[0]


def assert_in_document(name: str, folder: Path, *blocks: Block) -> None:
    text = (DOCUMENTS / f"{name}.md").read_text(encoding="utf-8")
    for block in blocks:
        if isinstance(block, Figure):
            drawn = [file.read_text(encoding="utf-8") for file in DOCUMENTS.glob(f"{name}-*.svg")]
            assert standalone(block) in drawn
        else:
            assert markdown(folder, block) in text


def assert_same_verdicts(name: str, again: Sequence[Verdict], *, without: Sequence[str] = ()) -> None:
    """Rows are saved rounded to six decimals, hence the tolerance."""
    known = {
        verdict.claim: verdict for verdict in saved(name).verdicts if not any(word in verdict.claim for word in without)
    }
    made = {verdict.claim: verdict for verdict in again if not any(word in verdict.claim for word in without)}
    assert list(made) == list(known)
    for claim, verdict in known.items():
        effect = made[claim].effect
        assert made[claim].model_copy(update={"effect": verdict.effect}) == verdict, claim
        assert (effect.unit, effect.method) == (verdict.effect.unit, verdict.effect.method)
        numbers = (verdict.effect.value, verdict.effect.low, verdict.effect.high, *verdict.effect.values)
        assert (effect.value, effect.low, effect.high, *effect.values) == pytest.approx(numbers, abs=2e-4)


@pytest.mark.parametrize("name", NAMES)
def test_verdicts_settings_and_command_of_a_document_are_those_of_its_results(name: str, tmp_path: Path) -> None:
    results = saved(name)
    entry = find("study", results.study)
    params = {key: tuple(value) if isinstance(value, list) else value for key, value in results.params.items()}
    text = (DOCUMENTS / f"{name}.md").read_text(encoding="utf-8")
    command = shlex.split(text.rpartition("```sh\n")[2].partition("\n")[0])
    assert command[:3] == ["edgeproof", "study", results.study]
    given = {
        word.removeprefix("--").replace("-", "_"): value
        for word, value in zip(command[3::2], command[4::2], strict=True)
    }
    # Three documents were made before the study had `loop_lr`, when the rate was 0.01; their commands set it.
    read = study_params(entry, preset="small", given=given)
    assert read == ({"loop_lr": 0.01} if "loop_lr" in read else {}) | params
    assert sorted(shlex.split(command_line(entry, read))) == sorted(command)
    assert text.startswith(f"# {escape(entry.summary.rstrip('.'))}\n")
    for section in (verdict_section(results.verdicts), settings_section(read)):
        assert markdown(tmp_path, *section.blocks) in text


@pytest.mark.parametrize("name", of_study("universal"))
def test_the_rows_of_universal_give_its_verdicts_tables_and_figures(name: str, tmp_path: Path) -> None:
    results = saved(name)
    params: dict[str, Any] = results.params
    taus, tau = params["taus"], params["tau"]
    assert_same_verdicts(name, universal.verdicts(results.cells, taus=taus, tau=tau))
    study = find("study", "universal").load()(**study_params(find("study", "universal"), preset="small", given=params))
    sections = universal_report.sections(results.cells, budgets=study.budgets(), taus=taus, tau=tau)
    assert_in_document(name, tmp_path, *(block for section in sections for block in section.blocks))


@pytest.mark.parametrize("name", of_study("quantization"))
def test_the_rows_of_quantization_give_its_verdicts_and_builds(name: str, tmp_path: Path) -> None:
    results = saved(name)
    again = quantization.verdicts(results.cells, spread=(0.2, 0.2, 0.4))
    assert_same_verdicts(name, again, without=["Samples of calibration images"])
    table = quantization_report.builds([{**row, "images_per_s": 1.0} for row in results.cells])
    text = (DOCUMENTS / f"{name}.md").read_text(encoding="utf-8")
    for line in markdown(tmp_path, table).splitlines()[2:]:
        assert line.rpartition("| 1.00 |")[0] in text


@pytest.mark.parametrize("name", of_study("confuse"))
def test_the_rows_of_confuse_give_its_verdicts_tables_and_curves(name: str, tmp_path: Path) -> None:
    results = saved(name)
    published = PUBLISHED.get(str(results.params["data"]), {})
    rows: Sequence[Row] = results.cells
    assert_same_verdicts(name, confuse.verdicts(rows, published=published))
    by = {
        table: where(rows, table=table)
        for table in ("main", "transfer", "budget", "poison", "flip", "defence", "baseline")
    }
    first = next(row for row in by["main"] if row["poison"])
    blocks: list[Block] = [
        confuse_report.spread_table(by["main"], published),
        confuse_report.pairs(by["transfer"], published, "network", first="Victim"),
        confuse_report.pairs(by["defence"], published, "defence", first="Defence"),
        *confuse_report.detected(where(rows, table="detector")),
    ]
    if by["budget"]:
        blocks += confuse_report.budgets([*by["budget"], first], published, eps=results.params["eps"])
    if by["poison"]:
        blocks += confuse_report.shares(by["poison"], by["flip"], published)
    if by["baseline"]:
        blocks += confuse_report.baselines(first, by["baseline"])
    assert_in_document(name, tmp_path, *blocks)


@pytest.mark.parametrize("name", of_study("protected"))
def test_the_rows_of_protected_give_its_verdicts_and_tables(name: str, tmp_path: Path) -> None:
    results = saved(name)
    scores = [row for row in results.cells if "engine" in row]
    layers = [{**row, "epochs": [LayerRecord.model_validate(row["layer"])]} for row in results.cells if "layer" in row]
    if len(results.params["seeds"]) > 1:  # with one seed intervals are over images, which rows do not hold
        assert_same_verdicts(name, list(protected.verdicts(scores, layers)))
    parts = (("clean", "fgsm", "pgd", "temperature", "square"), ("transfer", "deepfool", "cw"))
    tables = [protected_report.accuracies(scores, part) for part in parts]
    assert_in_document(name, tmp_path, *tables, protected_report.deployed(scores), protected_report.shapes(layers))


def images(row: Row, *, label: int) -> dict[str, Any]:
    """The images of a row of imbalance: as many are correct as were counted; which ones does not matter over seeds."""
    places = np.arange(row["clean"]["total"])
    return {
        "labels": np.full(len(places), label),
        "predicted_clean": np.where(places < row["clean"]["hits"], label, label + 1),
        "predicted": np.where(places < row["attacked"]["hits"], label, label + 1),
    }


@pytest.mark.parametrize("name", of_study("imbalance"))
def test_the_rows_of_imbalance_give_its_verdicts_tables_and_bars(name: str, tmp_path: Path) -> None:
    results = saved(name)
    rows = [{**row, **images(row, label=0)} for row in results.cells]
    partners = dict.fromkeys(results.params["targets"], 2)
    pgd = [attack for attack in dict.fromkeys(str(row["attack"]) for row in rows) if "PGD" in attack]
    again = imbalance.verdicts(rows, partners=partners, pgd=pgd)
    # Flows need every image's class; remedies were trained at one seed, so that their intervals are over images.
    assert_same_verdicts(name, again, without=["flow", "Flow", "raises"])
    tables = (imbalance_report.under_attack, imbalance_report.taken, imbalance_report.attacks, imbalance_report.forms)
    assert_in_document(name, tmp_path, *(table(rows) for table in tables), *imbalance_report.bars(rows))

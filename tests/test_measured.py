"""The tables of the README and of docs are those that the kept results give."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest

from edgeproof.evaluation.bench import BenchReport

pytest.importorskip("torch")

from benchmarks import attacks, deployed_forms, import_parity, scaling, soak

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
KNOWN = deployed_forms.read_results(RESULTS)


def measured(document: str, name: str) -> str:
    text = (ROOT / document).read_text(encoding="utf-8")
    return text.partition(f"<!-- measured: {name} -->\n\n")[2].partition(f"\n<!-- end: {name} -->")[0]


def test_the_summaries_of_the_readme_and_of_the_document_are_measured() -> None:
    shown = {name: KNOWN[name] for name in deployed_forms.IN_README}
    assert measured("README.md", "summary") == deployed_forms.summary(shown)
    assert measured("docs/deployed-forms.md", "summary") == deployed_forms.summary(KNOWN)


@pytest.mark.parametrize("name", deployed_forms.PRESETS)
def test_the_document_of_deployed_forms_is_measured(name: str) -> None:
    assert measured("docs/deployed-forms.md", name) == deployed_forms.in_full(KNOWN[name])


def test_the_parity_of_imports_is_measured() -> None:
    found = json.loads((RESULTS / "import-parity.json").read_text(encoding="utf-8"))
    assert import_parity.markdown(found) in (ROOT / "docs" / "white-box.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["attacks-pgd", "attacks-fgsm", "attacks-apgd"])
def test_the_speed_of_attacks_is_measured(name: str) -> None:
    report = BenchReport.model_validate_json((RESULTS / f"{name}.json").read_bytes())
    rows = attacks.table(report.cases).splitlines()[2:]
    assert "\n".join(rows) in (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")


def test_universal_perturbations_beside_art_are_measured() -> None:
    document = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    for side in json.loads((RESULTS / "universal.json").read_text(encoding="utf-8"))["sides"]:
        taken = f"{side['processor_seconds']:.1f} | {side['times_less_processor']:g} ×"
        assert f"| {side['side']} | {taken} | {side['fooling']} | {side['accuracy']} |" in document


def test_the_soak_is_measured() -> None:
    kept = json.loads((RESULTS / "soak.json").read_text(encoding="utf-8"))
    samples = [soak.Sample(**each) for each in kept["samples"]]
    assert soak.summary(samples) in (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("leak", [0, 40])
def test_a_soak_sees_a_leak_below_what_the_allocator_holds_back(leak: int) -> None:
    held = np.random.default_rng(0).integers(0, 15 * 2**20, 500)
    held[350:420] += 15 * 2**20
    assert soak.growth((leak * 2**10 * np.arange(500) + held).tolist()) == pytest.approx(leak * 2**10, abs=4 * 2**10)


def test_the_scaling_is_measured() -> None:
    kept = json.loads((RESULTS / "scaling.json").read_text(encoding="utf-8"))
    table = scaling.markdown(
        [scaling.Sample(**each) for each in kept["samples"]], argparse.Namespace(**kept["options"])
    )
    assert table in (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")

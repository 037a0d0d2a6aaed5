"""What an attack knew of an engine stands in the report's headline, in the limits, in JUnit and in comparisons."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from edgeproof.commands import cli
from edgeproof.evaluation.results import Results, read_results
from edgeproof.reports.content import EvalRun
from edgeproof.reports.diff import Change, Diff, diff_runs
from edgeproof.reports.diff_text import overall_table, verdict
from edgeproof.reports.html import render_html
from edgeproof.reports.junit import render_junit
from edgeproof.reports.markdown import render_markdown
from edgeproof.reports.tables import headline
from edgeproof.reports.terminal import print_results
from edgeproof.reports.wording import knowledge
from edgeproof.runs import Run, write_text
from tests.reports.synthetic import gate, make_eval_run


def knowing(results: Results, **threats: str) -> Results:
    """The results with what every attack knew of each engine; underscores stand for hyphens in the engines' names."""
    known = {name.replace("_", "-"): threat for name, threat in threats.items()}
    cells = [
        cell.model_copy(update={"threat": None if cell.set == "clean" else known.get(cell.engine, "white-box")})
        for cell in results.cells
    ]
    return results.model_copy(update={"cells": tuple(cells)})


def test_reports_name_the_engines_that_no_attack_followed(run: EvalRun) -> None:
    results = knowing(run.results, torch_fp32="checkpoint", ort_int8_trt="checkpoint", ort_fp16="unknown")
    expected = (
        "Upper bounds of robust accuracy, since no attack followed the engine itself: torch-fp32, ort-int8-trt (made on its "
        "checkpoint, not on this build); ort-fp16 (what the attack knew is not recorded)."
    )
    assert knowledge(results) == expected
    text = io.StringIO()
    print_results(results, file=text)
    assert expected in text.getvalue()
    for render in (render_html, render_markdown):
        assert "no attack followed the engine itself" in render(dataclasses.replace(run, results=results))
    assert knowledge(knowing(run.results)) == ""
    assert knowledge(run.results) == ""  # of an earlier version, which does not say


def test_the_headline_has_what_the_worst_attack_knew(run: EvalRun) -> None:
    rows = headline(knowing(run.results, ort_int8_trt="transferred")).rows
    assert [row[3].detail for row in rows] == ["white-box", "white-box", "transferred"]


def test_junit_has_what_the_attack_knew_whether_the_limit_holds_or_not(results: Results) -> None:
    gates = tuple(gate(passed=passed).model_copy(update={"threat": "checkpoint"}) for passed in (False, True))
    root = ElementTree.fromstring(render_junit(results.model_copy(update={"gates": gates})))
    failing, passing = root.iter("testcase")
    assert (failing.findtext("failure") or "").endswith("n = 200; made on its checkpoint, not on this build")
    assert passing.findtext("system-out") == "robust_accuracy=0.4 holds"


def altered(
    run: Run, *, engine: dict[str, Any] | None = None, set_: dict[str, Any] | None = None, **threats: str
) -> Run:
    """The run with fields of all engines and attacked sets changed, and what the attacks knew; finished."""
    found = knowing(read_results(run.path / "results.json"), **threats)
    engines = tuple(each.model_copy(update=engine or {}) for each in found.engines)
    sets = tuple(each.model_copy(update=set_ or {}) if each.kind == "adversarial" else each for each in found.sets)
    write_text(run.path / "results.json", found.model_copy(update={"engines": engines, "sets": sets}).text())
    run.finish()
    return run


ONE = {"engines": {"int8": 0.0}, "sets": (("pgd-linf", 0.1),)}


def compared(tmp_path: Path, before: dict[str, Any], after: dict[str, Any]) -> tuple[Diff, Change, tuple[str, str]]:
    """Two builds on the same adversaries, the second much more robust to them; the comparison on the attacked set."""
    runs = [
        altered(make_eval_run(tmp_path / "a", seed=0, **ONE), **before),
        altered(make_eval_run(tmp_path / "b", seed=1, **ONE), **after),
    ]
    found = diff_runs(*runs)
    change = next(each for each in found.overall if each.set.startswith("pgd"))
    return found, change, (str(runs[0].path), str(runs[1].path))


KNOWN = {"engine": {"sha256": "b", "made_from": ("c",)}}
FIXED = ({"int8": "checkpoint"}, {"int8": "transferred", **KNOWN})


def test_a_retrained_build_is_not_judged_on_the_adversaries_of_the_old_one(tmp_path: Path) -> None:
    found, change, runs = compared(tmp_path, *FIXED)
    assert (change.before_threat, change.after_threat) == ("checkpoint", "transferred")
    assert change.unlike.startswith(
        "made on its checkpoint, not on this build before, transferred from another file after; attack each"
    )
    assert (change.significant, change.p_value, change.p_holm) == (False, None, None)
    assert change.difference is not None
    assert overall_table(found).rows[1][-1].text == "not alike"
    assert "more are not of like with like" in verdict(found)
    assert any("Not compared like with like: int8 on" in note for note in found.notes)
    clean = next(each for each in found.overall if each.set == "clean")
    assert (clean.unlike, clean.p_holm is None) == ("", False)
    done = CliRunner().invoke(cli, ["diff", *runs, "--fail-on-loss"])
    assert done.exit_code != 0
    assert CliRunner().invoke(cli, ["diff", *runs]).exit_code == 0


@pytest.mark.parametrize(
    ("before", "after", "unlike"),
    [
        ({"int8": "white-box"}, {"int8": "white-box", **KNOWN}, ""),
        ({"int8": "checkpoint"}, {"int8": "checkpoint", **KNOWN}, ""),
        ({"int8": "transferred", "engine": {"made_from": ("d",)}}, {"int8": "transferred", **KNOWN}, ""),
        ({"int8": "transferred"}, {"int8": "transferred", **KNOWN}, "is not recorded, so either set may come from its own network"),
        ({"int8": "unknown"}, {"int8": "unknown", **KNOWN}, "what the attack knew is not recorded"),
        ({"int8": "unknown"}, {"int8": "unknown"}, ""),  # the same file on the same images
        ({"int8": "white-box"}, {"int8": "white-box", "set_": {"params": {"steps": 40}}, **KNOWN}, "steps is 20 before and 40 after"),
        ({"int8": "white-box"}, {"int8": "white-box", "set_": {"eps": 0.2}, **KNOWN}, "different attacks or budgets"),
    ],
)  # fmt: skip
def test_like_is_compared_with_like(tmp_path: Path, before: dict[str, Any], after: dict[str, Any], unlike: str) -> None:
    _, change, _ = compared(tmp_path, before, after)
    assert unlike in change.unlike
    assert bool(unlike) == bool(change.unlike) == (change.p_value is None)


def test_white_box_sets_that_name_their_builds_are_compared_with_each_other(tmp_path: Path) -> None:
    runs = []
    for folder, source in (("a", "old.onnx"), ("b", "new.onnx")):
        names = {"pgd-linf 0.1": f"pgd-linf 0.1 on {source}"}
        runs.append(altered(make_eval_run(tmp_path / folder, names=names, **ONE), int8="white-box"))
    found = diff_runs(*runs)
    assert [(change.set, change.set_after) for change in found.overall] == [
        ("clean", None), ("pgd-linf 0.1 on old.onnx", "pgd-linf 0.1 on new.onnx"),
    ]  # fmt: skip
    assert found.notes == ()
    assert overall_table(found).rows[1][0].text == "pgd-linf 0.1 on old.onnx, then pgd-linf 0.1 on new.onnx"

"""The limits as JUnit test cases, parsed as XML."""

from __future__ import annotations

from xml.etree import ElementTree

from edgeproof.evaluation.results import Results
from edgeproof.reports import numbers
from edgeproof.reports.content import EvalRun
from edgeproof.reports.junit import render_junit


def test_there_is_a_case_a_limit_and_a_failure_for_the_one_that_does_not_hold(results: Results) -> None:
    root = ElementTree.fromstring(render_junit(results))
    assert (root.get("tests"), root.get("failures")) == ("2", "1")
    failing, passing = root.iter("testcase")
    assert failing.attrib == {"classname": "ort-int8-trt on pgd-linf 0.1", "name": "robust_accuracy=0.4"}
    assert failing.findtext("failure") == "measured 12.0 %, limit at least 40.0 %, n = 200"
    assert passing.find("failure") is None


def test_a_run_without_limits_is_an_empty_suite(results: Results) -> None:
    root = ElementTree.fromstring(render_junit(results.model_copy(update={"gates": ()})))
    assert root.get("tests") == "0"
    assert not list(root.iter("testcase"))


def test_hostile_names_are_text_and_the_file_is_xml(hostile: EvalRun) -> None:
    root = ElementTree.fromstring(render_junit(hostile.results))
    (case,) = root.iter("testcase")
    assert case.get("name") == numbers.visible(hostile.results.gates[0].text)

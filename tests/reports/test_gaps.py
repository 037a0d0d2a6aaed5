"""The worst attack per image and what knowing more gains, in every report."""

from __future__ import annotations

import dataclasses
import io

import pytest

from edgeproof.evaluation.metrics import Rate
from edgeproof.evaluation.results import GapRecord, IndicatorRecord, WorstRecord
from edgeproof.reports.content import EvalRun
from edgeproof.reports.html import render_html
from edgeproof.reports.markdown import render_markdown
from edgeproof.reports.terminal import print_results
from edgeproof.reports.wording import gap


def record(difference: float = -0.05, p_value: float = 0.002) -> GapRecord:
    return GapRecord(
        engine="ort-int8-trt", precision="int8", norm="linf", eps=0.05, first="pgd-linf 0.05", first_threat="transferred",
        second="fgsm 0.05", second_threat="white-box", only_first_right=12, only_second_right=2, difference=difference,
        low=-0.0871, high=-0.0129, p_value=p_value,
    )  # fmt: skip


def sign(name: str = "zero-gradients", *, reported: bool = True) -> IndicatorRecord:
    return IndicatorRecord(
        name=name, meaning="the gradient is zero", measured=0.412 if reported else None, limit=0.05, beyond="above",
        where="for 'fgsm 0.05'", reported=reported,
    )  # fmt: skip


@pytest.fixture(scope="module")
def measured(run: EvalRun) -> EvalRun:
    worst = WorstRecord(
        engine="ort-int8-trt", norm="linf", eps=0.05, sets=("fgsm 0.05", "pgd-linf 0.05"), accuracy=Rate(37, 200)
    )
    found = {"worst": (worst,), "gaps": (record(),), "masking": (sign(), sign("eps-sweep", reported=False))}
    return dataclasses.replace(run, results=run.results.model_copy(update=found))


def printed(run: EvalRun) -> str:
    text = io.StringIO()
    print_results(run.results, file=text)
    return text.getvalue()


def test_every_report_shows_both(measured: EvalRun) -> None:
    for text in (render_html(measured), render_markdown(measured)):
        for number in ("18.5 %", "−5.0", "−8.7 to −1.3", "white-box", "transferred", "is stronger"):
            assert number in text
    assert "18.5 %" in printed(measured)
    assert "What knowing more of an engine gains" in printed(measured)


def test_every_report_shows_the_signs_of_masking(measured: EvalRun) -> None:
    for text in (render_html(measured), render_markdown(measured)):
        for piece in (
            "Indicators of masked gradients",
            "41.2 %",
            "not measured",
            "above 5.0 %",
            "the gradient is zero",
        ):
            assert piece in text
    assert "Indicators of masked gradients: zero-gradients (1 of 2 measured)" in printed(measured)


def test_nothing_is_shown_where_nothing_was_measured(run: EvalRun) -> None:
    for text in (render_html(run), render_markdown(run), printed(run)):
        assert "Knows less" not in text
        assert "Indicators of masked" not in text


def test_a_gap_is_named_by_its_sign_and_only_where_it_is_significant() -> None:
    assert gap(record()) == "is stronger"
    assert gap(record(0.05)) == "is weaker: gradients may be masked"
    assert gap(record(0.05).model_copy(update={"second_threat": "query"})) == "is weaker"
    assert gap(record(p_value=0.3)).startswith("makes no difference")

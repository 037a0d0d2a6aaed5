"""What mistakes cost, in every report."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest

from edgeproof.evaluation.costs import choose_costs, cost_record
from edgeproof.evaluation.results import Results
from edgeproof.reports.content import EvalRun
from edgeproof.reports.html import render_html
from edgeproof.reports.markdown import render_markdown
from edgeproof.reports.terminal import print_results
from edgeproof.reports.wording import measured, required
from tests.reports.synthetic import gate


@pytest.fixture(scope="module")
def priced(run: EvalRun) -> EvalRun:
    """Every second image of every set is a cat taken for a dog, which costs 10."""
    costs = choose_costs(file=None, protect=["cat"], cost=10, side="miss", classes=run.results.classes)
    assert costs is not None
    labels = np.arange(200) % 2
    record = cost_record(np.ones(200, np.int64), labels, np.array(costs.matrix))
    cells = tuple(cell.model_copy(update={"cost": record}) for cell in run.results.cells)
    return dataclasses.replace(run, results=run.results.model_copy(update={"costs": costs, "cells": cells}))


def printed(results: Results) -> str:
    text = io.StringIO()
    print_results(results, file=text)
    return text.getvalue()


def test_every_report_shows_the_expected_cost_and_where_it_comes_from(priced: EvalRun) -> None:
    for text in (render_html(priced), render_markdown(priced), printed(priced.results)):
        for words in ("protect cat, cost 10, side miss", "5.000", "4.305–5.695", "cat as dog", "1000 in all", "10.000"):
            assert words in text


def test_nothing_is_said_of_costs_where_none_were_given(run: EvalRun) -> None:
    assert "What mistakes cost" not in render_html(run) + render_markdown(run) + printed(run.results)


def test_a_limit_on_the_cost_is_shown_in_its_own_unit() -> None:
    limit = gate("max-cost robust_cost=0.4", measured=1.25)
    assert (measured(limit), required(limit)) == ("1.250", "at most 0.4")

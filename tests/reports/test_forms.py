"""Deployed forms against each other."""

from __future__ import annotations

import pytest

from edgeproof.evaluation.metrics import Rate
from edgeproof.evaluation.results import InvarianceRecord, KernelsRecord, McNemar, PairRecord, Results
from edgeproof.reports import forms, numbers
from edgeproof.reports.content import EvalRun
from edgeproof.reports.html import render_html
from edgeproof.reports.markdown import render_markdown


def pair(first: str, second: str, *, lost: int, gained: int, p: float, set_: str = "clean") -> PairRecord:
    test = McNemar(only_reference_right=lost, only_engine_right=gained, p_value=p)
    return PairRecord(set=set_, first=first, second=second, agreement=Rate(200 - lost - gained, 200), mcnemar=test)


@pytest.fixture
def measured(results: Results) -> Results:
    """Three engines of which one differs from another by more than chance, even among three tests."""
    one, two, three = (engine.name for engine in results.engines)
    pairs = (
        pair(one, two, lost=0, gained=0, p=1.0),
        pair(one, three, lost=30, gained=2, p=0.001),
        pair(two, three, lost=12, gained=3, p=0.035),
    )
    flips = InvarianceRecord(images=16, batch_sizes=(2, 8), flips=1, flipped=(7,), max_abs_diff=0.012)
    kernels = KernelsRecord(integer=8, total=20)
    engines = (*results.engines[:2], results.engines[2].model_copy(update={"invariance": flips, "kernels": kernels}))
    return results.model_copy(update={"pairs": pairs, "engines": engines})


def test_the_matrix_has_every_pair_once(measured: Results) -> None:
    table = forms.matrix(measured, measured.sets[0])
    assert [column.title for column in table.columns] == ["", "ort-fp16", "ort-int8-trt"]
    assert [[(cell.text, cell.detail) for cell in row[1:]] for row in table.rows] == [
        [("100.0 %", "0 : 0"), ("84.0 %", "30 : 2")],
        [("–", ""), ("92.5 %", "12 : 3")],
    ]


def test_a_pair_differs_only_where_it_does_so_among_all_pairs(measured: Results) -> None:
    (row,) = forms.differing(measured).rows
    assert [cell.text for cell in row] == ["clean", "torch-fp32", "ort-int8-trt", "84.0 %", "30", "2", "0.003"]
    assert forms.verdict(measured).startswith("1 of 3 pairs differ significantly in accuracy: exact McNemar tests")
    alike = measured.model_copy(update={"pairs": measured.pairs[:1]})
    assert forms.verdict(alike).startswith("No two engines differ significantly")
    assert not forms.differing(alike).rows


def test_what_the_batch_changes_and_what_is_not_integer_stands_out(measured: Results, results: Results) -> None:
    row = forms.behaviour(measured).rows[2]
    assert [cell.text for cell in row[2:]] == ["8 of 20", "16", "2, 8", "1", "0.012"]
    assert [cell.tone for cell in row[2:]] == ["bad", "", "", "bad", ""]
    assert [cell.text for cell in forms.behaviour(measured).rows[0][2:]] == ["–"] * 5
    assert forms.has_behaviour(measured)
    assert not forms.has_behaviour(results)


def test_the_reports_show_them(run: EvalRun, measured: Results) -> None:
    shown = EvalRun(**{**vars(run), "results": measured})
    for text in (render_html(shown), render_markdown(shown)):
        for words in ("Every two engines", "1 of 3 pairs differ significantly", "How the engines compute", "8 of 20"):
            assert words in text
    for text in (render_html(run), render_markdown(run)):
        assert "Every two engines" not in text
        assert "How the engines compute" not in text


@pytest.mark.parametrize(
    ("hits", "total", "text"),
    [(540, 540, "100.0 %"), (539, 540, "99.8 %"), (9999, 10_000, "99.99 %"), (9_990, 10_000, "99.9 %"), (0, 10, "0.0 %"), (0, 0, "undefined")],
)  # fmt: skip
def test_a_share_is_100_percent_only_where_it_is_all(hits: int, total: int, text: str) -> None:
    assert numbers.share(Rate(hits, total)) == text

"""The tables as plain data, and in the terminal."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from edgeproof.evaluation.results import Results
from edgeproof.reports import tables, wording
from edgeproof.reports.content import EvalRun, read_eval_run
from edgeproof.reports.tables import Cell, Column, Table
from edgeproof.reports.terminal import print_results, print_table
from tests.reports.synthetic import gate, make_eval_run


def _column(table: Table, title: str) -> list[str]:
    position = [column.title for column in table.columns].index(title)
    return [row[position].text for row in table.rows]


@pytest.mark.parametrize(
    "make",
    [
        tables.headline,
        tables.gates,
        tables.accuracies,
        tables.attacks,
        tables.agreement,
        tables.engines,
        tables.sets,
        tables.throughput,
        tables.weakest_classes,
    ],
)
def test_every_row_has_a_cell_for_every_column(make: object, results: Results) -> None:
    table = make(results)  # type: ignore[operator]
    assert table.rows
    assert {len(row) for row in table.rows} == {len(table.columns)}


def test_accuracies_show_every_cell_with_its_counts(results: Results) -> None:
    table = tables.accuracies(results)
    expected = [
        f"{results.cell(engine.name, set_.name).accuracy.hits}/200"
        for set_ in results.sets
        for engine in results.engines
    ]
    assert _column(table, "Right") == expected


def test_rows_of_a_set_are_one_group(results: Results) -> None:
    groups = tables.accuracies(results).groups()
    assert [head.text for head, _ in groups] == [set_.name for set_ in results.sets]
    assert {len(rows) for _, rows in groups} == {3}


def test_the_reference_is_not_compared_with_itself(results: Results) -> None:
    assert results.reference not in _column(tables.agreement(results), "Engine")


def test_relative_difference_and_drop_stand_side_by_side(results: Results) -> None:
    titles = [column.title for column in tables.classes(results, results.sets[1]).columns]
    assert titles.index("Drop, points") == titles.index("Relative difference") + 1


def test_a_class_without_images_is_undefined_and_is_never_the_weakest(tmp_path: Path) -> None:
    results = read_eval_run(make_eval_run(tmp_path, missing=(1,))).results
    rows = {row[0].text: row for row in tables.classes(results, results.sets[1]).rows}
    assert [cell.text for cell in rows["dog"][2:]] == ["undefined", "undefined", "undefined", "undefined", "0"]
    assert "dog" not in _column(tables.weakest_classes(results), "Class")


def test_a_drop_is_measured_in_points_and_a_rate_in_percent() -> None:
    drop = gate("max-drop int8:robust_accuracy@cat=0.4", measured=0.123)
    assert (wording.measured(drop), wording.required(drop)) == ("12.3 points", "at most 40.0 points")
    rate = gate("fail-under robust_accuracy=0.4", measured=None)
    assert (wording.measured(rate), wording.required(rate)) == ("undefined", "at least 40.0 %")


@pytest.mark.parametrize(
    ("passed", "sentence"),
    [
        ((), "No limits were set, so nothing passed or failed."),
        ((True,), "Passed: the one limit holds."),
        ((True, True), "Passed: all 2 limits hold."),
        ((False, True), "Failed: 1 of 2 limits does not hold."),
        ((False, False), "Failed: 2 of 2 limits do not hold."),
    ],
)
def test_the_verdict_counts_the_limits(results: Results, passed: tuple[bool, ...], sentence: str) -> None:
    judged = results.model_copy(update={"gates": tuple(gate(passed=value) for value in passed)})
    assert wording.verdict(judged) == sentence


def test_the_terminal_shows_accuracies_limits_and_warnings(results: Results) -> None:
    text = io.StringIO()
    print_results(results, file=text)
    shown = text.getvalue()
    worst = results.cell("ort-int8-trt", "pgd-linf 0.1").accuracy
    assert f"{worst.hits}/200" in shown
    assert "does not hold" in shown
    assert "warning: The control set costs 3.0 points." in shown


def test_the_terminal_obeys_no_name(hostile: EvalRun) -> None:
    text = io.StringIO()
    print_results(hostile.results, file=text)
    assert "\x1b" not in text.getvalue()
    assert "\x07" not in text.getvalue()


def test_a_name_in_square_brackets_is_no_markup(tmp_path: Path) -> None:
    run = read_eval_run(make_eval_run(tmp_path, engines={"[red]int8[/red]": 0.0}, sets=()))
    text = io.StringIO()
    print_results(run.results, file=text)
    assert "[red]int8[/red]" in text.getvalue()


def test_a_table_of_80_columns_folds_names_and_keeps_every_number_whole() -> None:
    words, numbers = ("Set", "Engine", "Worst class"), ("Accuracy", "95 % interval", "Right", "Images/s")
    cells = ("universal-balanced 8/255", "ort-int8-cpu-fp32", "automobile-and-truck 57.9 %")
    values = ("78.5 %", "72.3–83.6", "15700/20000", "12,345")
    table = Table(
        columns=(*(Column(title, numeric=False) for title in words), *map(Column, numbers)),
        rows=((*map(Cell, cells), *map(Cell, values)),),
    )
    written = io.StringIO()
    print_table(table, title="narrow", file=written, width=80)
    assert max(map(len, written.getvalue().splitlines())) <= 80
    for value in (*values, "Accuracy", "Images/s"):
        assert value in written.getvalue()

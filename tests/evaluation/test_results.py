"""`results.json`: what it holds fits together, is read in both versions, and stays small with thousands of classes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeproof.errors import DataError
from edgeproof.evaluation.metrics import Rate, confusion
from edgeproof.evaluation.results import MOST_PAIRS, Results, read_results
from edgeproof.evaluation.scoring import CLEAN, Predictions, score
from edgeproof.evaluation.summary import complete
from edgeproof.reports.content import EvalRun
from edgeproof.reports.html import render_html
from tests.reports.synthetic import describe, make_eval_run

VERSION_1 = Path(__file__).with_name("results_version_1.json")


def evaluated(*, classes: int, images: int, engines: int, sets: int, wrong: float = 0.6) -> Results:
    """An evaluation of many classes with random mistakes."""
    random = np.random.default_rng(0)
    about = describe(classes=classes, images=images, engines=engines, sets=sets)
    labels = np.sort(random.integers(0, classes, images))
    cells = {
        (engine.name, set_.name): np.where(
            random.random(images) < (0.2 if set_.name == CLEAN else wrong), random.integers(0, classes, images), labels
        )
        for engine in about.engines
        for set_ in about.sets
    }
    return complete(about, {}, Predictions(labels, cells), ())


def test_a_file_of_version_1_says_what_it_said() -> None:
    old, new = json.loads(VERSION_1.read_text()), read_results(VERSION_1)
    assert (old["schema_version"], new.schema_version) == (1, 2)
    for before, after in zip(old["cells"], new.cells, strict=True):
        assert np.array_equal(np.array(before["confusion"]), after.matrix(len(new.classes)))
        assert (after.accuracy.low, after.accuracy.high) == pytest.approx(
            (before["accuracy"]["low"], before["accuracy"]["high"]), rel=1e-12
        )
        for each in before["per_class"]:
            assert (each["accuracy"]["hits"], each["accuracy"]["total"]) == (
                after.rate(each["label"]).hits,
                after.rate(each["label"]).total,
            )
        assert len(after.per_class) == len(new.classes) - 1  # one class has no images


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    results = evaluated(classes=7, images=300, engines=2, sets=3)
    (tmp_path / "results.json").write_text(results.text())
    assert read_results(tmp_path / "results.json") == results


def test_a_cell_lists_all_pairs_of_few_classes_and_counts_what_it_leaves_out_of_many() -> None:
    labels = np.arange(6000) % 100
    predicted = np.random.default_rng(0).integers(0, 100, 6000)
    predicted[:50] = -1  # without a prediction: in no pair
    (cell,) = score(
        Predictions(labels, {("e", CLEAN): predicted}),
        engines=["e"],
        sets=[CLEAN],
        reference="e",
        classes=[str(label) for label in range(100)],
    )
    whole = confusion(predicted, labels, num_classes=100)
    assert len(cell.confusion) == MOST_PAIRS < np.count_nonzero(whole)
    assert cell.matrix(100).sum() + cell.unlisted == whole.sum() == 5950
    listed = cell.matrix(100) > 0
    assert np.array_equal(cell.matrix(100)[listed], whole[listed])
    assert whole[~listed].max() <= whole[listed].min()


def test_a_thousand_classes_in_nine_engines_and_five_sets_stay_under_ten_megabytes(tmp_path: Path) -> None:
    results = evaluated(classes=1000, images=20_000, engines=9, sets=5)
    (tmp_path / "results.json").write_text(results.text())
    assert (tmp_path / "results.json").stat().st_size < 10e6
    assert read_results(tmp_path / "results.json") == results
    none = np.arange(0)
    page = render_html(EvalRun(results, none, none, none, predictions={}, gallery=None, command="edgeproof eval"))
    assert len(page.encode()) < 2e6
    assert "Of 1,000 classes the 40 with images on which engine-0 is worst are shown" in page
    assert len(set(re.findall(r"class \d+", page))) < 40 * 6  # a few classes of each set, not all of each


def test_twenty_five_thousand_classes_are_readable(tmp_path: Path) -> None:
    results = evaluated(classes=25_000, images=50_000, engines=1, sets=2)
    (tmp_path / "results.json").write_text(results.text())
    assert read_results(tmp_path / "results.json").cell("engine-0", "clean").rate(24_000).total > 0


@pytest.mark.parametrize(
    "change, message",
    [
        ({"reference": "nobody"}, "the reference 'nobody' is no engine"),
        ({"schema_version": 3}, "schema version 3; this version of edgeproof reads 1 to 2"),
        ({"classes": ["only"]}, "a class is not from 0 to 0"),
        ({"cells": []}, "there is not one cell for each engine and set"),
    ],
)
def test_what_does_not_fit_together_is_refused_with_the_part(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    run = make_eval_run(tmp_path)
    file = run.path / "results.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(DataError, match=message):
        read_results(file)


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("confusion", [[0, 1, 5], [9, 0, 1]], "a class is not from 0 to 3"),
        ("confusion", [[0, 1, 0]], "numbers of images that there are not"),
        ("per_class", [{"label": 1, "hits": 3, "total": 2}], "a class has more hits than there are images"),
        ("per_class", [{"label": 2, "hits": 1, "total": 2}, {"label": 1, "hits": 1, "total": 2}], "not in their order"),
        ("accuracy", {"hits": 3, "total": 2}, "a rate of 3 hits among 2"),
    ],
)
def test_a_cell_that_contradicts_itself_is_refused(tmp_path: Path, key: str, value: Any, message: str) -> None:
    run = make_eval_run(tmp_path)
    file = run.path / "results.json"
    found = json.loads(file.read_text())
    found["cells"][0][key] = value
    file.write_text(json.dumps(found))
    with pytest.raises(DataError, match=message):
        read_results(file)


def test_a_rates_interval_follows_from_its_counts_whatever_a_file_says() -> None:
    results = read_results(VERSION_1)
    plain = json.loads(results.text())
    plain["cells"][0]["accuracy"] |= {"value": 0.123, "low": 0.1, "high": 0.2}
    assert Results.model_validate(plain) == results
    assert plain["cells"][0]["accuracy"]["hits"] == results.cells[0].accuracy.hits
    assert Rate(0, 0).value is Rate(0, 0).low is None

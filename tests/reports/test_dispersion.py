from __future__ import annotations

import numpy as np

from edgeproof.evaluation.results import Results
from edgeproof.evaluation.scoring import CLEAN, Predictions, score
from edgeproof.reports.dispersion import dispersion


def test_universal_sets_show_where_the_predictions_went(results: Results) -> None:
    universal = results.sets[1].model_copy(update={"access": "data", "name": "universal 0.1"})
    labels = np.array([0, 1, 2, 3])
    cells = {("e", CLEAN): labels, ("e", universal.name): np.array([2, 2, 2, 3])}
    scored = score(
        Predictions(labels, cells), engines=["e"], sets=[CLEAN, universal.name], reference="e", classes=results.classes
    )
    engine = results.engines[0].model_copy(update={"name": "e"})
    shown = dispersion(
        results.model_copy(update={"engines": (engine,), "sets": (results.sets[0], universal), "cells": scored})
    )
    assert [cell.text for cell in shown.rows[0]] == [
        "universal 0.1", "e", "50.0 %", "75.0 %", "100.0 %", "0.41", "0.0 %", "100.0 %", "50.0 %",
    ]  # fmt: skip
    assert shown.rows[0][3].detail == results.classes[2]
    assert {len(row) for row in shown.rows} == {len(shown.columns)}
    assert not dispersion(results).rows

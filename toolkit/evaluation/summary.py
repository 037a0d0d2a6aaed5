"""From saved logits to `results.json`: everything here can be computed again from a run folder's files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edgeproof.data.arrays import read_npy, read_npz
from edgeproof.errors import DataError, RunError
from edgeproof.evaluation import masking
from edgeproof.evaluation.gap import measured_gaps, with_threats, worst_cases
from edgeproof.evaluation.gates import Gate, bind_gates, idle_gates, judge, parse_gates
from edgeproof.evaluation.logits import logits_name
from edgeproof.evaluation.metrics import predictions
from edgeproof.evaluation.results import Description, Results, read_results
from edgeproof.evaluation.sanity import check_engine, check_logits, check_probabilities, check_results
from edgeproof.evaluation.scoring import Predictions, pair_up, score
from edgeproof.runs import Run
from edgeproof.types import Array, Logits

AllLogits = Mapping[tuple[str, str], Logits]


def complete(about: Description, logits: AllLogits, predicted: Predictions, gates: Sequence[Gate]) -> Results:
    """Compute cells, gates and warnings from logits; of `about` only what describes the run is used."""
    engines, sets = [engine.name for engine in about.engines], [set_.name for set_ in about.sets]
    costs = None if about.costs is None else np.array(about.costs.matrix)
    scored = score(predicted, engines=engines, sets=sets, reference=about.reference, classes=about.classes, costs=costs)
    cells = with_threats(scored, about.engines, about.sets)
    warnings = [f"{each.name} could not be opened and is left out: {each.reason}" for each in about.left_out]
    warnings += [text for (engine, set_), values in logits.items() for text in check_logits(engine, set_, values)]
    warnings += check_probabilities(logits, about.sets)
    warnings += [text for engine in about.engines for text in check_engine(engine)]
    warnings += check_results(cells, engines=engines, sets=about.sets, classes=about.classes)
    gaps = measured_gaps(predicted, engines=about.engines, sets=about.sets)
    classes = len(about.classes)
    indicators = masking.masking(predicted, cells, engines=about.engines, sets=about.sets, classes=classes)
    warnings += masking.warnings(indicators)
    warnings += idle_gates(gates, cells, engines=about.engines, reference=about.reference)
    found = {
        "cells": cells,
        "pairs": pair_up(predicted, engines=engines, sets=sets),
        "worst": worst_cases(predicted, engines=about.engines, sets=about.sets),
        "gaps": gaps,
        "masking": indicators,
        "gates": judge(gates, cells, reference=about.reference),
        "warnings": tuple(f"{text.rstrip('.')}." for text in warnings),
    }
    return Results(**{name: getattr(about, name) for name in Description.model_fields}, **found)


def recompute(run: Run) -> Results:
    """Compute the results of an eval run again, from its saved logits and labels only.

    Raises:
        RunError: For a file that is missing or was changed.
    """
    about = read_results(run.file("results.json"))
    samples = read_npz(run.file("samples.npz"), required=("labels",))
    return recompute_from(about, gates_of(about), read_logits(run, about), samples)


def read_logits(run: Run, about: Results) -> dict[tuple[str, str], Logits]:
    """Read the saved logits of an eval run: (engine, set) to (N, K).

    Raises:
        RunError: For a file that is missing or was changed.
    """
    found = {}
    for engine in about.engines:
        for set_ in about.sets:
            path = run.file(logits_name(engine.name, set_.name))
            try:
                found[engine.name, set_.name] = read_npy(path)
            except DataError as error:
                raise RunError(f"{path} cannot be read as an array ({error}); evaluate again") from error
    return found


def recompute_from(
    about: Description, gates: Sequence[Gate], logits: AllLogits, samples: Mapping[str, Array]
) -> Results:
    """Compute results from logits and the arrays of `samples.npz`."""
    source = {
        set_.name: (samples[f"source_clean/{set_.name}"], samples[f"source/{set_.name}"])
        for set_ in about.sets
        if f"source/{set_.name}" in samples
    }
    cells = {cell: predictions(values) for cell, values in logits.items()}
    predicted = Predictions(labels=samples["labels"], cells=cells, source=source)
    return complete(about, logits, predicted, gates)


def gates_of(about: Results) -> tuple[Gate, ...]:
    """Read the gates back from their records."""
    texts: dict[str, list[str]] = {"fail-under": [], "max-drop": [], "max-cost": []}
    for text in dict.fromkeys(gate.text for gate in about.gates):
        kind, _, rest = text.partition(" ")
        texts[kind].append(rest)
    return bind_gates(
        parse_gates(texts["fail-under"], texts["max-drop"], texts["max-cost"]),
        engines={engine.name: engine.precision for engine in about.engines},
        reference=about.reference,
        sets=about.sets,
        classes=about.classes,
        left_out=about.left_out,
    )

"""`samples.npz`: an evaluation image by image, as `edgeproof.evaluation.results` describes it."""

from __future__ import annotations

import numpy as np

from edgeproof.data.arrays import to_storage
from edgeproof.evaluation.inputs import EvalInputs, hash_each
from edgeproof.evaluation.results import Results
from edgeproof.evaluation.scoring import CLEAN, Predictions, strongest
from edgeproof.types import Array


def sample_arrays(results: Results, predicted: Predictions, inputs: EvalInputs, *, shown: int) -> dict[str, Array]:
    """Return the arrays of `samples.npz`, with `shown` images of every set for the report's gallery."""
    rows = _gallery_rows(results, predicted, shown)
    clean = inputs.clean
    arrays: dict[str, Array] = {"index": clean.index, "labels": clean.labels, "clean_hash": hash_each(clean.images)}
    arrays |= {f"pred/{engine}--{set_}": found for (engine, set_), found in predicted.cells.items()}
    for name, (source_clean, source_attacked) in predicted.source.items():
        arrays |= {f"source_clean/{name}": source_clean, f"source/{name}": source_attacked}
    arrays |= {"gallery_index": rows, "gallery_clean": to_storage(clean.images[rows])}
    return arrays | {f"gallery/{set_.name}": to_storage(set_.images[rows]) for set_ in inputs.sets}


def _gallery_rows(results: Results, predicted: Predictions, shown: int) -> Array:
    """Choose images that the reference engine loses to the strongest attack, one per class in turn; then any others."""
    attacks = [set_.name for set_ in results.sets if set_.kind == "adversarial" and set_.attack != "noise"]
    worst = strongest(results.cells, engine=results.reference, sets=attacks)
    right = predicted.cells[results.reference, CLEAN] == predicted.labels
    lost = right & (predicted.cells[results.reference, worst or CLEAN] != predicted.labels)
    turn = np.empty(len(right), np.int64)
    for mask in (lost, ~lost):
        for label in range(len(results.classes)):
            mine = np.flatnonzero(mask & (predicted.labels == label))
            turn[mine] = np.arange(len(mine))
    chosen = np.lexsort((predicted.labels, turn, ~lost))[:shown]
    return np.sort(chosen).astype(np.int64)

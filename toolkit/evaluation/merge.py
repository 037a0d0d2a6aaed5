"""The shards of an attack or of an evaluation as one run again: hashes checked, complete, without overlap; needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgeproof.data.arrays import read_npy, read_npz, write_npz
from edgeproof.data.base import LabelledImages, load_adversarial_set, save_adversarial_set
from edgeproof.data.shard import Shard, check_complete, interleave
from edgeproof.errors import DataError
from edgeproof.evaluation.logits import logits_name, save_logits
from edgeproof.evaluation.results import Results, read_results
from edgeproof.evaluation.summary import gates_of, recompute_from
from edgeproof.runs import Run, write_text
from edgeproof.types import Array

KINDS = ("attack", "eval")
#: What an attack notes as a mean over its images; other indicators are of one process and cannot be joined.
_MEANS = ("zero_gradients", "non_finite_gradients", "saturated_loss", "budget_used")


def open_shards(paths: Sequence[Path]) -> tuple[list[Run], list[Shard]]:
    """Open finished shards of one whole; their hashes are verified as their files are read.

    Raises:
        RunError: For an unfinished run, or one that is neither of an attack nor of an evaluation.
        DataError: When they are not all the shards of one whole.
    """
    runs = [Run.open(path) for path in paths]
    first = runs[0]
    if first.kind not in KINDS:
        raise DataError(
            f"{first.path} is the run of a {first.kind!r} stage; only {' and '.join(KINDS)} runs have shards"
        )
    for run in runs:
        if not run.config.get("shard"):
            raise DataError(f"{run.path} is no shard; expected a run that was made with --shard I/N")
        different = _difference(first, run)
        if different:
            raise DataError(f"{run.path} differs from {first.path} in {different}; expected shards of the same work")
    return runs, check_complete([run.config["shard"] for run in runs])


def whole_config(run: Run) -> dict[str, Any]:
    """Return the configuration that would have made the whole."""
    return {**run.config, "shard": None}


def merge(runs: Sequence[Run], shards: Sequence[Shard], out: Run) -> None:
    """Write the whole and finish it, but for the reports of an evaluation, which the caller writes.

    Raises:
        DataError: When the shards do not fit together.
    """
    (_merge_attack if runs[0].kind == "attack" else _merge_eval)(runs, shards, out)


def _difference(one: Run, other: Run) -> str:
    """Name what two shards differ in apart from their numbers; empty when nothing."""
    if one.kind != other.kind:
        return f"their stage ({one.kind}, {other.kind})"
    mine, theirs = ({key: value for key, value in run.config.items() if key != "shard"} for run in (one, other))
    keys = [key for key in sorted({*mine, *theirs}) if mine.get(key) != theirs.get(key)]
    if keys:
        return f"{keys[0]} ({mine.get(keys[0])!r}, {theirs.get(keys[0])!r})"
    inputs = [[record.sha256 for record in run.manifest.inputs] if run.manifest else [] for run in (one, other)]
    return "the hashes of what they were made from" if inputs[0] != inputs[1] else ""


def _merge_attack(runs: Sequence[Run], shards: Sequence[Shard], out: Run) -> None:
    parts = [load_adversarial_set(run) for run in runs]

    def joined(name: str) -> Array | None:
        arrays = [getattr(part, name) for part in parts]
        return None if any(array is None for array in arrays) else interleave(arrays, shards)

    sizes = np.array([len(part.clean) for part in parts])
    names = [name for name in _MEANS if all(name in part.indicators for part in parts)]
    means = {name: np.average([part.indicators[name] for part in parts], weights=sizes) for name in names}
    save_adversarial_set(
        out,
        replace(
            parts[0],
            images=interleave([part.images for part in parts], shards),
            clean=_clean([part.clean for part in parts], shards),
            source_logits=joined("source_logits"),
            source_clean_logits=joined("source_clean_logits"),
            indicators={name: float(mean) for name, mean in means.items()},
        ),
    )


def _clean(parts: Sequence[LabelledImages], shards: Sequence[Shard]) -> LabelledImages:
    index = interleave([part.index for part in parts], shards)
    _check_distinct(index)
    return replace(
        parts[0],
        images=interleave([part.images for part in parts], shards),
        labels=interleave([part.labels for part in parts], shards),
        index=index,
    )


def _merge_eval(runs: Sequence[Run], shards: Sequence[Shard], out: Run) -> None:
    results = [read_results(run.file("results.json")) for run in runs]
    samples = [read_npz(run.file("samples.npz"), required=("index", "labels")) for run in runs]
    for run, found in zip(runs, results, strict=True):
        _check_same_engines(runs[0], results[0], run, found)
    about = _about(results)
    arrays = {
        name: interleave([part[name] for part in samples], shards) for name in samples[0] if "gallery" not in name
    }
    _check_distinct(arrays["index"])
    gallery = {name: array for name, array in samples[0].items() if name.startswith("gallery")}
    gallery["gallery_index"] = shards[0].rows(len(arrays["index"]))[gallery["gallery_index"]]
    write_npz(out.path / "samples.npz", {**arrays, **gallery})
    logits = {}
    for engine in about.engines:
        for set_ in about.sets:
            name = logits_name(engine.name, set_.name)
            logits[engine.name, set_.name] = interleave([read_npy(run.file(name)) for run in runs], shards)
            save_logits(out.path, name, logits[engine.name, set_.name], key="merged")
    merged = recompute_from(about, gates_of(results[0]), logits, arrays)
    write_text(out.path / "results.json", merged.text())


def _about(results: Sequence[Results]) -> Results:
    """Return the first shard's description with the counts of all; throughput and batch invariance stay the first's."""
    first = results[0]
    counts = np.sum([found.data["class_counts"] for found in results], axis=0).tolist()
    total = sum(found.data["count"] for found in results)
    data = {
        **{key: value for key, value in first.data.items() if key != "shard"},
        "count": total,
        "class_counts": counts,
    }
    sets = tuple(set_.model_copy(update={"count": total}) for set_ in first.sets)
    return first.model_copy(update={"data": data, "sets": sets})


def _check_same_engines(first_run: Run, first: Results, run: Run, found: Results) -> None:
    elsewhere = {"path", "throughput", "invariance"}  # may differ from shard to shard
    one, other = ([engine.model_dump(exclude=elsewhere) for engine in each.engines] for each in (first, found))
    if one != other:
        where = next(a["name"] for a, b in zip(one, other, strict=False) if a != b) if one and other else "the engines"
        raise DataError(
            f"{run.path} was evaluated on other engines than {first_run.path} ({where}: its file, precision, device, provider, "
            "versions or options differ); evaluate that shard again on the same installation"
        )
    if [set_.sha256 for set_ in first.sets] != [set_.sha256 for set_ in found.sets]:
        raise DataError(f"{run.path} was evaluated on other images than {first_run.path}: the SHA-256 of a set differs")


def _check_distinct(index: Array) -> None:
    if len(np.unique(index)) != len(index):
        raise DataError(
            "the shards overlap: an image stands in two of them; make them again from the same set with --shard I/N"
        )

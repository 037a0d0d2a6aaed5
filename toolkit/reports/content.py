"""The content of a report: the files of an eval run, read, checked against each other and made safe to show."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeproof.config import EvalConfig
from edgeproof.config.names import IN_MEMORY, SHORT
from edgeproof.data.arrays import read_npz
from edgeproof.errors import DataError, RunError
from edgeproof.evaluation.results import CellRecord, Results, SetRecord, read_results
from edgeproof.evaluation.scoring import strongest
from edgeproof.reports.numbers import visible, visible_results
from edgeproof.runs import Run
from edgeproof.types import Array, Images, Labels

#: Classes that have a row, a bar or a row of a matrix of their own in the report; results.json has all of them.
MOST_CLASSES = 40


@dataclass(frozen=True)
class Gallery:
    """Images that the report shows.

    Attributes:
        rows: (G,) int64, rows of the run's samples.
        clean: (G, C, H, W) float32 in [0, 1].
        attacked: Name of an adversarial set to the same images in that set, outside [0, 1] where an attack does not clip.
    """

    rows: Labels
    clean: Images
    attacked: Mapping[str, Images]


@dataclass(frozen=True)
class EvalRun:
    """An eval run as it is shown.

    Attributes:
        results: `results.json`, its names made visible.
        index: (N,) int64, position of each image in its split.
        labels: (N,) int64, true classes.
        clean_hash: (N,) uint64, which clean image it is.
        predictions: (engine, set) to (N,) int64.
        gallery: Images to show, or None when none were kept.
        command: The command line that repeats the run.
    """

    results: Results
    index: Labels
    labels: Labels
    clean_hash: Array
    predictions: Mapping[tuple[str, str], Labels]
    gallery: Gallery | None
    command: str


def read_eval_run(run: Run) -> EvalRun:
    """Read `results.json` and `samples.npz` of an eval run, finished or about to be.

    Raises:
        RunError: When a file is missing, changed or not what `edgeproof.evaluation.results` describes.
        DataError: When the arrays are not plain arrays.
    """
    return eval_run(_read_results(run), read_npz(run.file("samples.npz")), run.config, where=str(run.path))


def eval_run(results: Results, arrays: Mapping[str, Array], config: Mapping[str, Any], *, where: str) -> EvalRun:
    """Check the arrays of `samples.npz` against the results, and make both safe to show.

    Args:
        results: The results.
        arrays: Beside them, image by image.
        config: Of the evaluation.
        where: What it is called in a message.

    Raises:
        RunError: When they do not fit together.
        DataError: When an array is missing.
    """
    keys = {(cell.engine, cell.set): f"pred/{cell.engine}--{cell.set}" for cell in results.cells}
    missing = [name for name in ("index", "labels", "clean_hash", *keys.values()) if name not in arrays]
    if missing:
        raise DataError(
            f"{where}/samples.npz has no array {missing[0]!r}; it has: {', '.join(arrays)}; repeat the evaluation"
        )
    labels = arrays["labels"]
    for name in ("labels", "index", "clean_hash", *keys.values()):
        if arrays[name].shape != labels.shape or labels.ndim != 1 or arrays[name].dtype.kind not in "iu":
            raise RunError(
                f"{where}/samples.npz: {name!r} is {arrays[name].dtype} of shape {arrays[name].shape}; expected whole "
                f"numbers of shape {labels.shape} as labels have; repeat the evaluation"
            )
    classes = len(results.classes)
    for name, lowest in (("labels", 0), *((key, -1) for key in keys.values())):  # -1: no prediction
        if labels.size and not lowest <= arrays[name].min() <= arrays[name].max() < classes:
            raise RunError(
                f"{where}/samples.npz: {name!r} holds {arrays[name].min()} to {arrays[name].max()}; expected classes from "
                f"{lowest} to {classes - 1}; repeat the evaluation"
            )
    return EvalRun(
        results=visible_results(results),
        index=arrays["index"],
        labels=labels,
        clean_hash=arrays["clean_hash"],
        predictions={(visible(engine), visible(set_)): arrays[key] for (engine, set_), key in keys.items()},
        gallery=_gallery(results, arrays, where),
        command=command_line(config),
    )


def command_line(config: Mapping[str, Any]) -> str:
    """Return the `eval` command of a configuration, one option per line, naming only what differs from the defaults."""
    named = (*config.get("engines", ()), *config.get("sets", ()))
    if any(str(text).startswith(IN_MEMORY) for text in named):
        return "# from Python, of models or images in memory: edgeproof.evaluate(...)"
    lines = ["edgeproof eval"]
    for name, field in EvalConfig.model_fields.items():
        value = config.get(name, field.default)
        option = f"--{SHORT.get(name, name).replace('_', '-')}"
        if isinstance(value, bool):
            lines += [] if value == field.default else [option if value else option.replace("--", "--no-", 1)]
        elif isinstance(value, (list, tuple)):
            lines += [f"{option} {shlex.quote(str(item))}" for item in value]
        elif value != field.default:
            lines.append(f"{option} {shlex.quote(str(value))}")
    return " \\\n  ".join(map(visible, lines))


def adversarial_sets(results: Results) -> list[SetRecord]:
    """Return the sets other than the clean one, in order."""
    return [set_ for set_ in results.sets if set_.kind == "adversarial"]


def clean_set(results: Results) -> SetRecord:
    """Return the clean set."""
    return next(set_ for set_ in results.sets if set_.kind == "clean")


def shown_classes(results: Results, set_: SetRecord) -> list[int]:
    """Return the classes that the report shows on a set, in their order: all where they are few, else the MOST_CLASSES with images
    on which the reference engine is worst."""
    if len(results.classes) <= MOST_CLASSES:
        return list(range(len(results.classes)))
    per_class = results.cell(results.reference, set_.name).per_class
    return sorted(each.label for each in sorted(per_class, key=lambda each: each.hits / each.total)[:MOST_CLASSES])


def worst_cell(results: Results, engine: str) -> CellRecord | None:
    """Return the cell of the attack that leaves an engine the least accuracy; None without one, for noise is a control."""
    attacks = [set_.name for set_ in adversarial_sets(results) if set_.attack != "noise"]
    worst = strongest(results.cells, engine=engine, sets=attacks)
    return results.cell(engine, worst) if worst else None


def _read_results(run: Run) -> Results:
    file = run.file("results.json")
    try:
        return read_results(file)
    except DataError as error:
        raise RunError(f"{run.path}: cannot be read as results ({error}); repeat the evaluation") from error


def _gallery(results: Results, arrays: Mapping[str, Array], where: str) -> Gallery | None:
    rows, clean = arrays.get("gallery_index", np.empty(0, np.int64)), arrays.get("gallery_clean", np.empty(0))
    if not rows.size:
        return None
    shown = {set_.name: arrays.get(f"gallery/{set_.name}", clean) for set_ in adversarial_sets(results)}
    inside = rows.dtype.kind in "iu" and rows.ndim == 1 and 0 <= rows.min() <= rows.max() < len(arrays["labels"])
    if not (inside and all(_are_images(images, like=clean, count=len(rows)) for images in (clean, *shown.values()))):
        raise RunError(f"{where}/samples.npz: its gallery does not fit together; repeat the evaluation")
    attacked = {visible(name): _to_float(shown[name]) for name in shown if f"gallery/{name}" in arrays}
    return Gallery(rows=rows, clean=_to_float(clean), attacked=attacked)


def _are_images(images: Array, *, like: Array, count: int) -> bool:
    if images.ndim != 4 or images.shape != like.shape or len(images) != count or not images.size:
        return False
    return images.dtype == np.uint8 or (images.dtype == np.float32 and bool(np.isfinite(images).all()))


def _to_float(images: Array) -> Images:
    scale = np.float32(255 if images.dtype == np.uint8 else 1)
    return images.astype(np.float32) / scale

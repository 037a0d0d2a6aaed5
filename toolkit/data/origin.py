"""What a model was trained on, as its run says."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from edgeproof.config import DataConfig
from edgeproof.data.arrays import read_npz
from edgeproof.data.base import Splits, load_splits
from edgeproof.errors import RunError
from edgeproof.plugins.registry import entries
from edgeproof.runs import Run

LOG = logging.getLogger(__name__)
_DEEPEST = 4  # checkpoint, graph, plan: a run is made from a few others


def data_path(name: str | None) -> Path | None:
    """Return the file or folder that a data set's name points to (`npz:PATH`, `folder:PATH`), None where it names none that is
    there: what is published is known by its name, and what is missing is said by whoever reads it."""
    kind, _, path = (name or "").partition(":")
    known = entries("data").get(kind)
    return Path(path) if path and known and known.options.get("path") and Path(path).exists() else None


def training_data(path: Path, depth: int = 0) -> str | None:
    """Return the name of the data set that a model was trained on: a train run, an export run made from one, or a file of either."""
    try:
        run = Run.open(path if path.is_dir() else path.parent)
    except RunError:
        return None
    if run.kind == "train":
        data = run.config.get("data")
        return str(data["name"]) if isinstance(data, dict) and "name" in data else None
    made_from = run.manifest.inputs if run.kind == "export" and run.manifest and depth < _DEEPEST else ()
    names = (training_data(Path(each.path), depth + 1) for each in made_from if each.role in ("model", "source"))
    return next((name for name in names if name), None)


def data_of(run: Run) -> DataConfig:
    """Return the data set that a train run was trained on, and say so where it is a file or folder: the run may be a stranger's.

    Raises:
        RunError: When its manifest names none.
    """
    try:
        data = DataConfig.model_validate(run.config["data"])
    except (KeyError, ValidationError) as error:
        raise RunError(f"{run.path}: its manifest names no data set that can be read; train or import again") from error
    if ":" in data.name:
        LOG.info(f"edgeproof: reading {data.name!r}, as {str(run.path)!r} says")
    return data


def splits_of(run: Run, *, data: str | None = None) -> Splits:
    """Return the parts of the data set that a train run was trained on, as they were then.

    Args:
        run: The train run.
        data: Where the data set lies now (default: where the run says).

    Raises:
        RunError: When its manifest names no data set, or the data set now splits in another way: images held out for validation or
            calibration could be among those that it was trained on.
    """
    config = data_of(run)
    _, colon, place = config.name.partition(":")
    if data is None and colon and not Path(place).exists():
        raise RunError(
            f"{run.path} says that its images are in {config.name!r}, and nothing is there; give --data with where they are now"
        )
    splits = load_splits(config if data is None else config.model_copy(update={"name": data}))
    if "splits.npz" in run.outputs():
        recorded = read_npz(run.file("splits.npz"), required=("train", "validation", "calibration"))
        for name in ("train", "validation", "calibration"):
            if not np.array_equal(recorded[name], splits.part(name).index):
                raise RunError(
                    f"{run.path}: the {name} images of {splits.test.name} are not those of its training ({len(recorded[name])} then, "
                    f"{len(splits.part(name))} now, or others); put the data set back as it was, or train again"
                )
    return splits

"""A data set read once for all jobs of a study: where it is decoded from JPEG files, each reading takes many seconds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgeproof.data.arrays import to_storage, write_npz
from edgeproof.data.base import load_dataset
from edgeproof.runs import Run
from edgeproof.studies.jobs import Job

#: What other jobs give as the name of their data set.
STORED = "npz:{data}/images.npz"


def data_job(name: str, params: Mapping[str, Any] | None = None) -> Job:
    """Return the job `data`, which keeps a data set as `images.npz`."""
    return Job("data", "edgeproof.studies.dataset:keep_dataset", {"name": name, "params": dict(params or {})})


def keep_dataset(config: Mapping[str, Any], out: Run) -> None:
    """Write the images of a data set in their published order, so that indices stay what they are."""
    dataset = load_dataset(config["name"], params=config["params"])
    parts = [part for part in (dataset.train, dataset.test) if part is not None]
    arrays = {f"x_{part.split}": to_storage(part.images) for part in parts}
    arrays |= {f"y_{part.split}": part.labels for part in parts}
    write_npz(out.path / "images.npz", {**arrays, "classes": np.array(dataset.test.classes)})

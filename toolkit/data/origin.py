"""What a model was trained on, as its run says."""

from __future__ import annotations

import logging

from pydantic import ValidationError

from edgeproof.config import DataConfig
from edgeproof.errors import RunError
from edgeproof.runs import Run

LOG = logging.getLogger(__name__)


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

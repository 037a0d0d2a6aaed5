"""Run folders of what the command line cannot name: models, functions and images that are in memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edgeproof.config import Strict
from edgeproof.runs import Run

LOG = logging.getLogger(__name__)


def run_in_folder(
    work: Callable[[Run], object],
    config: Strict,
    *,
    kind: str,
    name: str,
    content: Mapping[str, Any],
    out: str | Path,
    fresh: bool,
    inputs: Mapping[str, Path] | None = None,
) -> Run:
    """Do work in a run folder, unless it is finished there.

    Args:
        work: Writes the files of the run.
        config: What is recorded.
        kind: Of the run.
        name: What a person recognises it by.
        content: What stands for the objects in memory; with `config` it decides whether a run is the same.
        out: The folder.
        fresh: Whether to start over.
        inputs: Files that are read.

    Raises:
        RunError: When the folder holds another run.
    """
    from edgeproof.stages import interruptible

    plain, outs = config.model_dump(mode="json"), list[Run]()
    identity = {**plain, "content": content}
    with (
        interruptible(outs),
        Run.start(
            kind,
            name,
            config=plain,
            inputs=inputs,
            seed=plain.get("seed"),
            out=Path(out),
            fresh=fresh,
            identity=identity,
        ) as run,
    ):
        outs.append(run)
        if run.done:
            LOG.info(f"already done: {run.path}")
        else:
            work(run)
    return run

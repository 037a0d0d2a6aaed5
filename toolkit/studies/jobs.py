"""A job of a study: an ordinary run folder, made from those of other jobs.

What is finished is returned as it is, and what was interrupted is continued, by `Run.start`; so a study can be killed at any
point and repeated. `schedule.py` decides which job is begun when, `workers.py` and `on_ray.py` are where it is done.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeproof.config import build_config
from edgeproof.runs import MANIFEST, Run
from edgeproof.stages import STAGES

_REFERENCE = re.compile(r"\{([A-Za-z0-9][\w.-]*)\}")

#: Of an export whose graphs a study measures: what a precision loses is a finding there, and no reason to stop.
NO_PARITY_LIMITS = {
    "parity.fp16_accuracy_drop": 1.0,
    "parity.int8_accuracy_drop": 1.0,
    "parity.int8_min_agreement": 0.0,
}


@dataclass(frozen=True)
class Job:
    """One piece of work with a run folder of its own.

    Attributes:
        name: Of its folder, unique in the study; letters, digits, `.`, `-` and `_`.
        stage: One of `STAGES`, such as "train", or `module:function` of the study's own, called as `function(config, out)` with
            a mapping and a run folder.
        config: What the stage takes; keys may be dotted (`data.name`) for the ordinary stages. `{NAME}` in a text stands
            for the folder of another job, which is then done first.
    """

    name: str
    stage: str
    config: Mapping[str, Any]

    @property
    def needs(self) -> tuple[str, ...]:
        """The jobs whose folders this one reads."""
        return tuple(dict.fromkeys(_REFERENCE.findall(json.dumps(dict(self.config)))))

    def checked_config(self) -> dict[str, Any]:
        """Return the configuration with its defaults, references as they are.

        Raises:
            ConfigError: For an unknown key or a value out of range.
        """
        if self.stage not in STAGES:
            return dict(self.config)
        return build_config(STAGES[self.stage].config, options=self.config).model_dump(mode="json")


def carry_out(job: Job, *, folder: Path) -> None:
    """Do one job in its folder.

    Raises:
        ToolkitError: As its stage does.
    """
    with _start(job, folder=folder) as out:
        if out.done:
            return
        if job.stage in STAGES:
            stage = STAGES[job.stage]
            stage.load()(stage.config.model_validate(out.config), out)
        else:
            module, _, name = job.stage.partition(":")
            getattr(importlib.import_module(module), name)(out.config, out)


def finished_run(job: Job, *, folder: Path) -> Run | None:
    """Return the job's run if it is finished; those it needs must be.

    Raises:
        RunError: When its folder holds another finished run.
    """
    if not (job_folder(job.name, folder=folder) / MANIFEST).is_file():
        return None
    with _start(job, folder=folder) as out:
        return out


def job_folder(name: str, *, folder: Path) -> Path:
    """Return the run folder of a job."""
    return folder / "jobs" / name


def _start(job: Job, *, folder: Path) -> Run:
    """Open the folder of a job. It is identified by its configuration without paths, so that a study may be moved."""
    config = job.checked_config()
    return Run.start(
        STAGES[job.stage].kind if job.stage in STAGES else "job",
        job.name,
        config=_with_paths(config, folder=folder),
        identity=config,
        inputs={name: job_folder(name, folder=folder) for name in job.needs},
        seed=config.get("seed"),
        out=job_folder(job.name, folder=folder),
    )


def _with_paths(value: Any, *, folder: Path) -> Any:
    """Put the folders of other jobs where they are referred to."""
    if isinstance(value, str):
        return _REFERENCE.sub(lambda found: str(job_folder(found[1], folder=folder)), value)
    if isinstance(value, Mapping):
        return {key: _with_paths(item, folder=folder) for key, item in value.items()}
    return [_with_paths(item, folder=folder) for item in value] if isinstance(value, (list, tuple)) else value

"""The jobs of a study: ordinary run folders, each begun when those that it reads are finished.

Local worker processes, or a Ray cluster, do them, one job at a time each. What is finished is returned as it is, and what was interrupted is
continued, by `Run.start`; so a study can be killed at any point and repeated.
"""

from __future__ import annotations

import importlib
import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeproof.config import build_config
from edgeproof.errors import ConfigError, StudyError, nearest
from edgeproof.plugins.trusted import name_factory
from edgeproof.runs import MANIFEST, Run
from edgeproof.stages import STAGES
from edgeproof.system.progress import Advance, progress

if TYPE_CHECKING:
    from edgeproof.studies.on_ray import RayWorkers
    from edgeproof.studies.workers import Workers

LOG = logging.getLogger(__name__)

_REFERENCE = re.compile(r"\{([A-Za-z0-9][\w.-]*)\}")

#: The stages that a job may name.
_STAGES = ("train", "attack", "poison", "export", "quantize", "eval")


@dataclass(frozen=True)
class Job:
    """One piece of work with a run folder of its own.

    Attributes:
        name: Of its folder, unique in the study; letters, digits, `.`, `-` and `_`.
        stage: "train", "attack", "poison", "export", "quantize" or "eval", or `module:function` of the study's own, called as
            `function(config, out)` with a mapping and a run folder, which is finished after it.
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
        if self.stage not in _STAGES:
            return dict(self.config)
        return build_config(STAGES[self.stage].config, options=self.config).model_dump(mode="json")


def run_jobs(
    jobs: Sequence[Job], *, folder: Path, processes: int, ray: bool = False, title: str = "study"
) -> dict[str, Run]:
    """Do the jobs that are not finished and return all of them, finished, by name.

    Args:
        jobs: In the order in which they are begun where they may be.
        folder: Holds `jobs/NAME`, a run folder each, and `logs/NAME.log`, what a job had to say.
        processes: Jobs at a time.
        ray: Do them on a Ray cluster, not in processes of this machine.
        title: Shown beside the progress.

    Raises:
        ConfigError: For a job that cannot be meant, before anything runs.
        StudyError: When jobs have failed, each named with its error, after all others are done.
        UnavailableError: When Ray is asked for and not installed.
    """
    _check(jobs)
    _name_factories(jobs)
    board = _Board(list(jobs), folder=folder)
    with progress(title, len(jobs)) as advance, _workers(processes, folder, ray) as workers:
        while board.open:
            board.begin(workers, advance)
            if not workers.busy:
                break  # what is still open needs a job that has failed
            job, error = workers.wait()
            board.end(job, error)
            advance(note=workers.note)
    if board.failed:
        raise StudyError(board.complaint())
    return board.done


def _name_factories(jobs: Sequence[Job]) -> None:
    """Pass on to the workers which code the user has named as the network of a training."""
    for job in jobs:
        if job.stage == "train":
            name_factory(job.config.get("model", ""))


def _workers(processes: int, folder: Path, ray: bool) -> Workers | RayWorkers:
    if ray:
        from edgeproof.studies.on_ray import RayWorkers

        return RayWorkers(processes, folder=folder)
    from edgeproof.studies.workers import Workers

    return Workers(processes, folder=folder)


class _Board:
    """Which jobs are waiting, running, done and failed."""

    def __init__(self, jobs: list[Job], *, folder: Path) -> None:
        self._folder = folder
        self._waiting = jobs
        self._running = 0
        self.done: dict[str, Run] = {}
        self.failed: dict[str, str] = {}

    @property
    def open(self) -> bool:
        return bool(self._waiting or self._running)

    def begin(self, workers: Workers | RayWorkers, advance: Advance) -> None:
        """Begin what can be begun; what an earlier process has finished is done at once."""
        for job in tuple(self._waiting):  # a job stands after those that it needs
            if not self.done.keys() >= set(job.needs):
                continue
            if finished := finished_run(job, folder=self._folder):
                self._waiting.remove(job)
                self.done[job.name] = finished
                advance()
            elif workers.free:
                self._waiting.remove(job)
                self._running += 1
                workers.give(job)
                advance(0, note=workers.note)

    def end(self, job: Job, error: str | None) -> None:
        """Note how a job has ended."""
        self._running -= 1
        if error:
            self.failed[job.name] = error
            LOG.warning(f"edgeproof: {job.name} failed, the others go on: {error}")
        else:
            self.done[job.name] = Run.open(job_folder(job.name, folder=self._folder))

    def complaint(self) -> str:
        """Name each failed job with its error, and how many could not be begun without them."""
        failures = "; ".join(f"{name}: {error}" for name, error in self.failed.items())
        kept = f"{len(self.done)} others are finished and kept"
        held = f", {len(self._waiting)} need what failed" if self._waiting else ""
        return (
            f"{len(self.failed)} jobs failed, {kept}{held}: {failures}; mend the cause and repeat the command "
            f"({self._folder / 'logs'} has what they said)"
        )


def carry_out(job: Job, *, folder: Path) -> None:
    """Do one job in its folder.

    Raises:
        ToolkitError: As its stage does.
    """
    with start_run(job, folder=folder) as out:
        if not out.done:
            stage_function(job)(_stage_config(job, out.config), out)


def finished_run(job: Job, *, folder: Path) -> Run | None:
    """Return the job's run if it is finished; those it needs must be.

    Raises:
        RunError: When its folder holds another finished run.
    """
    if not (job_folder(job.name, folder=folder) / MANIFEST).is_file():
        return None
    with start_run(job, folder=folder) as out:
        return out


def start_run(job: Job, *, folder: Path) -> Run:
    """Open the folder of a job. It is known by its configuration without paths, so that a study may be moved."""
    config = job.checked_config()
    inputs = {name: job_folder(name, folder=folder) for name in job.needs}
    return Run.start(
        _kind(job),
        job.name,
        config=_resolved(config, folder=folder),
        identity=config,
        inputs=inputs,
        seed=config.get("seed"),
        out=job_folder(job.name, folder=folder),
    )


def _kind(job: Job) -> str:
    return STAGES[job.stage].kind if job.stage in _STAGES else "job"


def job_folder(name: str, *, folder: Path) -> Path:
    """Return the run folder of a job."""
    return folder / "jobs" / name


def stage_function(job: Job) -> Callable[[Any, Run], object]:
    """Import what does the job."""
    if job.stage in _STAGES:
        return STAGES[job.stage].load()
    module, _, name = job.stage.partition(":")
    function: Callable[[Any, Run], object] = getattr(importlib.import_module(module), name)
    return function


def _stage_config(job: Job, config: Mapping[str, Any]) -> Any:
    return STAGES[job.stage].config.model_validate(config) if job.stage in _STAGES else config


def _resolved(value: Any, *, folder: Path) -> Any:
    """Put the folders of other jobs where they are referred to."""
    if isinstance(value, str):
        return _REFERENCE.sub(lambda found: str(job_folder(found[1], folder=folder)), value)
    if isinstance(value, Mapping):
        return {key: _resolved(item, folder=folder) for key, item in value.items()}
    return [_resolved(item, folder=folder) for item in value] if isinstance(value, (list, tuple)) else value


def _check(jobs: Sequence[Job]) -> None:
    """Refuse names that come twice, references to nothing or to a later job, and configurations that are not accepted."""
    known: list[str] = []
    for job in jobs:
        if job.name in known:
            raise ConfigError(f"two jobs are called {job.name!r}; expected a name each")
        for name in job.needs:
            if name not in known:
                raise ConfigError(f"job {job.name!r} reads {name!r}, which is no job before it{nearest(name, known)}")
        if job.stage not in _STAGES and ":" not in job.stage:
            raise ConfigError(
                f"job {job.name!r}: unknown stage {job.stage!r}{nearest(job.stage, _STAGES)}; known: {', '.join(_STAGES)}, module:function"
            )
        job.checked_config()
        known.append(job.name)

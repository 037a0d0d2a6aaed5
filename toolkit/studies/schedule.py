"""The order in which the jobs of a study are done: each is begun when those that it reads are finished."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from edgeproof.errors import ConfigError, StudyError, nearest
from edgeproof.plugins.trusted import name_factory
from edgeproof.runs import Run
from edgeproof.stages import STAGES
from edgeproof.studies.jobs import Job, finished_run, job_folder
from edgeproof.studies.on_ray import RayWorkers
from edgeproof.studies.workers import ProcessWorkers, Workers
from edgeproof.system.progress import progress

LOG = logging.getLogger(__name__)


def run_jobs(
    jobs: Sequence[Job], *, folder: Path, processes: int, ray: bool = False, title: str = "study"
) -> dict[str, Run]:
    """Do the jobs that are not finished and return all of them, finished, by name.

    Args:
        jobs: In the order in which they are begun where they may be.
        folder: Holds `jobs/NAME`, a run folder each, and `logs/NAME.log`, what a job has printed.
        processes: Jobs at a time.
        ray: Do them on a Ray cluster, not in processes of this machine.
        title: Shown next to the progress.

    Raises:
        ConfigError: For jobs that cannot be run as they are given, before any begins.
        StudyError: When jobs have failed, each named with its error, after all others are done.
        UnavailableError: When Ray is asked for and not installed.
    """
    check_jobs(jobs)
    for job in jobs:
        if job.stage == "train":  # the workers run the code that the user has named as a network
            name_factory(job.config.get("model", ""))
    waiting = list(jobs)
    done: dict[str, Run] = {}
    failed: dict[str, str] = {}
    pool: type[Workers] = RayWorkers if ray else ProcessWorkers
    with progress(title, len(jobs)) as advance, pool(processes, folder=folder) as workers:
        while True:
            for job in tuple(waiting):  # a job stands after those that it needs
                if not done.keys() >= set(job.needs):
                    continue
                if finished := finished_run(job, folder=folder):
                    waiting.remove(job)
                    done[job.name] = finished
                    advance()
                elif workers.free:
                    waiting.remove(job)
                    workers.give(job)
                    advance(0, note=workers.note)
            if not workers.busy:
                break  # all are done, or what is left needs a job that has failed
            job, error = workers.wait()
            if error:
                failed[job.name] = error
                LOG.warning(f"edgeproof: {job.name} failed, the others go on: {error}")
            else:
                done[job.name] = Run.open(job_folder(job.name, folder=folder))
            advance(note=workers.note)
    if failed:
        failures = "; ".join(f"{name}: {error}" for name, error in failed.items())
        blocked = f", {len(waiting)} need what failed" if waiting else ""
        raise StudyError(
            f"{len(failed)} jobs failed, {len(done)} others are finished and kept{blocked}: {failures}; fix the cause and "
            f"repeat the command ({folder / 'logs'} has what they printed)"
        )
    return done


def check_jobs(jobs: Sequence[Job]) -> None:
    """Check that names are unique, references are to earlier jobs, and every configuration is accepted.

    Raises:
        ConfigError: For the first job that is not so.
    """
    known: list[str] = []
    for job in jobs:
        if job.name in known:
            raise ConfigError(f"two jobs are called {job.name!r}; expected a different name for each")
        for name in job.needs:
            if name not in known:
                raise ConfigError(f"job {job.name!r} reads {name!r}, which is no job before it{nearest(name, known)}")
        if job.stage not in STAGES and ":" not in job.stage:
            raise ConfigError(
                f"job {job.name!r}: unknown stage {job.stage!r}{nearest(job.stage, STAGES)}; "
                f"known: {', '.join(STAGES)}, module:function"
            )
        job.checked_config()
        known.append(job.name)

"""A Ray cluster that carries out jobs, in the place of local processes; every machine sees the study's folder."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType

from edgeproof.plugins.importing import PLUGINS
from edgeproof.plugins.trusted import FACTORIES
from edgeproof.studies.jobs import Job
from edgeproof.studies.workers import Workers, do_job
from edgeproof.system.optional import require


class RayWorkers(Workers):
    """Jobs on Ray, each on one processor, and on a GPU of its own where it asks for cuda.

    The cluster is the one that RAY_ADDRESS names, else one that runs on this machine, else one that is started here for the
    time of the study. A job whose process or machine goes is begun once more, and continues what is in its folder.
    """

    def __init__(self, count: int, *, folder: Path) -> None:
        super().__init__(count, folder=folder.resolve())
        self._ray = require("ray", extra="ray", purpose="run the jobs of a study on Ray")

    def give(self, job: Job) -> None:
        """Begin a job."""
        gpus = 1 if str(job.config.get("device", "")).startswith("cuda") else 0
        task = self._ray.remote(do_job).options(num_cpus=1, num_gpus=gpus, max_retries=1, name=job.name)
        self._busy[task.remote(job, self._folder)] = job

    def wait(self) -> tuple[Job, str | None]:
        """Return the next job that ends, and its error in one line if it failed."""
        ended, _ = self._ray.wait(list(self._busy), num_returns=1)
        job = self._busy.pop(ended[0])
        try:
            error: str | None = self._ray.get(ended[0])
        except self._ray.exceptions.RayError as lost:
            return job, f"its process ended ({type(lost).__name__}); was the memory short?"
        return job, error

    def __enter__(self) -> Workers:
        named = {name: os.environ[name] for name in (FACTORIES, PLUGINS) if name in os.environ}
        self._ray.init(log_to_driver=False, logging_level="ERROR", runtime_env={"env_vars": named})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._busy:
            self._ray.cancel(task, force=True)
        self._ray.shutdown()

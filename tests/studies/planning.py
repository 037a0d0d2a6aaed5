"""The jobs of a study as its presets plan them."""

from __future__ import annotations

from typing import Any

from edgeproof.plugins.registry import find
from edgeproof.studies.base import Study, study_params
from edgeproof.studies.jobs import Job


def planned(name: str, *, preset: str = "small", **given: Any) -> Study:
    """Return a study with the parameters of a preset and others over them."""
    entry = find("study", name)
    made: Study = entry.load()(**study_params(entry, preset=preset, given=given))
    return made


def jobs_of(name: str, *, preset: str = "small", **given: Any) -> dict[str, Job]:
    """Return its jobs by name, in their order."""
    jobs = planned(name, preset=preset, **given).jobs()
    return {job.name: job for job in jobs}

"""From the finished jobs to findings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from edgeproof.runs import Run
from edgeproof.studies.base import Findings
from edgeproof.studies.ma_cao.claims import judge_claims
from edgeproof.studies.ma_cao.measure import measured_by
from edgeproof.studies.ma_cao.points import Point, read_points
from edgeproof.studies.ma_cao.report import sections


@dataclass(frozen=True)
class Plan:
    """What was asked for, as far as the findings need it; see the study for the fields."""

    seeds: tuple[int, ...]
    trainings: tuple[str, ...]
    eps: float
    more_eps: tuple[float, ...]
    taus: tuple[float, ...]
    tau: float


@dataclass(frozen=True)
class Measured:
    """All points of a study, to be asked for by what they are."""

    points: tuple[Point, ...]

    def of(self, attack: str, *, training: str = "natural", form: str = "checkpoint") -> list[Point]:
        """Return an attack's points at full scale, one a seed."""
        return self._where(lambda p: (p.attack, p.training, p.form, p.scale) == (attack, training, form, 1.0))

    def scaled(self, attack: str, *, seed: int) -> list[Point]:
        """Return an attack on the natural network at all its scales, at one seed."""
        return self._where(lambda p: (p.attack, p.training, p.form, p.seed) == (attack, "natural", "checkpoint", seed))

    def forms(self) -> list[str]:
        """Return every form that was asked, in order."""
        return list(dict.fromkeys(point.form for point in self.points))

    def _where(self, wanted: Callable[[Point], bool]) -> list[Point]:
        return sorted((point for point in self.points if wanted(point)), key=lambda point: (point.seed, point.scale))


def collect(plan: Plan, runs: Mapping[str, Run]) -> Findings:
    """Make the findings of the finished jobs."""
    points: Sequence[Point] = [
        point
        for seed in plan.seeds
        for training in plan.trainings
        for point in read_points(runs[measured_by(training, seed)], training=training, seed=seed)
    ]
    measured = Measured(tuple(points))
    return Findings(
        verdicts=judge_claims(plan, measured),
        cells=tuple(point.record() for point in points),
        sections=sections(plan, measured),
    )

"""From the finished jobs of the study `quantization` to its verdicts, cells and tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

import numpy as np

from edgeproof.data.arrays import read_npz
from edgeproof.evaluation.metrics import Rate, accuracy
from edgeproof.evaluation.results import Results
from edgeproof.reports import numbers
from edgeproof.reports.document import Section
from edgeproof.reports.search_text import candidates_table, layers_table
from edgeproof.reports.tables import Cell, Column, Table
from edgeproof.runs import Run
from edgeproof.studies.base import Findings
from edgeproof.studies.verdicts import Effect, Verdict, judge, over_seeds
from edgeproof.types import Labels


@dataclass(frozen=True)
class Plan:
    """What was asked for. builds: the float graph first, then calibrated, then trained ones."""

    seeds: tuple[int, ...]
    builds: tuple[str, ...]
    recipe: str


@dataclass(frozen=True)
class Build:
    """One build of one seed, on the same test images.

    Attributes:
        clean: Right on the clean images.
        transferred: Right under PGD on the float checkpoint.
        white_box: Right under PGD on the build's own graph.
        worst: Right under both.
        worst_class: The smallest of these among the classes, in percent.
        hidden: Of the images that float and the build both get right, those on which DIVA found float right and the build wrong;
            none for float.
        images_per_s: Throughput.
    """

    seed: int
    name: str
    clean: Rate
    transferred: Rate
    white_box: Rate
    worst: Rate
    worst_class: float
    hidden: Rate | None
    images_per_s: float

    def record(self) -> dict[str, Any]:
        """Return the cell of `study.json`; throughput is left out, since it is not the same twice."""
        rates = {key: getattr(self, key) for key in ("clean", "transferred", "white_box", "worst", "hidden")}
        counts = {key: {"hits": rate.hits, "total": rate.total} for key, rate in rates.items() if rate}
        return {"seed": self.seed, "build": self.name, **counts, "worst_class": self.worst_class}


def collect(plan: Plan, runs: Mapping[str, Run]) -> Findings:
    """Make the findings of the finished jobs."""
    builds = {
        (seed, name): build
        for seed in plan.seeds
        for name, build in _builds(plan, runs[f"verdict-{seed}"], seed).items()
    }
    searches = [json.loads(runs[f"search-{seed}"].file("search.json").read_text()) for seed in plan.seeds]
    return Findings(
        verdicts=_verdicts(plan, builds, searches),
        cells=tuple(build.record() for build in builds.values()),
        sections=(
            Section("The builds", (_LEGEND, _builds_table(plan, builds))),
            Section("How much calibrations differ", (_VARIANCE, _variance_table(plan, searches))),
            *(_search_section(seed, search) for seed, search in zip(plan.seeds, searches, strict=True)),
        ),
    )


_LEGEND = (
    "Percent of the test images, mean over seeds with each seed's value beside it. Transferred: PGD on the float checkpoint. White-box: PGD "
    "on the build's own graph, judged by ONNX Runtime. Worst: right under both. Worst class: of these, the class with the fewest. "
    "DIVA: of the images that float and the build get right, those that an attack makes right for float and wrong for the build, "
    "which a sign-off of the float network does not see. Speeds are of a machine that also did other things."
)
_VARIANCE = (
    "The same method on several samples of calibration images, judged on validation images: the smallest and the largest number that "
    "was right, and the images that get another class than in the first build."
)


def _builds(plan: Plan, verdict: Run, seed: int) -> dict[str, Build]:
    results = Results.model_validate_json(verdict.file("results.json").read_bytes())
    samples = read_npz(verdict.file("samples.npz"))
    labels, classes = samples["labels"], len(results.classes)
    jobs = [path.rsplit("/", 1)[-1] for path in verdict.config["sets"]]
    sets = dict(zip(jobs, (set_.name for set_ in results.sets if set_.kind == "adversarial"), strict=True))
    float_ = plan.builds[0]

    def right(build: str, job: str | None) -> Labels:
        name = sets[f"{job}-{seed}"] if job else "clean"
        return np.asarray(samples[f"pred/{build}--{name}"] == labels)

    found = {}
    for engine in results.engines:
        name = engine.name
        own, carried = right(name, f"white-{name}"), right(name, "transferred")
        both = own & carried
        found[name] = Build(
            seed=seed,
            name=name,
            clean=_rate(right(name, None)),
            transferred=_rate(carried),
            white_box=_rate(own),
            worst=_rate(both),
            worst_class=min(100 * float(both[labels == label].mean()) for label in range(classes)),
            hidden=None if name == float_ else _hidden(right, float_, name),
            images_per_s=engine.throughput.images_per_s if engine.throughput else float("nan"),
        )
    return found


def _hidden(right: Any, float_: str, build: str) -> Rate:
    both = right(float_, None) & right(build, None)
    missed = both & right(float_, f"diva-{build}") & ~right(build, f"diva-{build}")
    return Rate(int(missed.sum()), int(both.sum()))


def _rate(right: Labels) -> Rate:
    return accuracy(right.astype(np.int64), np.ones(len(right), np.int64))


def _verdicts(
    plan: Plan, builds: Mapping[tuple[int, str], Build], searches: Sequence[Mapping[str, Any]]
) -> tuple[Verdict, ...]:
    float_, best, median, trained, adversarial = plan.builds

    def gain(measure: str, build: str, *, over: str, also: str | None = None) -> Effect:
        return over_seeds(
            [
                _percent(builds[seed, build], measure) - _percent(builds[seed, over], also or measure)
                for seed in plan.seeds
            ]
        )

    spread = [max(_robust(search)) - min(_robust(search)) for search in searches]
    return (
        judge("INT8 looks more robust than float under transferred PGD", gain("transferred", median, over=float_)),
        judge("INT8 is more robust than float when both are attacked white-box", gain("white_box", median, over=float_)),
        judge(
            "PGD on the INT8 graph itself is stronger on it than transferred PGD",
            gain("transferred", median, over=median, also="white_box"),
        ),
        judge(
            "Robustness of INT8 is overstated by transferred PGD alone (transferred - worst of both)",
            gain("transferred", median, over=median, also="worst"),
        ),
        judge("Samples of calibration images change accuracy under attack by more than a point", over_seeds(spread), threshold=1.0),
        judge("A build chosen on validation adversaries is more robust than the median one", gain("worst", best, over=median)),
        judge("Quantisation-aware training is more robust than the best calibration", gain("worst", trained, over=best)),
        judge("Adversarial quantisation-aware training is more robust still", gain("worst", adversarial, over=trained)),
        judge("It costs clean accuracy against the best calibration", gain("clean", best, over=adversarial)),
        judge("DIVA finds fewer images on a build trained for INT8 than on the median one", gain("hidden", median, over=trained)),
    )  # fmt: skip


def _percent(build: Build, measure: str) -> float:
    value = getattr(build, measure).value
    return 100 * float(value)


def _robust(search: Mapping[str, Any]) -> list[float]:
    """Return accuracy under attack, in percent, of the first method on each clean sample."""
    first = search["candidates"][0]["method"]
    samples = [
        each for each in search["candidates"] if each["method"] == first and each["calibration"].startswith("clean")
    ]
    return [100 * each["robust"]["value"] for each in samples if not each["keep_float"]]


def _builds_table(plan: Plan, builds: Mapping[tuple[int, str], Build]) -> Table:
    measures = ("clean", "transferred", "white_box", "worst")
    titles = ("Clean", "Transferred", "White-box", "Worst", "Worst class", "DIVA", "Images/s")
    rows = []
    for name in plan.builds:
        mine = [builds[seed, name] for seed in plan.seeds]
        hidden = [100 * (build.hidden.value or 0.0) for build in mine if build.hidden]
        rows.append(
            (
                Cell(name),
                *(_over_seeds([_percent(build, measure) for build in mine]) for measure in measures),
                _over_seeds([build.worst_class for build in mine]),
                _over_seeds(hidden),
                Cell(numbers.per_second(mean(build.images_per_s for build in mine))),
            )
        )
    return Table(columns=(Column("Build", numeric=False), *map(Column, titles)), rows=tuple(rows))


def _over_seeds(values: Sequence[float]) -> Cell:
    if not values:
        return Cell("")
    each = ", ".join(f"{value:.1f}" for value in values) if len(values) > 1 else ""
    return Cell(f"{mean(values):.1f}", each)


def _variance_table(plan: Plan, searches: Sequence[Mapping[str, Any]]) -> Table:
    titles = ("Samples", "Clean, right", "Under attack, right", "Flips, clean", "Flips, attacked")
    rows = []
    for seed, search in zip(plan.seeds, searches, strict=True):
        count = len(_robust(search))
        same = search["candidates"][:count]
        spans = [[each[key]["hits"] for each in same] for key in ("clean", "robust")]
        flips = [[each[key] for each in same[1:]] or [0] for key in ("flips_clean", "flips_robust")]
        spread = [f"{min(span)}–{max(span)}" for span in (*spans, *flips)]
        rows.append((Cell(str(seed)), Cell(str(count)), *map(Cell, spread)))
    return Table(columns=(Column("Seed", numeric=False), *map(Column, titles)), rows=tuple(rows))


def _search_section(seed: int, search: Mapping[str, Any]) -> Section:
    about = f"{search['images']} validation images; chosen: {search['best']}; median of the calibrated ones: {search['median']}."
    noisiest = "The layers of the best calibrated build that are farthest from the float graph under attack:"
    return Section(
        f"The builds tried, seed {seed}", (about, candidates_table(search), noisiest, layers_table(search["layers"]))
    )

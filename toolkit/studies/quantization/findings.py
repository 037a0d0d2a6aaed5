"""From finished jobs to rows, and from rows to verdicts: what INT8 loses, hides and gains by training."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from edgeproof.data.arrays import read_npz
from edgeproof.evaluation.metrics import Rate
from edgeproof.evaluation.results import read_results
from edgeproof.runs import Run
from edgeproof.studies.frame import Row, counts, gains, percent, seed_means, where
from edgeproof.studies.verdicts import Effect, Verdict, judge, over_seeds
from edgeproof.types import Array

FLOAT, BEST, MEDIAN, QAT, ADVERSARIAL = "float", "ptq-best", "ptq-median", "qat", "adversarial-qat"
#: Columns that `study.json` does not hold: a speed is not the same twice.
UNSAVED = ("images_per_s",)


def read_builds(run: Run, *, seed: int) -> Iterator[dict[str, Any]]:
    """Make a row for each build of a seed, on the same test images.

    Its rates: correct on the `clean` images; correct under PGD on the float checkpoint (`transferred`), under PGD on the
    build's own graph (`white_box`) and under both (`worst`); `hidden`, of the images that float and the build both get
    right, those on which DIVA found float right and the build wrong. `worst_class` is the smallest accuracy under both
    attacks among the classes, in per cent.
    """
    results = read_results(run.file("results.json"))
    samples = read_npz(run.file("samples.npz"))
    labels = samples["labels"]
    jobs = [path.rsplit("/", 1)[-1] for path in run.config["sets"]]
    sets = dict(zip(jobs, (set_.name for set_ in results.sets if set_.kind == "adversarial"), strict=True))

    def right(build: str, job: str | None = None) -> Array:
        name = sets[f"{job}-{seed}"] if job else "clean"
        return np.asarray(samples[f"pred/{build}--{name}"] == labels)

    for engine in results.engines:
        build = engine.name
        clean, carried, own = right(build), right(build, "transferred"), right(build, f"white-{build}")
        both = own & carried
        row = {
            "seed": seed,
            "build": build,
            "clean": counts(Rate.of(clean)),
            "transferred": counts(Rate.of(carried)),
            "white_box": counts(Rate.of(own)),
            "worst": counts(Rate.of(both)),
        }
        if build != FLOAT:
            shared = right(FLOAT) & clean
            missed = shared & right(FLOAT, f"diva-{build}") & ~right(build, f"diva-{build}")
            row["hidden"] = counts(Rate(int(missed.sum()), int(shared.sum())))
        row["worst_class"] = min(100 * float(both[labels == label].mean()) for label in range(len(results.classes)))
        row["images_per_s"] = engine.throughput.images_per_s if engine.throughput else float("nan")
        yield row


def read_search(run: Run) -> dict[str, Any]:
    """Return what a search for a build has tried."""
    found: dict[str, Any] = json.loads(run.file("search.json").read_text(encoding="utf-8"))
    return found


def same_method(search: Mapping[str, Any]) -> list[float]:
    """Return accuracy under attack, in per cent, of the first method on each sample of clean calibration images."""
    first = search["candidates"][0]["method"]
    return [
        100 * each["robust"]["value"]
        for each in search["candidates"]
        if each["method"] == first and each["calibration"].startswith("clean") and not each["keep_float"]
    ]


def spread(searches: Mapping[int, Mapping[str, Any]]) -> list[float]:
    """Return, for each seed, by how many points samples of calibration images change accuracy under attack."""
    return [max(found) - min(found) for found in map(same_method, searches.values())]


def verdicts(rows: Sequence[Row], *, spread: Sequence[float]) -> tuple[Verdict, ...]:
    """Judge the claims.

    Args:
        rows: One for each build at each seed.
        spread: See the function of this name.
    """

    def more(measure: str, build: str, *, than: str, of: str | None = None) -> Effect:
        """Return how much more a build has of something than another, or than it has of something else."""
        before = seed_means(where(rows, build=than), percent(of or measure))
        return over_seeds(gains(before, seed_means(where(rows, build=build), percent(measure))))

    return (
        judge("INT8 looks more robust than float under transferred PGD", more("transferred", MEDIAN, than=FLOAT)),
        judge("INT8 is more robust than float when both are attacked white-box", more("white_box", MEDIAN, than=FLOAT)),
        judge(
            "PGD on the INT8 graph itself is stronger on it than transferred PGD",
            more("transferred", MEDIAN, than=MEDIAN, of="white_box"),
        ),
        judge(
            "Robustness of INT8 is overstated by transferred PGD alone (transferred - worst of both)",
            more("transferred", MEDIAN, than=MEDIAN, of="worst"),
        ),
        judge(
            "Samples of calibration images change accuracy under attack by more than a point",
            over_seeds(spread),
            threshold=1.0,
        ),
        judge(
            "A build chosen on validation adversaries is more robust than the median one",
            more("worst", BEST, than=MEDIAN),
        ),
        judge("Quantisation-aware training is more robust than the best calibration", more("worst", QAT, than=BEST)),
        judge("Adversarial quantisation-aware training is more robust still", more("worst", ADVERSARIAL, than=QAT)),
        judge("It costs clean accuracy against the best calibration", more("clean", BEST, than=ADVERSARIAL)),
        judge(
            "DIVA finds fewer images on a build trained for INT8 than on the median one",
            more("hidden", MEDIAN, than=QAT),
        ),
    )

"""From rows to verdicts: does it confuse, what does it teach, what undoes it, and can it be seen?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from edgeproof.runs import Run
from edgeproof.studies.confuse.measure import DETECTED, Detections
from edgeproof.studies.frame import Measure, Row, percent, rate, values, where
from edgeproof.studies.verdicts import Effect, Verdict, judge, over_images, over_seeds
from edgeproof.system.untrusted import read_record

CLEAN = "clean"  # the kind of images that the detector is compared on


def detections(runs: Mapping[str, Run]) -> Iterator[dict[str, Any]]:
    """Return a row for each draw of each kind of images that the detector has looked at."""
    for images, run in runs.items():
        for draw in read_record(run.file(DETECTED), Detections).draws:
            yield {"table": "detector", "images": images, **draw.model_dump(mode="json")}


def verdicts(rows: Sequence[Row], *, published: Mapping[str, str]) -> tuple[Verdict, ...]:
    """Judge what the study claims.

    Args:
        rows: Victims and detections; the study's own noise is the first poisoned kind of images among the latter.
        published: The numbers for the data set.
    """
    return (*_over_seeds(rows, published), *_over_images(rows, published))


def _over_seeds(rows: Sequence[Row], published: Mapping[str, str]) -> Iterator[Verdict]:
    poisoned = [row for row in where(rows, table="main") if row["poison"]]

    def effect(key: str, measure: Measure) -> Effect:
        return over_seeds(values([row for row in poisoned if key in row], measure), unit="%")

    def rest(key: str) -> Measure:
        return lambda row: 100 - (percent(key)(row) or 0.0)

    yield judge(
        "A victim fitted to the poisoned images is wrong on more than 85 % of the clean test images.",
        effect("clean", rest("clean")),
        threshold=85,
        published=f"100 − {published['poisoned']}" if "poisoned" in published else "",
    )
    yield judge(
        "It is confused and not stuck: over 50 % of its predictions are of other classes than the most frequent one.",
        effect("top_class", rest("top_class")),
        threshold=50,
    )
    yield judge(
        "It has learned what it was given: over 90 % on its own training images.",
        effect("poisoned", percent("poisoned")),
        threshold=90,
        published="98 (Figure 8)" if "noise test" in published else "",
    )
    yield judge(
        "The noise alone, without an image, tells it the class: over 50 % on test images' noise.",
        effect("noise_test", percent("noise_test")),
        threshold=50,
        published=published.get("noise test", ""),
    )


def _over_images(rows: Sequence[Row], published: Mapping[str, str]) -> Iterable[Verdict]:
    """Judge what is measured at one seed."""
    for row in where(rows, table="poison", share=0.8):
        claim = "With a fifth of the images clean, training still reaches over 80 %."
        yield judge(claim, over_images(rate(row, "clean")), threshold=80, published=published.get("poison 0.8", ""))
    for row in rows:
        if "wanted" in row:
            claim = "The label-specific noise sends over half of the clean test images to the wanted class."
            yield judge(claim, over_images(rate(row, "wanted")), threshold=50, published=published.get("wanted", ""))
        if row.get("defence") == "jpeg=10" and row["poison"]:
            claim = "JPEG at quality 10 before training brings a victim back over 50 %."
            known = published.get("poisoned jpeg=10", "82 (CIFAR-10)")
            yield judge(claim, over_images(rate(row, "clean")), threshold=50, published=known)
    noisy = [row for row in where(rows, table="detector") if row["images"] != CLEAN]
    for row in noisy[:1]:
        claim = "Whoever receives the images and has clean ones sees it: over 90 % are flagged, at 5 % false alarms."
        yield judge(claim, over_images(rate(row, "flagged")), threshold=90)

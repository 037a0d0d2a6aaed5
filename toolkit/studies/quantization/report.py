"""The tables of the study `quantization`: the builds, and what the search for them has tried."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from edgeproof.reports import numbers
from edgeproof.reports.document import Section
from edgeproof.reports.search_text import candidates_table, layers_table
from edgeproof.reports.tables import Cell, Table
from edgeproof.studies.frame import Row, distinct, percent, table, values, where
from edgeproof.studies.quantization.findings import same_method

_LEGEND = (
    "Percent of the test images, mean over seeds with each seed's value next to it. Transferred: PGD on the float "
    "checkpoint. White-box: PGD "
    "on the build's own graph, judged by ONNX Runtime. Worst: correct under both. Worst class: the smallest of these "
    "shares among the classes. "
    "DIVA: of the images that float and the build classify correctly, those for which the attack finds a version that "
    "float still classifies correctly and the build does not, which a sign-off of the float network does not see. "
    "Speeds are of a machine that also did other things."
)
_VARIANCE = (
    "The same method on several samples of calibration images, judged on validation images: the smallest and the "
    "largest number that was correct, and the images that get another class than in the first build."
)


def sections(rows: Sequence[Row], searches: Mapping[int, Mapping[str, Any]]) -> tuple[Section, ...]:
    """Return everything that stands after the verdicts.

    Args:
        rows: One for each build at each seed.
        searches: What the search has tried, by seed.
    """
    noisiest = "The layers of the best calibrated build that are farthest from the float graph under attack:"
    tried = []
    for seed, search in searches.items():
        about = f"{search['images']} validation images; chosen: {search['best']}; median of the calibrated ones: {search['median']}."
        blocks = (about, candidates_table(search), noisiest, layers_table(search["layers"]))
        tried.append(Section(f"The builds tried, seed {seed}", blocks))
    return (
        Section("The builds", (_LEGEND, builds(rows))),
        Section("How much calibrations differ", (_VARIANCE, variance(searches))),
        *tried,
    )


def builds(rows: Sequence[Row]) -> Table:
    """Accuracy of each build, clean and under each attack, and its speed."""

    def over_seeds(found: Sequence[float]) -> Cell:
        if not found:
            return Cell("")
        each = ", ".join(f"{value:.1f}" for value in found) if len(found) > 1 else ""
        return Cell(f"{mean(found):.1f}", each)

    shown = []
    for build in distinct(rows, "build"):
        mine = where(rows, build=build)
        hidden = values([row for row in mine if "hidden" in row], lambda row: percent("hidden")(row) or 0.0)
        shown.append(
            (
                build,
                *(over_seeds(values(mine, percent(key))) for key in ("clean", "transferred", "white_box", "worst")),
                over_seeds([row["worst_class"] for row in mine]),
                over_seeds(hidden),
                numbers.per_second(mean(row["images_per_s"] for row in mine)),
            )
        )
    titles = ("Clean", "Transferred", "White-box", "Worst", "Worst class", "DIVA", "Images/s")
    return table(("Build",), titles, shown)


def variance(searches: Mapping[int, Mapping[str, Any]]) -> Table:
    """How much builds differ that differ in their sample of calibration images only."""
    shown = []
    for seed, search in searches.items():
        same = search["candidates"][: len(same_method(search))]
        spans = [[each[key]["hits"] for each in same] for key in ("clean", "robust")]
        spans += [[each[key] for each in same[1:]] or [0] for key in ("flips_clean", "flips_robust")]
        shown.append((str(seed), str(len(same)), *(f"{min(span)}–{max(span)}" for span in spans)))
    titles = ("Samples", "Clean, correct", "Under attack, correct", "Flips, clean", "Flips, attacked")
    return table(("Seed",), titles, shown)

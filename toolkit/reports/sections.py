"""The sections of a report, in their order: one list, of which the page shows all and the short report those marked so."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from edgeproof.reports import dispersion, forms, tables, wording
from edgeproof.reports.content import EvalRun, adversarial_sets, clean_set, worst_cell
from edgeproof.reports.figures.class_bars import set_bars
from edgeproof.reports.figures.confusion import set_confusions
from edgeproof.reports.figures.curves import accuracy_over_eps, sweeps
from edgeproof.reports.figures.frontier import frontier
from edgeproof.reports.figures.gallery import Picture, pictures
from edgeproof.reports.figures.svg import Figure
from edgeproof.reports.figures.transfer import transfer_map
from edgeproof.reports.tables import Table


@dataclass(frozen=True)
class Note:
    """A paragraph that says how to read what follows; only the page has it, in grey."""

    text: str


@dataclass(frozen=True)
class Bullets:
    """Sentences, one below the other."""

    texts: tuple[str, ...]


@dataclass(frozen=True)
class Shown:
    """A table in another style of the page than the usual one: "wide" wraps its cells, "tight" has many columns."""

    table: Table
    style: str


@dataclass(frozen=True)
class Figures:
    """Figures side by side."""

    figures: tuple[Figure, ...]


@dataclass(frozen=True)
class Gallery:
    """Images of one adversarial set."""

    name: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Fold:
    """Blocks of one set that the page shows when its name is clicked, or at once where it is `opened`."""

    name: str
    opened: bool
    blocks: tuple[Block, ...]


Block: TypeAlias = str | Note | Bullets | Table | Shown | Figures | Gallery | Fold


@dataclass(frozen=True)
class Part:
    """A heading and what stands under it. short: whether `report.md` has it, and `report.html`; level: of the page's heading."""

    title: str
    blocks: tuple[Block, ...]
    short: bool = False
    page: bool = True
    level: int = 2


def opening(run: EvalRun) -> tuple[Block, ...]:
    """Return what stands right under the verdict: what the attacks knew, the limits, and a row for each engine."""
    results = run.results
    known = wording.knowledge(results)
    return *([known] if known else []), *([tables.gates(results)] if results.gates else []), tables.headline(results)


def parts_of(run: EvalRun) -> Iterator[Part]:
    """Yield the sections of a report, from the warnings to what was measured."""
    results = run.results
    attacked = adversarial_sets(results)
    reference = worst_cell(results, results.reference)
    worst = reference.set if reference else clean_set(results).name

    if results.warnings:
        yield Part("Read this before the numbers", (Bullets(results.warnings),), short=True)
    yield Part("Every engine on every set", (tables.accuracies(results),), short=True)
    if attacked:
        yield Part("What the attacks took", (tables.attacks(results),), level=3)
        yield Part(
            "Weakest classes, each engine on its worst set", (tables.weakest_classes(results),), short=True, page=False
        )
    if (spread := dispersion.dispersion(results)).rows:
        yield Part(dispersion.TITLE, (spread,), short=True, level=3)
    if results.worst:
        yield Part(wording.WORST, (tables.worst_cases(results),), short=True, level=3)
    if results.gaps:
        yield Part(wording.GAPS, (tables.gaps(results),), short=True, level=3)
    if results.masking:
        yield Part(wording.MASKING, (Shown(tables.masking(results), "wide"),), short=True, level=3)
    if results.costs:
        yield Part("What mistakes cost", (wording.costs(results), tables.costs(results)), short=True)
    if attacked:
        how = (
            "Pale bars are clean accuracy, full bars adversarial accuracy with its 95 % interval. Relative difference and drop rank "
            f"classes differently, so both are given. {wording.classes_shown(results)}"
        )
        folds = [
            Fold(set_.name, set_.name == worst, (Figures(set_bars(results, set_)), tables.classes(results, set_)))
            for set_ in attacked
        ]
        yield Part("Class by class", (Note(how), *folds))
    if len(results.engines) > 1:
        yield Part(f"Agreement with {results.reference}", (tables.agreement(results),))
    if results.pairs and len(results.engines) > 2:
        differing = forms.differing(results)
        how = (
            "Share of equal predictions; next to it, images that only the row's engine and images that only the column's engine "
            "classifies correctly."
        )
        yield Part(
            "Every two engines",
            (
                forms.verdict(results),
                *([differing] if differing.rows else []),
                Note(how),
                *(
                    Fold(each.name, each.name == worst, (Shown(forms.matrix(results, each), "tight"),))
                    for each in results.sets
                ),
            ),
            short=True,
        )
    how = "Rows are true classes, columns predictions; the stronger the colour, the larger the share of the row. Blue is correct, orange is wrong."
    confusions = [
        Fold(
            "Clean images" if set_ == clean_set(results) else set_.name,
            set_.name == worst,
            (Figures(set_confusions(results, set_)),),
        )
        for set_ in (clean_set(results), *attacked)
    ]
    yield Part("Confusion", (Note(how), *confusions))
    if attacked:
        curves = [accuracy_over_eps(results, sweep) for sweep in sweeps(results)]
        yield Part("Transfer and budget", (Figures((transfer_map(results), *curves)),))
    galleries = [Gallery(set_.name, tuple(pictures(run, set_))) for set_ in attacked]
    if any(gallery.pictures for gallery in galleries):
        folds = [Fold(each.name, each.name == worst, (each,)) for each in galleries if each.pictures]
        yield Part("Images", (Note("Clean, adversarial, and their difference times ten around grey."), *folds))
    if forms.has_behaviour(results):
        how = (
            "Integer kernels: convolutions and matrix products of INT8 builds as the runtime executes them. Images tried: those "
            "nearest to a boundary, alone and in several slots of several batch sizes; class changes: those that did not always get "
            "the same class."
        )
        yield Part("How the engines compute", (Note(how), forms.behaviour(results)), short=True)
    timed, plot = tables.throughput(results), frontier(results)
    measured: tuple[Block, ...] = (timed, Figures((plot,))) if plot else (timed,)
    yield Part("Throughput", measured if timed.rows else ("Throughput was not measured.",))
    machine = "; ".join(f"{key} {value}" for key, value in results.environment.items())
    made = (Shown(tables.engines(results), "wide"), Shown(tables.sets(results), "wide"), Note(machine))
    yield Part("What was measured", made)

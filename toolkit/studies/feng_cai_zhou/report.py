"""The verdicts, tables and figures of the study `confuse`, with the published numbers beside ours."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import mean, stdev
from typing import Any

import numpy as np

from edgeproof.config import format_eps
from edgeproof.data.arrays import read_npz
from edgeproof.evaluation.metrics import Rate
from edgeproof.evaluation.results import Results
from edgeproof.reports import numbers
from edgeproof.reports.document import Block, Section
from edgeproof.reports.figures.axes import LEFT, RIGHT, Axes
from edgeproof.reports.figures.confusion import confusion_matrix
from edgeproof.reports.figures.svg import WIDTH, Drawing, Figure, colour, dash, png_uri
from edgeproof.reports.tables import Cell, Column, Table
from edgeproof.runs import Run
from edgeproof.studies.feng_cai_zhou.fits import PICTURES, Fit, Measured
from edgeproof.studies.feng_cai_zhou.looks import Looks, look_section, seen_by_detector
from edgeproof.studies.verdicts import Effect, Verdict, judge, over_seeds, within_seed
from edgeproof.types import Array, Images

_GAIN = 10  # of the noise in the pictures
#: Feng, Cai and Zhou (2019), clean-test accuracy in per cent: Table 1, Figures 4 to 7 (read off, +-1 and +-3), by data set.
PUBLISHED: Mapping[str, Mapping[str, str]] = {
    "mnist": {
        "clean": "99.32 ± 0.05", "poisoned": "0.25 ± 0.04", "noise train": "95.62", "noise test": "95.15", "wanted": "79.7 ± 0.38",
        "clean confuse-cnn-small": "99.15", "poisoned confuse-cnn-small": "0.29", "clean confuse-cnn-large": "99.17",
        "poisoned confuse-cnn-large": "0.20", "clean forest": "97.23", "poisoned forest": "1.80", "clean svm": "98.24",
        "poisoned svm": "0.52", "budget 0.1": "98", "budget 0.15": "97.5", "budget 0.2": "68", "budget 0.25": "5",
        "budget 0.3": "0.3", "poison 0.5": "98", "poison 0.6": "97", "poison 0.7": "94", "poison 0.8": "86", "poison 0.9": "68",
        "flip 0.5": "98", "flip 0.6": "97", "flip 0.7": "96", "flip 0.8": "94", "flip 0.9": "87", "flip 0.95": "75",
    },
    "cifar10": {
        "clean": "77.28 ± 0.17", "poisoned": "28.77 ± 2.80", "noise train": "78.57", "noise test": "72.98",
        "clean vgg16-bn": "92.6", "poisoned vgg16-bn": "22.8", "clean resnet-18": "93.0",
        "poisoned resnet-18": "16.3 (paper), 26.3 (poster)",
        "poisoned jpeg=10": "81.84 (ResNet-18, 8/255, Liu et al., 2023)", "poisoned grey": "93.07 (likewise)",
    },
}  # fmt: skip


def verdicts(found: Sequence[Measured], *, looks: Looks, published: Mapping[str, str]) -> tuple[Verdict, ...]:
    """Return what the study claims, as effects above thresholds."""
    main = [each for each in found if each.fit.table == "main" and each.fit.poison]
    noise = [100 * _share(each.noise[1]) for each in main if each.noise]
    fed = [100 * _share(each.poisoned) for each in main if each.poisoned]
    claims = [
        judge(
            "A victim fitted to the poisoned images is wrong on more than 85 % of the clean test images.",
            over_seeds([100 - 100 * _share(each.clean) for each in main], unit="%"),
            threshold=85,
            published=_against("100 −", published.get("poisoned")),
        ),
        judge(
            "It is confused and not stuck: over 50 % of its predictions are of other classes than the most frequent one.",
            over_seeds([100 - 100 * _share(each.top_class) for each in main], unit="%"),
            threshold=50,
        ),
        judge(
            "It has learned what it was given: over 90 % on its own training images.",
            over_seeds(fed, unit="%"),
            threshold=90,
            published="98 (Figure 8)" if "noise test" in published else "",
        ),
        judge(
            "The noise alone, without an image, tells it the class: over 50 % on test images' noise.",
            over_seeds(noise, unit="%"),
            threshold=50,
            published=published.get("noise test", ""),
        ),
    ]
    return (*claims, *_single(found, published), *seen_by_detector(looks))


def _single(found: Sequence[Measured], published: Mapping[str, str]) -> Iterable[Verdict]:
    """Judge what is measured on one seed, with Wilson's interval over the test images."""
    shares = [each for each in found if each.fit.table == "poison" and each.fit.share == 0.8]
    for each in shares:
        claim = "With a fifth of the images clean, training still reaches over 80 %."
        yield judge(claim, _wilson(each.clean), threshold=80, published=published.get("poison 0.8", ""))
    for each in found:
        if each.wanted:
            claim = "The label-specific noise sends over half of the clean test images to the wanted class."
            yield judge(claim, _wilson(each.wanted), threshold=50, published=published.get("wanted", ""))
        if each.fit.defence == "jpeg=10" and each.fit.poison:
            claim = "JPEG at quality 10 before training brings a victim back over 50 %."
            note = published.get("poisoned jpeg=10", "82 (CIFAR-10)")
            yield judge(claim, _wilson(each.clean), threshold=50, published=note)


def sections(
    found: Sequence[Measured],
    *,
    poison: Run,
    shown: Run,
    deployed: Run | None,
    looks: Looks,
    published: Mapping[str, str],
    eps: float,
) -> tuple[Section, ...]:
    """Return the tables and figures."""
    by = {name: [each for each in found if each.fit.table == name] for name in _TABLES}
    kept = json.loads(poison.file("trials.json").read_text(encoding="utf-8"))
    parts = [
        Section("Clean against poisoned training", (*_main(by["main"], published), *_trials(kept))),
        Section("The noise", (_pictures(read_npz(shown.file(PICTURES))), *_noise(by["main"], published))),
        Section("Other victims", (_pairs(by["transfer"], published, lambda fit: fit.network, first="Victim"),)),
    ]
    if by["budget"]:
        parts.append(Section("Budget", _budget(by["main"], by["budget"], published, eps=eps)))
    if by["poison"]:
        parts.append(Section("Part of the images poisoned", _shares(by, published)))
    if by["target"]:
        parts.append(Section("Label-specific noise", _target(by["target"][0])))
    if deployed is not None:
        parts.append(Section("Deployed", _deployed(deployed)))
    parts.append(Section("Against it", _against_it(by["defence"], published)))
    if by["baseline"]:
        parts.append(Section("Without a generator", _baselines(by)))
    parts.append(Section("Can it be seen?", look_section(looks)))
    return tuple(parts)


_TABLES = ("main", "transfer", "budget", "poison", "flip", "defence", "baseline", "target")


def _main(found: Sequence[Measured], published: Mapping[str, str]) -> Iterable[Block]:
    yield _table(
        ("Training images", "Clean-test accuracy", "Standard deviation", "Seeds", "Published"),
        [
            _spread(name, [each for each in found if bool(each.fit.poison) == bad], published)
            for name, bad in _TRAININGS
        ],
    )
    attacked = next(each for each in found if each.fit.poison)
    yield confusion_matrix(
        attacked.counts, attacked.classes, title=f"Fitted to poisoned images (seed {attacked.fit.seed})"
    )


_TRAININGS = (("clean", False), ("poisoned", True))


def _spread(name: str, found: Sequence[Measured], published: Mapping[str, str]) -> tuple[str, ...]:
    values = [100 * _share(each.clean) for each in found]
    spread = f"{stdev(values):.2f}" if len(values) > 1 else ""
    return name, f"{mean(values):.2f} %", spread, ", ".join(f"{value:.2f}" for value in values), published.get(name, "")


def _trials(kept: Mapping[str, Any]) -> Iterable[Block]:
    """Draw the accuracy of each trial's victim on held-out training images, which chose the generator."""
    trials, names = kept["trials"], ("clean", "poisoned")
    lines = {
        name: [(n, trial[name]["hits"] / trial[name]["total"]) for n, trial in enumerate(trials)] for name in names
    }
    caption = f"Held-out accuracy of each trial's victim; the generator after trial {kept['kept_trial']} is kept"
    yield _curves(caption, lines, name="trials that the generator has learned from")


def _noise(found: Sequence[Measured], published: Mapping[str, str]) -> Iterable[Block]:
    rows = []
    for place, name in enumerate(("train", "test")):
        values = [100 * _share(each.noise[place]) for each in found if each.noise]
        rows.append((name, f"{mean(values):.2f} %", published.get(f"noise {name}", "")))
    yield "The victim of the table above, given g(x) without x and scored against the true class of x:"
    yield _table(("Noise of", "Accuracy", "Published"), rows)


def _pairs(
    found: Sequence[Measured], published: Mapping[str, str], name: Callable[[Fit], str | None], *, first: str
) -> Table:
    """Put the clean and the poisoned training of each victim or filter side by side."""
    rows: dict[str, dict[bool, Measured]] = {}
    for each in found:
        rows.setdefault(str(name(each.fit)), {})[bool(each.fit.poison)] = each
    return _table(
        (first, "Clean training", "published", "Poisoned training", "published", "Most frequent prediction"),
        [
            (
                key, numbers.percent(pair[False].clean.value), published.get(f"clean {key}", ""),
                numbers.percent(pair[True].clean.value), published.get(f"poisoned {key}", ""),
                numbers.percent(pair[True].top_class.value),
            )
            for key, pair in rows.items()
        ],
    )  # fmt: skip


def _budget(
    main: Sequence[Measured], found: Sequence[Measured], published: Mapping[str, str], *, eps: float
) -> tuple[Block, ...]:
    first = next(each for each in main if each.fit.poison)
    points = sorted([(each.fit.eps, each) for each in (*found, first)], key=lambda point: point[0])
    rows = [
        (format_eps(at), numbers.percent(each.clean.value), published.get(f"budget {at:g}", "")) for at, each in points
    ]
    line = {"clean-test accuracy": [(at, _share(each.clean)) for at, each in points]}
    caption = f"A generator for each budget, one victim each; the study's own is {format_eps(eps)}"
    return _table(("eps", "Clean-test accuracy", "Published"), rows), _curves(caption, line, name="eps")


def _shares(by: Mapping[str, Sequence[Measured]], published: Mapping[str, str]) -> tuple[Block, ...]:
    flipped = {each.fit.share: each for each in by["flip"]}
    rows = [
        (
            f"{each.fit.share:g}", numbers.percent(each.clean.value), published.get(f"poison {each.fit.share:g}", ""),
            numbers.percent(flipped[each.fit.share].clean.value), published.get(f"flip {each.fit.share:g}", ""),
        )
        for each in by["poison"]
    ]  # fmt: skip
    lines = {
        name: [(each.fit.share, _share(each.clean)) for each in by[key]]
        for name, key in (("poisoned", "poison"), ("random labels", "flip"))
    }
    table = _table(("Share", "Poisoned", "published", "Random labels", "published"), rows)
    return table, _curves("Clean-test accuracy by the share of changed images", lines, name="share")


def _target(each: Measured) -> tuple[Block, ...]:
    goals = each.target or ()
    largest = sum(int(row.argmax() == goal) for row, goal in zip(each.counts, goals, strict=True))
    said = (
        f"Wanted: {', '.join(f'{each.classes[a]} as {each.classes[b]}' for a, b in enumerate(goals))}. "
        f"{numbers.percent(each.wanted.value if each.wanted else None)} of the clean test images go there, "
        f"{numbers.percent(each.clean.value)} to their own class; the wanted class is the most frequent one of "
        f"{largest} of {len(goals)} classes."
    )
    return said, confusion_matrix(each.counts, each.classes, title="Fitted to label-specific noise")


def _against_it(found: Sequence[Measured], published: Mapping[str, str]) -> tuple[Block, ...]:
    said = (
        "Filters work on the training images before they are fitted to, cutout and mixup on each batch; the test images stay "
        "as they are."
    )
    return (said, _pairs(found, published, lambda fit: fit.defence, first="Defence")) if found else ()


_BASELINES = {
    "minimised": "minimised is fitted to these images so that nothing is left to learn from them (Huang et al., 2021, arXiv:2101.04898)",
    "patterns": "patterns is one random pattern a class, with nothing learned (Yu et al., 2022, arXiv:2111.00898)",
}


def _baselines(by: Mapping[str, Sequence[Measured]]) -> tuple[Block, ...]:
    first = next(each for each in by["main"] if each.fit.poison)
    rows = [
        (name, numbers.percent(each.clean.value), numbers.percent(each.top_class.value))
        for name, each in (("generator", first), *((each.fit.poison or "", each) for each in by["baseline"]))
    ]
    about = [_BASELINES[each.fit.poison] for each in by["baseline"] if each.fit.poison in _BASELINES]
    said = f"Noise of the same budget, {format_eps(first.fit.eps)}: {', '.join(about)}."
    return said, _table(("Noise", "Clean-test accuracy", "Most frequent prediction"), rows)


def _deployed(run: Run) -> tuple[Block, ...]:
    results = Results.model_validate_json(run.file("results.json").read_bytes())
    rows = [
        (engine.name, engine.backend, numbers.percent(cell.accuracy.value), numbers.hits(cell.accuracy))
        for engine in results.engines
        for cell in (results.cell(engine.name, "clean"),)
    ]
    said = "The first poisoned victim of the main table, exported; INT8 ranges come from clean images."
    return said, _table(("Form", "Engine", "Clean-test accuracy", "Images"), rows)


def _pictures(arrays: Mapping[str, Array]) -> Figure:
    """Draw rows of original, ten times the noise around grey, and poisoned."""
    clean, poisoned = arrays["clean"], arrays["poisoned"]
    rows = {"original": clean, f"noise x{_GAIN}": np.clip(0.5 + _GAIN * (poisoned - clean), 0, 1), "poisoned": poisoned}
    edge, gap = 62.0, 2.0
    side = (WIDTH - edge) / len(clean)
    title = f"Original, {_GAIN} times the noise, and poisoned training images"
    drawing = Drawing(len(rows) * side, title=title, description="One column an image, one class each.")
    for row, (name, images) in enumerate(rows.items()):
        drawing.text(0, (row + 0.5) * side + 4, name)
        for place, image in enumerate(images):
            drawing.image(edge + place * side, row * side, side - gap, side - gap, png_uri(_pixels(image)))
    return Figure(title, str(drawing))


def _pixels(image: Images) -> Array:
    levels = np.rint(255 * image).astype(np.uint8)
    return levels[0] if len(levels) == 1 else np.ascontiguousarray(levels.transpose(1, 2, 0))


def _curves(caption: str, lines: Mapping[str, Sequence[tuple[float, float]]], *, name: str) -> Figure:
    axes = Axes(title=caption, description=f"Accuracy over {name}.", names=list(lines))
    places = sorted({x for line in lines.values() for x, _ in line})
    low, span = places[0], (places[-1] - places[0]) or 1.0
    across = {x: LEFT + (RIGHT - LEFT) * (x - low) / span for x in places}
    axes.across({across[x]: f"{x:g}" for x in places}, name=name)
    for position, ((x, y), line) in enumerate(zip(axes.legend(), lines.values(), strict=True)):
        points = [(across[at], axes.up(share)) for at, share in line]
        axes.drawing.polyline(points, f"curve {colour(position)}", dash=dash(position))
        for place, share in points:
            axes.drawing.circle(place, share, 2.6, colour(position))
        axes.drawing.line(x - 10, y, x + 10, y, f"curve {colour(position)}")
    return Figure(caption, str(axes.drawing))


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    columns = (Column(titles[0], numeric=False), *map(Column, titles[1:]))
    return Table(columns=columns, rows=tuple(tuple(map(Cell, row)) for row in rows))


def _wilson(rate: Rate) -> Effect:
    low, high = rate.interval or (0.0, 1.0)
    return within_seed(100 * _share(rate), low=100 * low, high=100 * high, method="Wilson's over the images", unit="%")


def _share(rate: Rate) -> float:
    return rate.hits / rate.total


def _against(prefix: str, text: str | None) -> str:
    return f"{prefix} {text}" if text else ""

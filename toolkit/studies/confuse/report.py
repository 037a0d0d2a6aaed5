"""The tables and figures of the study `confuse`, with the published numbers next to ours."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from statistics import mean, stdev

import numpy as np

from edgeproof.config import format_eps
from edgeproof.data.arrays import read_npz
from edgeproof.evaluation.detection import DetectRecord
from edgeproof.evaluation.results import read_results
from edgeproof.reports import numbers
from edgeproof.reports.detection import detection_table
from edgeproof.reports.document import Block, Section
from edgeproof.reports.figures.axes import LEFT, RIGHT, Axes
from edgeproof.reports.figures.confusion import confusion_matrix
from edgeproof.reports.figures.svg import WIDTH, Drawing, Figure, colour, dash, png_uri
from edgeproof.reports.tables import Table
from edgeproof.runs import Run
from edgeproof.studies.confuse.findings import CLEAN
from edgeproof.studies.confuse.measure import PICTURES
from edgeproof.studies.frame import Row, distinct, percent, rate, table, values, where

_GAIN = 10  # of the noise in the pictures
_SURE = 0.001  # p value of a detector that has found a difference
_FILTERS = (
    "Filters work on the training images before they are fitted to, cutout and mixup on each batch; the test images stay "
    "as they are."
)
_BASELINES = {
    "minimised": "minimised is fitted to these images so that nothing is left to learn from them (Huang et al., 2021, arXiv:2101.04898)",
    "patterns": "patterns is one random pattern per class, with nothing learned (Yu et al., 2022, arXiv:2111.00898)",
}


def sections(
    rows: Sequence[Row], *, published: Mapping[str, str], eps: float, poison: Run, shown: Run, deployed: Run | None
) -> tuple[Section, ...]:
    """Return the tables and figures.

    Args:
        rows: Victims and detections.
        published: The numbers for the data set.
        eps: The study's own budget.
        poison: The run of the generator.
        shown: The job that has kept images to be shown.
        deployed: The evaluation of a confused victim's graphs.
    """
    by = {name: where(rows, table=name) for name in (*distinct(rows, "table"), "defence")}
    first = next(row for row in by["main"] if row["poison"])
    parts = [
        Section(
            "Clean against poisoned training", (spread_table(by["main"], published), _matrix(first), _trials(poison))
        ),
        Section("The noise", (_pictures(shown), *_noise(by["main"], published))),
        Section("Other victims", (pairs(by.get("transfer", ()), published, "network", first="Victim"),)),
    ]
    if "budget" in by:
        parts.append(Section("Budget", budgets([*by["budget"], first], published, eps=eps)))
    if "poison" in by:
        parts.append(Section("Part of the images poisoned", shares(by["poison"], by["flip"], published)))
    if "target" in by:
        parts.append(Section("Label-specific noise", targeted(by["target"][0])))
    if deployed is not None:
        parts.append(Section("Deployed", _deployed(deployed)))
    against = (_FILTERS, pairs(by["defence"], published, "defence", first="Defence")) if by["defence"] else ()
    parts.append(Section("Against it", against))
    if "baseline" in by:
        parts.append(Section("Without a generator", baselines(first, by["baseline"])))
    parts.append(Section("Can it be seen?", detected(by["detector"])))
    return tuple(parts)


def spread_table(rows: Sequence[Row], published: Mapping[str, str]) -> Table:
    """Clean-test accuracy of clean and of poisoned training, over seeds."""

    def line(name: str) -> tuple[str, ...]:
        found = values([row for row in rows if bool(row["poison"]) == (name == "poisoned")], percent("clean"))
        spread = f"{stdev(found):.2f}" if len(found) > 1 else ""
        each = ", ".join(f"{value:.2f}" for value in found)
        return name, f"{mean(found):.2f} %", spread, each, published.get(name, "")

    titles = ("Clean-test accuracy", "Standard deviation", "Seeds", "Published")
    return table(("Training images",), titles, [line("clean"), line("poisoned")])


def _matrix(row: Row) -> Figure:
    title = f"Fitted to poisoned images (seed {row['seed']})"
    return confusion_matrix(np.array(row["confusion"]), tuple(row["classes"]), title=title)


def _trials(poison: Run) -> Figure:
    """Draw the accuracy of each trial's victim on held-out training images, which chose the generator."""
    kept = json.loads(poison.file("trials.json").read_text(encoding="utf-8"))
    lines = {
        name: [(n, trial[name]["hits"] / trial[name]["total"]) for n, trial in enumerate(kept["trials"])]
        for name in ("clean", "poisoned")
    }
    caption = f"Held-out accuracy of each trial's victim; the generator after trial {kept['kept_trial']} is kept"
    return _curves(caption, lines, name="trials that the generator has learned from")


def _pictures(run: Run) -> Figure:
    """Draw rows of original, ten times the noise around grey, and poisoned."""
    arrays = read_npz(run.file(PICTURES))
    clean, poisoned = arrays["clean"], arrays["poisoned"]
    rows = {"original": clean, f"noise x{_GAIN}": np.clip(0.5 + _GAIN * (poisoned - clean), 0, 1), "poisoned": poisoned}
    edge, gap = 62.0, 2.0
    side = (WIDTH - edge) / len(clean)
    title = f"Original, {_GAIN} times the noise, and poisoned training images"
    drawing = Drawing(len(rows) * side, title=title, description="One column per image, one image per class.")
    for row, (name, images) in enumerate(rows.items()):
        drawing.text(0, (row + 0.5) * side + 4, name)
        for place, image in enumerate(images):
            levels = np.rint(255 * image).astype(np.uint8)
            pixels = levels[0] if len(levels) == 1 else np.ascontiguousarray(levels.transpose(1, 2, 0))
            drawing.image(edge + place * side, row * side, side - gap, side - gap, png_uri(pixels))
    return Figure(title, str(drawing))


def _noise(rows: Sequence[Row], published: Mapping[str, str]) -> Iterator[Block]:
    yield "The victim of the table above, given g(x) without x and scored against the true class of x:"
    lines = []
    for name in ("train", "test"):
        key = f"noise_{name}"
        found = values([row for row in rows if key in row], percent(key))
        lines.append((name, f"{mean(found):.2f} %", published.get(f"noise {name}", "")))
    yield table(("Noise of",), ("Accuracy", "Published"), lines)


def pairs(rows: Sequence[Row], published: Mapping[str, str], key: str, *, first: str) -> Table:
    """Put the clean and the poisoned training of each victim or defence side by side.

    Args:
        rows: Victims, a clean and a poisoned one for each value of `key`.
        published: The numbers for the data set.
        key: "network" or "defence".
        first: Heading of its column.
    """
    lines = []
    for name in distinct(rows, key):
        clean, poisoned = sorted(where(rows, **{key: name}), key=lambda row: bool(row["poison"]))
        lines.append(
            (
                name,
                numbers.percent(rate(clean, "clean").value),
                published.get(f"clean {name}", ""),
                numbers.percent(rate(poisoned, "clean").value),
                published.get(f"poisoned {name}", ""),
                numbers.percent(rate(poisoned, "top_class").value),
            )
        )
    titles = ("Clean training", "published", "Poisoned training", "published", "Most frequent prediction")
    return table((first,), titles, lines)


def budgets(rows: Sequence[Row], published: Mapping[str, str], *, eps: float) -> tuple[Block, ...]:
    """Return the accuracy that each budget leaves; `eps` is the study's own."""
    ordered = sorted(rows, key=lambda row: row["eps"])
    lines = [
        (format_eps(row["eps"]), numbers.percent(rate(row, "clean").value), published.get(f"budget {row['eps']:g}", ""))
        for row in ordered
    ]
    curve = {"clean-test accuracy": [(row["eps"], rate(row, "clean").value or 0.0) for row in ordered]}
    caption = f"A generator for each budget, one victim each; the study's own is {format_eps(eps)}"
    return table(("eps",), ("Clean-test accuracy", "Published"), lines), _curves(caption, curve, name="eps")


def shares(poisoned: Sequence[Row], flipped: Sequence[Row], published: Mapping[str, str]) -> tuple[Block, ...]:
    """Return the accuracy that poisoning a part of the images leaves, next to random labels for as many."""
    lines = []
    for row in poisoned:
        (random,) = where(flipped, share=row["share"])
        share = f"{row['share']:g}"
        both = [numbers.percent(rate(each, "clean").value) for each in (row, random)]
        lines.append(
            (share, both[0], published.get(f"poison {share}", ""), both[1], published.get(f"flip {share}", ""))
        )
    curves = {
        name: [(row["share"], rate(row, "clean").value or 0.0) for row in rows]
        for name, rows in (("poisoned", poisoned), ("random labels", flipped))
    }
    shown = table(("Share",), ("Poisoned", "published", "Random labels", "published"), lines)
    return shown, _curves("Clean-test accuracy by the share of changed images", curves, name="share")


def targeted(row: Row) -> tuple[Block, ...]:
    """Say where a label-specific noise has sent the clean test images."""
    goals, classes, matrix = row["goals"], row["classes"], np.array(row["confusion"])
    largest = sum(int(line.argmax() == goal) for line, goal in zip(matrix, goals, strict=True))
    text = (
        f"Wanted: {', '.join(f'{classes[a]} as {classes[b]}' for a, b in enumerate(goals))}. "
        f"{numbers.percent(rate(row, 'wanted').value)} of the clean test images go there, "
        f"{numbers.percent(rate(row, 'clean').value)} to their own class; the wanted class is the most frequent one of "
        f"{largest} of {len(goals)} classes."
    )
    return text, confusion_matrix(matrix, tuple(classes), title="Fitted to label-specific noise")


def _deployed(run: Run) -> tuple[Block, ...]:
    results = read_results(run.file("results.json"))
    lines = []
    for engine in results.engines:
        accuracy = results.cell(engine.name, "clean").accuracy
        lines.append((engine.name, engine.backend, numbers.percent(accuracy.value), numbers.hits(accuracy)))
    text = "The first poisoned victim of the main table, exported; INT8 ranges come from clean images."
    return text, table(("Form",), ("Engine", "Clean-test accuracy", "Images"), lines)


def baselines(generated: Row, rows: Sequence[Row]) -> tuple[Block, ...]:
    """Return noise of the same budget that no generator has made, next to the study's own."""
    lines = [
        (name, numbers.percent(rate(row, "clean").value), numbers.percent(rate(row, "top_class").value))
        for name, row in (("generator", generated), *((row["poison"], row) for row in rows))
    ]
    about = ", ".join(_BASELINES[row["poison"]] for row in rows)
    text = f"Noise of the same budget, {format_eps(generated['eps'])}: {about}."
    return text, table(("Noise",), ("Clean-test accuracy", "Most frequent prediction"), lines)


def detected(rows: Sequence[Row]) -> tuple[Block, ...]:
    """Return what the detector finds in each kind of images, and how often it is wrong about clean ones."""
    clean = where(rows, images=CLEAN)
    fitted = max(row["flagged"]["total"] for row in rows)
    areas = [row["auc"] for row in clean]
    alarms = values(clean, percent("false_alarms"))
    text = (
        "Two linear models on what a 3 x 3 blur takes away, as the command detect fits them: one distinguishes these "
        f"images from clean test images, the other distinguishes the classes. They are fitted to {fitted} images of each "
        "kind at most and measured on as many "
        "others. The threshold is set to flag 5 % of clean images. "
        f"In {len(clean)} draws of clean training images it flagged {min(alarms):.1f} to {max(alarms):.1f} % of the "
        "trusted ones, and the area "
        f"under the curve, 0.5 where the two cannot be distinguished, was {min(areas):.3f} to {max(areas):.3f}; "
        f"{sum(row['p_value'] < _SURE for row in clean)} of them had p under {_SURE:g}. The table has the first of them."
    )
    firsts = [where(rows, images=images)[0] for images in distinct(rows, "images")]
    about = ("table", "images")
    draws = {
        row["images"]: DetectRecord.model_validate({key: row[key] for key in row if key not in about}) for row in firsts
    }
    return text, detection_table(draws)


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

"""The verdicts, tables and figures of the study of protected classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import mean, stdev

from edgeproof.config import format_eps
from edgeproof.reports import numbers
from edgeproof.reports.document import Section
from edgeproof.reports.tables import Cell, Column, Table
from edgeproof.runs import Run
from edgeproof.studies.base import Findings
from edgeproof.studies.protected_jobs import INT8, TRANSFER, Protocol
from edgeproof.studies.protected_published import published_sections
from edgeproof.studies.protected_scores import (
    FP32,
    INT8_ENGINE,
    Measure,
    Scores,
    all_classes,
    protected_class,
    read_scores,
)
from edgeproof.studies.protected_weights import Shapes, read_shapes, shape_sections
from edgeproof.studies.verdicts import Verdict, judge, over_seeds

_TITLES: Mapping[str, str] = {
    "clean": "Clean", "fgsm": "FGSM", "pgd": "PGD", "temperature": "PGD, temperature", "square": "Square", "deepfool": "DeepFool",
    "cw": "C&W", INT8: "PGD on INT8", TRANSFER: "PGD from normal",
}  # fmt: skip
_TOLERANCE = 2.0  # points by which an attack must be stronger before it counts as a sign
#: Columns of the tables of accuracies, as many as fit beside each other.
_PARTS = (("clean", "fgsm", "pgd", "temperature", "square"), (TRANSFER, "deepfool", "cw"))
_ENGINES = {FP32: "FP32", "ort-fp16": "FP16", INT8_ENGINE: "INT8 (trt)", "ort-int8-cpu": "INT8 (cpu)"}


def find(runs: Mapping[str, Run], *, protocol: Protocol) -> Findings:
    """Return what the study found; a pure function of its jobs' folders."""
    scores, shapes = read_scores(runs, protocol), read_shapes(runs, protocol)
    return Findings(
        verdicts=tuple(_verdicts(scores, shapes, protocol)),
        cells=(*(score.record() for score in scores.found), *shapes.records()),
        sections=(
            _about(scores, protocol, shapes),
            Section("Accuracy under attack", (_ACCURACY, *(_accuracies(scores, protocol, part) for part in _PARTS))),
            *published_sections(protocol.data),
            Section("Deployed forms", (_DEPLOYED, _deployed(scores, protocol))),
            Section("What mistakes cost", (_COSTS, _costs(scores, protocol))),
            Section("Signs of masked gradients", (_MASKING, _masking(scores, protocol))),
            *shape_sections(shapes, protocol),
        ),
    )


_ACCURACY = (
    "Per cent of all classes / of the protected class, FP32. Each attack is white-box on the row's own network, but for PGD from normal, "
    "whose images were made on the row of that name; DeepFool and C&W are held to the L2 budget, all others to L-infinity. A mean over all classes weighs every class the same."
)
_DEPLOYED = (
    "The same, of the exported graphs. PGD's images were made on the row's FP32 network, those of PGD on INT8 on its own INT8 graph "
    "(trt) with straight-through gradients."
)
_COSTS = (
    "Expected cost of an image under the published matrix (both sides), and images of other classes that are taken for the protected "
    "one, in per cent; FP32."
)
_MASKING = (
    f"An attack that should not be stronger than PGD at the same budget is a sign when it is by more than {_TOLERANCE:g} points of all classes. "
    "The others are those that the eval runs report (docs/masking.md), in so many of the trainings; one is accuracy above chance at a budget of "
    "0.5, under which every image can become grey."
)


def _verdicts(scores: Scores, shapes: Shapes, protocol: Protocol) -> Iterator[Verdict]:
    """Judge each claim whose rows were trained."""
    gain = "PGD accuracy of the protected class, points over adversarial training continued for as many epochs: "
    claims: list[tuple[str, str, str, str, Measure, float]] = [
        (gain + "cost-sensitive, both sides.", "adv-continued", "csa-both", "pgd", protected_class, 0.0),
        (gain + "cost-sensitive, misses only.", "adv-continued", "csa-miss", "pgd", protected_class, 0.0),
        (gain + "cost-sensitive, false alarms only.", "adv-continued", "csa-false-alarm", "pgd", protected_class, 0.0),
        ("Misses only raise PGD accuracy of the protected class over both sides.", "csa-both", "csa-miss", "pgd", protected_class, 0.0),
        ("Misses only cost less than 2 points of all classes' PGD accuracy.", "adv-continued", "csa-miss", "pgd", all_classes, -2.0),
        ("CSE beats plain training of as many epochs under PGD, all classes.", "normal-continued", "cse", "pgd", all_classes, 0.0),
        ("CSE beats it on the protected class too.", "normal-continued", "cse", "pgd", protected_class, 0.0),
        ("CSE beats sparsity of conv1 alone under PGD, protected class.", "sparse-only", "cse", "pgd", protected_class, 0.0),
        ("CSE beats cost plus weight decay of conv1 under PGD, all classes.", "l2-conv1", "cse", "pgd", all_classes, 0.0),
        ("Cost alone, without penalty, raises PGD accuracy of the protected class.", "normal-continued", "cost-only", "pgd", protected_class, 0.0),
        *(
            (gain + f"{row}.", "adv-continued", row, "pgd", protected_class, 0.0)
            for row in ("pgd-at", "trades", "cfa", "dafa", "worst-class")
        ),
    ]  # fmt: skip
    for claim, first, second, column, measure, threshold in claims:
        if {first, second} <= set(protocol.rows):
            yield judge(claim, scores.gain(first, second, column, measure), threshold=threshold)
    yield from shapes.verdicts()
    if "cse" in protocol.rows:
        lost = [_int8_loss(scores, row) for row in ("normal", "cse")]
        effect = over_seeds([b - a for a, b in zip(*lost, strict=True)])
        yield judge("INT8 (trt) costs CSE more clean accuracy than it costs the row normal.", effect)


def _int8_loss(scores: Scores, row: str) -> list[float]:
    before, after = (scores.by_seed(row, "clean", all_classes, engine=engine) for engine in (FP32, INT8_ENGINE))
    return [a - b for a, b in zip(before, after, strict=True)]


def _about(scores: Scores, protocol: Protocol, shapes: Shapes) -> Section:
    images = len(scores.found[0].labels)
    text = (
        f"{protocol.data}, {protocol.model}, {protocol.train_images} training images, {protocol.epochs} epochs a stage, seeds "
        f"{', '.join(map(str, protocol.seeds))}; protected: {', '.join(map(str, protocol.protect))}, cost {protocol.cost:g}. Attacked are {images} test "
        f"images a seed: {protocol.protected_images} of each protected class and {protocol.other_images} of each other one, or as many as there are. "
        f"L-infinity budget {format_eps(protocol.eps)} in pixel units, {protocol.eps / shapes.std:.2f} in units of the normalised images; L2 budget "
        f"{format_eps(protocol.eps_l2)}. PGD takes {protocol.steps} steps from {protocol.restarts} random starts, Square {protocol.queries} queries, "
        f"Carlini & Wagner {protocol.searches} constants of {protocol.cw_steps} steps."
    )
    return Section("What was done", (text,))


def _accuracies(scores: Scores, protocol: Protocol, part: tuple[str, ...]) -> Table:
    columns = [column for column in part if column in protocol.columns()]
    rows = tuple((Cell(row), *(_both(scores, row, column) for column in columns)) for row in protocol.rows)
    return Table(columns=(Column("Training", numeric=False), *(Column(_TITLES[each]) for each in columns)), rows=rows)


def _deployed(scores: Scores, protocol: Protocol) -> Table:
    columns = ("clean", "pgd", INT8)
    rows = tuple(
        (Cell(row), Cell(title), *(_both(scores, row, column, engine=engine) for column in columns))
        for row in protocol.rows
        for engine, title in _ENGINES.items()
    )
    heads = (Column("Training", numeric=False), Column("Engine", numeric=False))
    return Table(columns=(*heads, *(Column(_TITLES[each]) for each in columns)), rows=rows, grouped=True)


def _costs(scores: Scores, protocol: Protocol) -> Table:
    titles = ("Cost, clean", "Cost, PGD", "False alarms, clean", "False alarms, PGD")
    rows = tuple(
        (
            Cell(row),
            *(_single(scores.by_seed(row, column, lambda each: each.expected_cost), 2) for column in ("clean", "pgd")),
            *(_single(scores.by_seed(row, column, lambda each: each.false_alarms), 1) for column in ("clean", "pgd")),
        )
        for row in protocol.rows
    )
    return Table(columns=(Column("Training", numeric=False), *map(Column, titles)), rows=rows)


def _masking(scores: Scores, protocol: Protocol) -> Table:
    heads = (Column("Training", numeric=False), Column("Accuracy at 0.5"), Column("Signs", numeric=False))
    rows = tuple(
        (
            Cell(row),
            _single(scores.by_seed(row, "large", all_classes), 1),
            Cell("; ".join(signs) or "none", tone="bad" if signs else "good"),
        )
        for row in protocol.rows
        for signs in [list(_signs(scores, row))]
    )
    return Table(columns=heads, rows=rows)


def _signs(scores: Scores, row: str) -> Iterator[str]:
    left = {column: mean(values) for column in _TITLES if (values := scores.by_seed(row, column, all_classes))}
    for column in ("fgsm", "temperature", "square", TRANSFER):
        if column in left and left[column] < left["pgd"] - _TOLERANCE:
            yield f"{_TITLES[column]} leaves {left[column]:.1f}, PGD {left['pgd']:.1f}"
    reported = [sign for (name, _, _), signs in scores.signs.items() if name == row for sign in signs]
    for sign in dict.fromkeys(reported):
        yield f"{sign} ({reported.count(sign)} of {len(scores.of(row, 'clean'))})"


def _both(scores: Scores, row: str, column: str, *, engine: str = FP32) -> Cell:
    pairs = [scores.by_seed(row, column, measure, engine=engine) for measure in (all_classes, protected_class)]
    if not pairs[0]:
        return Cell("–")
    spread = " / ".join(f"{stdev(values):.1f}" for values in pairs) if len(pairs[0]) > 1 else ""
    return Cell(" / ".join(f"{mean(values):.1f}" for values in pairs), f"± {spread}" if spread else "")


def _single(values: Sequence[float], digits: int) -> Cell:
    if not values:
        return Cell(numbers.UNDEFINED)
    return Cell(f"{mean(values):.{digits}f}", f"± {stdev(values):.{digits}f}" if len(values) > 1 else "")

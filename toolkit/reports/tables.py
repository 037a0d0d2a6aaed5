"""The tables of a report as plain data: one definition for the page, for Markdown and for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import PurePath
from typing import Literal, TypeAlias

from edgeproof.config import format_eps
from edgeproof.evaluation.findings import finding_sentences
from edgeproof.evaluation.metrics import Rate, drop_points, relative_difference
from edgeproof.evaluation.results import (
    CellRecord,
    CostRecord,
    EngineRecord,
    Results,
    SetRecord,
)
from edgeproof.reports import numbers, wording
from edgeproof.reports.content import adversarial_sets, clean_set, shown_classes, worst_cell

_SHA_DIGITS = 12  # shown of a hash; results.json has it whole

Tone: TypeAlias = Literal["", "good", "bad"]


@dataclass(frozen=True)
class Cell:
    """One place of a table: a text, and a detail that is shown smaller next to it."""

    text: str
    detail: str = ""
    tone: Tone = ""


@dataclass(frozen=True)
class Column:
    """A heading; numbers are set to the right."""

    title: str
    numeric: bool = True


@dataclass(frozen=True)
class Table:
    """Rows under headings. With `grouped`, equal cells that follow each other in the first column are one heading."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    grouped: bool = False

    def groups(self) -> list[tuple[Cell, list[tuple[Cell, ...]]]]:
        """Return each heading of the first column with its rows; without grouping every row has its own."""
        if not self.grouped:
            return [(row[0], [row]) for row in self.rows]
        return [(head, list(rows)) for head, rows in groupby(self.rows, key=lambda row: row[0])]


def headline(results: Results) -> Table:
    """Each engine: clean accuracy, worst robust accuracy and on which set, images, throughput."""
    columns = ("Clean accuracy", "Worst robust accuracy", "Images", "Images/s")
    return Table(
        columns=(_text("Engine"), *map(Column, columns[:2]), _text("on"), *map(Column, columns[2:])),
        rows=tuple(_headline_row(results, engine) for engine in results.engines),
    )


def gates(results: Results) -> Table:
    """Each limit that was asked for: where it is measured, what was measured among how many, and whether it holds."""
    return Table(
        columns=(
            _text("Verdict"),
            _text("Limit"),
            _text("Engine"),
            _text("Set"),
            Column("Measured"),
            Column("Required"),
            Column("Images"),
        ),
        rows=tuple(
            (
                Cell("holds", tone="good") if gate.passed else Cell("does not hold", tone="bad"),
                Cell(gate.text),
                Cell(gate.engine),
                Cell(gate.set),
                Cell(wording.measured(gate)),
                Cell(wording.required(gate)),
                Cell(str(gate.count)),
            )
            for gate in results.gates
        ),
    )


def accuracies(results: Results) -> Table:
    """Each set, engine by engine: accuracy with its interval, worst class, throughput. What the terminal shows."""
    titles = (Column("Accuracy"), Column("95 % interval"), Column("Right"), _text("Worst class"), Column("Images/s"))
    rows = [
        (
            Cell(set_.name),
            Cell(engine.name),
            Cell(numbers.percent(cell.accuracy.value)),
            Cell(numbers.interval(cell.accuracy)),
            Cell(numbers.hits(cell.accuracy)),
            _worst_class(cell, results.classes),
            Cell(_throughput(engine) if set_.kind == "clean" else ""),
        )
        for set_, engine, cell in _by_set(results, results.sets)
    ]
    return Table(columns=(_text("Set"), _text("Engine"), *titles), rows=tuple(rows), grouped=True)


def attacks(results: Results) -> Table:
    """Each adversarial set, engine by engine: what the attack took."""
    titles = ("Relative difference", "Drop, points", "Attack success", "Transfer", "Transfer ratio")
    rows = [
        (
            Cell(set_.name),
            Cell(engine.name),
            Cell(numbers.relative(cell.relative_difference)),
            Cell(numbers.points(cell.drop_points)),
            _counted(cell.success),
            _counted(cell.transfer),
            Cell(numbers.ratio(cell.transfer_ratio) if cell.transfer else "–"),
        )
        for set_, engine, cell in _by_set(results, adversarial_sets(results))
    ]
    return Table(columns=(_text("Set"), _text("Engine"), *map(Column, titles)), rows=tuple(rows), grouped=True)


def costs(results: Results) -> Table:
    """Each set, engine by engine: what an image is expected to cost, and where that comes from."""
    titles = (
        Column("Expected cost"),
        Column("95 % interval"),
        _text("Most costly class"),
        _text("Most costly mistake"),
    )
    rows = [
        (Cell(set_.name), Cell(engine.name), *_cost_cells(cell.cost, results.classes))
        for set_, engine, cell in _by_set(results, results.sets)
        if cell.cost
    ]
    return Table(columns=(_text("Set"), _text("Engine"), *titles), rows=tuple(rows), grouped=True)


def agreement(results: Results) -> Table:
    """Each other engine against the reference on the same images, set by set."""
    titles = ("Same prediction", "Only reference right", "Only engine right", "McNemar p")
    rows = [
        (
            Cell(set_.name),
            Cell(engine.name),
            _counted(cell.agreement),
            Cell(str(cell.mcnemar.only_reference_right)),
            Cell(str(cell.mcnemar.only_engine_right)),
            Cell(numbers.p_value(cell.mcnemar.p_value)),
        )
        for set_, engine, cell in _by_set(results, results.sets)
        if cell.mcnemar and engine.name != results.reference
    ]
    return Table(columns=(_text("Set"), _text("Engine"), *map(Column, titles)), rows=tuple(rows), grouped=True)


def worst_cases(results: Results) -> Table:
    """Each engine under all attacks of one norm and budget at once, image by image, next to the strongest of them alone."""
    titles = (Column("Right under every attack"), Column("Right under the strongest"), _text("Attacks"))
    rows = [
        (
            Cell(f"{record.norm} {format_eps(record.eps)}"),
            Cell(record.engine),
            rate(record.accuracy),
            rate(min((results.cell(record.engine, name).accuracy for name in record.sets), key=lambda each: each.hits)),
            Cell(", ".join(record.sets)),
        )
        for record in sorted(results.worst, key=lambda record: (record.norm, record.eps))
    ]
    return Table(columns=(_text("Budget"), _text("Engine"), *titles), rows=tuple(rows), grouped=True)


def gaps(results: Results) -> Table:
    """The gain of an attack from knowing more of an engine, engine by engine, paired image by image."""
    titles = (
        Column("Difference, points"),
        Column("Only first right"),
        Column("Only second right"),
        Column("McNemar p"),
    )
    rows = [
        (
            Cell(record.engine, record.precision),
            Cell(f"{record.norm} {format_eps(record.eps)}"),
            Cell(record.first, record.first_threat),
            Cell(record.second, record.second_threat),
            Cell(numbers.points(100 * record.difference), wording.between(record)),
            Cell(str(record.only_first_right)),
            Cell(str(record.only_second_right)),
            Cell(numbers.p_value(record.p_value)),
            Cell(wording.gap(record)),
        )
        for record in results.gaps
    ]
    heads = ("Engine", "Budget", "Knows less", "Knows more")
    return Table(columns=(*map(_text, heads), *titles, _text("Knowing more")), rows=tuple(rows), grouped=True)


def masking(results: Results) -> Table:
    """Each indicator of masked gradients: the worst that was measured over the attacks, and what it would mean."""
    rows = [
        (
            Cell(record.name),
            Cell("yes", tone="bad") if record.reported else Cell("no"),
            Cell("not measured" if record.measured is None else numbers.percent(record.measured), record.where),
            Cell(f"{record.beyond} {numbers.percent(record.limit)}"),
            Cell(record.meaning),
        )
        for record in results.masking
    ]
    titles = (_text("Reported"), Column("Worst measured"), Column("Reported when"), _text("What it means"))
    return Table(columns=(_text("Indicator"), *titles), rows=tuple(rows))


def classes(results: Results, set_: SetRecord) -> Table:
    """One adversarial set class by class, engine by engine."""
    titles = ("Clean accuracy", "Adversarial accuracy", "Relative difference", "Drop, points", "Images")
    clean = clean_set(results).name
    rows = []
    for label in shown_classes(results, set_):
        for engine in results.engines:
            before, after = (results.cell(engine.name, name).rate(label) for name in (clean, set_.name))
            rows.append((Cell(results.classes[label]), Cell(engine.name), *_class_cells(before, after)))
    return Table(columns=(_text("Class"), _text("Engine"), *map(Column, titles)), rows=tuple(rows), grouped=True)


def weakest_classes(results: Results, *, count: int = 3) -> Table:
    """The classes with the least accuracy left, engine by engine, each on its own worst set."""
    titles = ("Clean accuracy", "Adversarial accuracy", "Relative difference", "Drop, points", "Images")
    rows = []
    for engine in results.engines:
        worst = worst_cell(results, engine.name)
        if worst is None:
            continue
        clean = results.cell(engine.name, clean_set(results).name)
        for record in sorted(worst.per_class, key=lambda record: record.accuracy.value or 0.0)[:count]:
            cells = _class_cells(clean.rate(record.label), record.accuracy)
            rows.append((Cell(engine.name, worst.set), Cell(results.classes[record.label]), *cells))
    return Table(columns=(_text("Engine"), _text("Class"), *map(Column, titles)), rows=tuple(rows), grouped=True)


def engines(results: Results) -> Table:
    """Each engine as it was active."""
    titles = ("Engine", "Backend", "Precision", "Device, provider", "File", "SHA-256", "Options")
    rows = [
        (
            Cell(engine.name, engine.note),
            Cell(engine.backend, numbers.pairs(engine.versions)),
            Cell(engine.precision),
            Cell(engine.device, engine.provider),
            Cell("/".join(PurePath(engine.path).parts[-2:]), numbers.size(engine.size)),
            Cell(engine.sha256[:_SHA_DIGITS]),
            Cell(numbers.pairs(engine.options)),
        )
        for engine in results.engines
    ]
    return Table(columns=tuple(map(_text, titles)), rows=tuple(rows))


def sets(results: Results) -> Table:
    """Each set of images that was measured."""
    titles = ("Set", "Attack", "Budget", "Pixels", "Source model", "Parameters", "Measured while crafting", "SHA-256")
    rows = [
        (
            Cell(set_.name, f"{set_.count} images"),
            Cell(set_.attack or "none"),
            Cell(budget(set_)),
            Cell(set_.pixels),
            Cell(set_.source or "none"),
            Cell(numbers.pairs(set_.params)),
            Cell(numbers.pairs(set_.indicators), "; ".join(finding_sentences(set_.findings))),
            Cell(set_.sha256[:_SHA_DIGITS]),
        )
        for set_ in results.sets
    ]
    return Table(columns=tuple(map(_text, titles)), rows=tuple(rows))


def throughput(results: Results) -> Table:
    """Images per second of the engines that were timed: median, spread, batch."""
    titles = ("Images/s, median", "5th percentile", "95th percentile", "Batch", "Repeats")
    rows = [
        (
            Cell(engine.name),
            Cell(numbers.per_second(timed.images_per_s)),
            Cell(numbers.per_second(timed.p5)),
            Cell(numbers.per_second(timed.p95)),
            Cell(str(timed.batch_size)),
            Cell(str(timed.repeats)),
        )
        for engine in results.engines
        if (timed := engine.throughput)
    ]
    return Table(columns=(_text("Engine"), *map(Column, titles)), rows=tuple(rows))


def rate(record: Rate | None) -> Cell:
    """A rate with its interval next to it; a dash where it does not apply."""
    return Cell(numbers.percent(record.value), numbers.interval(record)) if record else Cell("–")


def budget(set_: SetRecord) -> str:
    """The budget of a set, as `linf 8/255`."""
    return "none" if set_.eps is None else f"{set_.norm or ''} {format_eps(set_.eps)}".strip()


def _counted(record: Rate | None) -> Cell:
    return Cell(numbers.percent(record.value), f"of {record.total}") if record else Cell("–")


def _headline_row(results: Results, engine: EngineRecord) -> tuple[Cell, ...]:
    clean = results.cell(engine.name, clean_set(results).name)
    worst = worst_cell(results, engine.name)
    return (
        Cell(engine.name, "reference" if engine.name == results.reference else ""),
        rate(clean.accuracy),
        rate(worst.accuracy if worst else None),
        Cell(worst.set, worst.threat or "") if worst else Cell("–"),
        Cell(str(clean.accuracy.total)),
        Cell(_throughput(engine)),
    )


def _by_set(results: Results, chosen: Sequence[SetRecord]) -> list[tuple[SetRecord, EngineRecord, CellRecord]]:
    return [(set_, engine, results.cell(engine.name, set_.name)) for set_ in chosen for engine in results.engines]


def _class_cells(clean: Rate, attacked: Rate) -> tuple[Cell, ...]:
    return (
        rate(clean),
        rate(attacked),
        Cell(numbers.relative(relative_difference(clean, attacked))),
        Cell(numbers.points(drop_points(clean, attacked))),
        Cell(str(attacked.total)),
    )


def _worst_class(cell: CellRecord, classes: Sequence[str]) -> Cell:
    if cell.worst_class is None:
        return Cell("–")
    return Cell(classes[cell.worst_class], numbers.percent(cell.rate(cell.worst_class).value))


def _cost_cells(record: CostRecord, classes: Sequence[str]) -> tuple[Cell, ...]:
    limits = "–" if record.low is None or record.high is None else f"{record.low:.3f}–{record.high:.3f}"
    known = [(mean, -label) for label, mean in enumerate(record.per_class) if mean is not None]
    price, label = max(known, default=(0.0, 0))
    pair = record.pairs[0] if record.pairs else None
    return (
        Cell(numbers.cost(record.mean)),
        Cell(limits),
        Cell(classes[-label], numbers.cost(price)) if price else Cell("–"),
        Cell(f"{classes[pair.true]} as {classes[pair.predicted]}", f"{pair.total:g} in all") if pair else Cell("–"),
    )


def _throughput(engine: EngineRecord) -> str:
    return numbers.per_second(engine.throughput.images_per_s) if engine.throughput else "not measured"


def _text(title: str) -> Column:
    return Column(title, numeric=False)

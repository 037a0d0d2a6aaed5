"""The output of `bench` in the terminal."""

from __future__ import annotations

from typing import IO

from edgeproof.evaluation.bench import BenchCase, BenchReport
from edgeproof.reports import numbers
from edgeproof.reports.tables import Cell, Column, Table
from edgeproof.reports.terminal import print_table

_LATENCIES = ("latency_p50_ms", "latency_p90_ms", "latency_p99_ms")


def print_bench(report: BenchReport, *, file: IO[str]) -> None:
    """Print the engines or attacks that were timed, batch by batch."""
    rounds = report.settings.get("rounds")
    made = attacks_table(report) if report.kind == "attacks" else engines_table(report)
    print_table(made, title=f"{report.environment.get('processor', 'bench')}, {rounds} rounds", file=file)


def attacks_table(report: BenchReport) -> Table:
    """Each attack, crafted alone and with its evaluation; speed-up is against the first one."""
    columns = (
        Column("", numeric=False),
        Column("Attack", numeric=False),
        *map(Column, ("Images/s", "Speed-up", "Misclassified")),
    )
    rows = tuple(
        (
            Cell(case.group),
            Cell(numbers.visible(case.name)),
            Cell(numbers.per_second(case.rate)),
            Cell(f"× {case.ratio:.2f}"),
            Cell(numbers.percent(case.quality["misclassified"])),
        )
        for case in report.cases
    )
    return Table(columns=columns, rows=rows, grouped=True)


def engines_table(report: BenchReport) -> Table:
    """Each batch size, engine by engine; speed-up and classes are against the first engine's."""
    titles = ("p50, ms", "p90, ms", "p99, ms", "Images/s", "Speed-up", "Same class", "Peak memory")
    rows = [(Cell(case.group), Cell(numbers.visible(case.name)), *_measured(case)) for case in report.cases]
    for each in report.left_out:
        # Behind the rows of its batch size, or at the end where nothing was timed at it.
        last = max((place for place, row in enumerate(rows) if row[0].text == each.group), default=len(rows) - 1)
        empty = (Cell("not timed"), *[Cell("–")] * (len(titles) - 1))
        rows.insert(last + 1, (Cell(each.group), Cell(numbers.visible(each.name)), *empty))
    columns = (Column("", numeric=False), Column("Engine", numeric=False), *map(Column, titles))
    return Table(columns=columns, rows=tuple(rows), grouped=True)


def _measured(case: BenchCase) -> tuple[Cell, ...]:
    found, memory = case.quality, case.quality.get("peak_memory_bytes")
    return (
        *(Cell(f"{found[name]:.3g}") for name in _LATENCIES),
        Cell(numbers.per_second(case.rate)),
        Cell("–" if case.ratio is None else f"× {case.ratio:.2f}"),
        Cell(numbers.percent(found["agreement"])),
        Cell("not measured" if memory is None else numbers.size(int(memory))),
    )

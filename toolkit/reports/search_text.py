"""The output of `quantize` in the terminal: the builds that were tried, and where the best of them is noisiest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import IO, Any

from edgeproof.reports import numbers
from edgeproof.reports.tables import Cell, Column, Table
from edgeproof.reports.terminal import print_table

_NOISIEST = 5


def print_search(report: Mapping[str, Any], *, file: IO[str]) -> None:
    """Print a search as `search.json` has it."""
    about = f"{report['images']} validation images, {report['adversaries']}"
    print_table(candidates_table(report), title=f"INT8 builds ({report['recipe']}) on {about}", file=file)
    print_table(layers_table(report["layers"]), title="noisiest layers of the best calibrated build", file=file)


def candidates_table(report: Mapping[str, Any]) -> Table:
    """Each build that was tried; flips are against the first."""
    titles = ("Clean", "Under attack", "Flips, clean", "Flips, attacked")
    return Table(
        columns=(Column("Build", numeric=False), *map(Column, titles)),
        rows=tuple(
            (
                Cell(each["name"] + (" (best)" if each["name"] == report["best"] else "")),
                *(Cell(numbers.percent(each[key]["value"])) for key in ("clean", "robust")),
                *(Cell(str(each[key])) for key in ("flips_clean", "flips_robust")),
            )
            for each in report["candidates"]
        ),
    )


def layers_table(layers: Sequence[Mapping[str, Any]]) -> Table:
    """The layers that are farthest from the FP32 graph under attack."""
    noisy = [layer for layer in layers if layer["sqnr_db_adversarial"] is not None]
    noisy.sort(key=lambda layer: float(layer["sqnr_db_adversarial"]))
    keys = ("sqnr_db_clean", "sqnr_db_adversarial")
    return Table(
        columns=(
            Column("Layer", numeric=False),
            Column("Operator", numeric=False),
            Column("SQNR, dB"),
            Column("Under attack, dB"),
        ),
        rows=tuple(
            (
                Cell(layer["layer"]),
                Cell(layer["operator"]),
                *(Cell(numbers.UNDEFINED if layer[key] is None else f"{layer[key]:.1f}") for key in keys),
            )
            for layer in noisy[:_NOISIEST]
        ),
    )

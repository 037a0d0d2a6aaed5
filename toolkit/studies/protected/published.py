"""What the authors' notebooks print (Shen et al., github.com/WinddyAkoky/Adversarial-cost-sensitive-learning); their "
"paper's own tables could not be read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgeproof.reports.document import Section
from edgeproof.reports.tables import Cell, Column, Table


@dataclass(frozen=True)
class Printed:
    """Accuracy in per cent by attack and training; `about` says of which images, and what is wrong with them."""

    about: str
    columns: tuple[str, ...]
    rows: Mapping[str, tuple[str, ...]]


_UNITS = (
    "eps is in units of the normalised images there, FGSM's images are not clipped, DeepFool takes 3 steps and is not "
    "bounded, PGD does not start at random, and checkpoints "
    "were chosen on the test images: orders can be compared with ours, levels cannot."
)
PUBLISHED: Mapping[str, Printed] = {
    "mnist": Printed(
        f"All classes / the protected class, 0, at eps 0.3 (0.092 in pixel units). {_UNITS}",
        ("Clean", "FGSM", "DeepFool-3"),
        {
            "normal": ("98.8", "68.6 / 83.2", "4.8 / 3.4"),
            "adv": ("–", "94.7 / 98.0", "24.0 / 25.7"),
            "cse": ("98.5", "93.7 / 98.5", "75.9 / 86.8"),
        },
    ),
    "fashion-mnist": Printed(
        "The protected class, mean over the ten choices of it, at eps 0.3 (0.096 in pixel units). The notebook's CSA "
        "column is that of the adversarially trained network, loaded "
        f"under its name, and is left out. {_UNITS}",
        ("Clean", "FGSM", "DeepFool-3", "PGD"),
        {
            "normal": ("90.5", "5.9", "19.8", "8.9"),
            "adv": ("90.5", "89.5", "73.4", "17.0"),
            "cse": ("83.4", "71.2", "80.0", "48.7"),
        },
    ),
    "cifar10": Printed(
        f"The protected class, mean over the ten choices of it, at eps 0.03 (0.006 in pixel units), PGD at 0.3 (0.06). {_UNITS}",
        ("Clean", "FGSM", "DeepFool-3", "PGD"),
        {
            "normal": ("65.5", "28.1", "22.2", "0.1"),
            "adv": ("64.4", "44.1", "26.3", "0.8"),
            "csa-both": ("60.6", "43.8", "23.3", "0.4"),
            "cse": ("56.1", "31.2", "28.0", "0.15"),
        },
    ),
}  # fmt: skip


def published_sections(data: str) -> tuple[Section, ...]:
    """Return the numbers for a data set, where there are any."""
    if data not in PUBLISHED:
        return ()
    printed = PUBLISHED[data]
    rows = tuple((Cell(row), *map(Cell, numbers)) for row, numbers in printed.rows.items())
    columns = (Column("Training", numeric=False), *map(Column, printed.columns))
    return (Section("Published, from the authors' notebooks", (printed.about, Table(columns=columns, rows=rows))),)

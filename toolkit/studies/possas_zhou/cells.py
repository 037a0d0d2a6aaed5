"""The cells of the study: one network in one form under one adversary, image by image, for one target class at one seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from edgeproof.data.arrays import read_npz
from edgeproof.evaluation.metrics import Rate, attack_success, confusion, drop_points, predictions, relative_difference
from edgeproof.runs import Run
from edgeproof.studies.possas_zhou.measure import LOGITS
from edgeproof.types import Array, Labels, Logits

#: (network, form, attack, adversary)
Key: TypeAlias = tuple[str, str, str, str]


@dataclass(frozen=True)
class Cell:
    """Predictions on the test images of the target class.

    Attributes:
        target: Name of the class.
        seed: Of the trainings.
        network: "balanced", "under", "over" or a remedy.
        form: "fp32", "fp16" or "int8".
        attack: For instance "fast".
        adversary: "same" when the images were made with the network's own gradient, "different" with the balanced one's.
        labels: (M,) int64, all the target class.
        clean: (M,) int64, predicted classes without an attack.
        attacked: (M,) int64, and with it.
        margins: (M,) the true logit minus the largest other one, without an attack.
    """

    target: str
    seed: int
    network: str
    form: str
    attack: str
    adversary: str
    labels: Labels
    clean: Labels
    attacked: Labels
    margins: Array

    @property
    def clean_accuracy(self) -> Rate:
        """Accuracy without the attack."""
        return Rate.of(self.clean == self.labels)

    @property
    def attacked_accuracy(self) -> Rate:
        """Accuracy under the attack."""
        return Rate.of(self.attacked == self.labels)

    def margin(self, share: float) -> float | None:
        """Return a percentile of the margins of the images that are rightly classified clean; None where there are none."""
        right = self.margins[self.clean == self.labels]
        return float(np.percentile(right, share)) if len(right) else None

    def record(self) -> dict[str, Any]:
        """Return what `study.json` has of the cell."""
        fooled = attack_success(self.clean, self.attacked, self.labels)
        return {
            "target": self.target,
            "seed": self.seed,
            "network": self.network,
            "form": self.form,
            "attack": self.attack,
            "adversary": self.adversary,
            "clean": _counts(self.clean_accuracy),
            "attacked": _counts(self.attacked_accuracy),
            "robust_among_correct": _counts(Rate(fooled.total - fooled.hits, fooled.total)),
            "relative_difference": relative_difference(self.clean_accuracy, self.attacked_accuracy),
            "drop_points": drop_points(self.clean_accuracy, self.attacked_accuracy),
            "margins": {f"p{share}": self.margin(share) for share in (10, 50, 90)},
        }


@dataclass(frozen=True)
class Measured:
    """One target class at one seed.

    Attributes:
        target: Name of the class.
        label: Its index.
        seed: Of the trainings.
        cells: By (network, form, attack, adversary).
        confusions: (K, K) counts on the whole clean test set, by network; rows are true classes.
    """

    target: str
    label: int
    seed: int
    cells: Mapping[Key, Cell]
    confusions: Mapping[str, Array]

    @property
    def networks(self) -> tuple[str, ...]:
        """In the order in which they were measured."""
        return tuple(self.confusions)


def read_measured(run: Run, *, target: str, seed: int) -> Measured:
    """Read the logits of a target class at a seed and make its cells.

    Raises:
        DataError: When they are not plain arrays.
    """
    arrays = read_npz(run.file(LOGITS), required=("labels", "rows"))
    labels, rows = arrays["labels"], arrays["rows"]
    clean = {
        (network, form): arrays[key][rows] if form == "fp32" else arrays[key]
        for key in arrays
        if key.startswith("clean/")
        for _, network, form in [key.split("/")]
    }
    cells = {}
    for key in arrays:
        if key.count("/") >= 3:
            attack, source, network, form = key.rsplit("/", 3)  # an attack may be called "PGD 8/255"
            cell = _cell(target, seed, network, form, attack, source, labels[rows], clean[network, form], arrays[key])
            cells[network, form, attack, cell.adversary] = cell
    classes = next(iter(clean.values())).shape[1]
    confusions = {
        network: confusion(predictions(arrays[f"clean/{network}/fp32"]), labels, num_classes=classes)
        for network in dict.fromkeys(network for network, _ in clean)
    }
    return Measured(target, int(labels[rows[0]]), seed, cells, confusions)


def _cell(
    target: str,
    seed: int,
    network: str,
    form: str,
    attack: str,
    source: str,
    labels: Labels,
    clean: Logits,
    attacked: Logits,
) -> Cell:
    others = clean.copy()
    others[np.arange(len(labels)), labels] = -np.inf
    return Cell(
        target=target,
        seed=seed,
        network=network,
        form=form,
        attack=attack,
        adversary="same" if source == network else "different",
        labels=labels,
        clean=predictions(clean),
        attacked=predictions(attacked),
        margins=clean[np.arange(len(labels)), labels] - others.max(axis=1),
    )


def _counts(rate: Rate) -> dict[str, int]:
    return {"hits": rate.hits, "total": rate.total}

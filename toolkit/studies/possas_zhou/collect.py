"""From the finished jobs to findings: cells, verdicts and the document's sections."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgeproof.data.arrays import read_npz
from edgeproof.runs import Run
from edgeproof.studies.base import Findings
from edgeproof.studies.possas_zhou import published
from edgeproof.studies.possas_zhou.cells import Measured, read_measured
from edgeproof.studies.possas_zhou.claims import judge_claims
from edgeproof.studies.possas_zhou.measure import BALANCED, measure_name
from edgeproof.studies.possas_zhou.report import sections
from edgeproof.studies.possas_zhou.tables import Training
from edgeproof.types import Labels


@dataclass(frozen=True)
class Plan:
    """What was asked for, as far as the findings need it.

    Attributes:
        targets: Classes.
        seeds: Of the trainings.
        pgd: Names of the PGD attacks, by rising budget.
        trained: (target, seed, network) to its train job.
    """

    targets: tuple[str, ...]
    seeds: tuple[int, ...]
    pgd: tuple[str, ...]
    trained: Mapping[tuple[str, int, str], str]


def collect(plan: Plan, runs: Mapping[str, Run]) -> Findings:
    """Make the findings of the finished jobs."""
    measured = [
        read_measured(runs[measure_name(target, seed)], target=target, seed=seed)
        for target in plan.targets
        for seed in plan.seeds
    ]
    labels, classes = _labels(runs["data"])
    twins = {target: _twin(target, classes, measured) for target in plan.targets}
    trainings = [
        _training(runs[job], labels, target=classes.index(target), name=(target, seed, network))
        for (target, seed, network), job in plan.trained.items()
    ]
    return Findings(
        verdicts=judge_claims(measured, twins=twins, pgd=plan.pgd),
        cells=tuple(cell.record() for one in measured for cell in one.cells.values()),
        sections=sections(measured, trainings, classes=classes, twins=twins),
    )


def _labels(data: Run) -> tuple[Labels, tuple[str, ...]]:
    arrays = read_npz(data.file("images.npz"), required=("y_train", "classes"))
    return arrays["y_train"], tuple(map(str, arrays["classes"]))


def _twin(target: str, classes: Sequence[str], measured: Sequence[Measured]) -> int:
    """Return the class that the paper pairs with the target, else the one that balanced networks most often take it for."""
    if (known := published.TWINS.get(target)) in classes:
        return classes.index(str(known))
    rows = [one.confusions[BALANCED][one.label] for one in measured if one.target == target]
    mistakes = np.sum(rows, axis=0)
    mistakes[classes.index(target)] = -1
    return int(mistakes.argmax())


def _training(run: Run, labels: Labels, *, target: int, name: tuple[str, int, str]) -> Training:
    history = json.loads(run.file("history.json").read_text(encoding="utf-8"))
    used = labels[read_npz(run.file("splits.npz"), required=("train",))["train"]]
    return Training(
        target=name[0],
        seed=name[1],
        network=name[2],
        of_target=int((used == target).sum()),
        images=len(used),
        kept_epoch=int(history["kept_epoch"]),
        steps=len(history["epochs"]) * max(len(used) // int(run.config["batch_size"]), 1),
        seconds=run.manifest.seconds if run.manifest else 0.0,
    )

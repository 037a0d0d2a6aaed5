"""The sections of the document: the paper's tables and figures beside ours, then what it did not measure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import mean

import numpy as np

from edgeproof.reports.document import Section
from edgeproof.reports.figures.confusion import confusion_matrix
from edgeproof.reports.figures.grouped_bars import Bar, grouped_bars
from edgeproof.reports.figures.svg import Figure
from edgeproof.studies.possas_zhou import by_seed, tables
from edgeproof.studies.possas_zhou.by_seed import values
from edgeproof.studies.possas_zhou.cells import Measured
from edgeproof.studies.possas_zhou.measure import NETWORKS
from edgeproof.studies.possas_zhou.tables import Training

_TABLE_1 = (
    "Accuracy on the target class under the fast gradient sign attack of the paper, mean over seeds in per cent, with the published "
    "value. Different: with the gradient of the balanced network; same: with the network's own."
)
_SLIP = (
    "The text of the paper gives 25.8 % as the mean accuracy of under-sampled networks under the same-model attack. That is the "
    "mean of its balanced column; the under-sampled column of its Table 1 has 14.2 %, so the gap to the different-model attack (53.8 %) is "
    "larger than it says."
)
_TAKES = (
    "Relative difference is the drop in per cent of the clean accuracy; it is undefined where that is 0. The order of the networks by relative "
    "difference is not their order by points lost: an under-sampled network has less to lose. Margins (true logit minus the "
    "largest other one) are those of the rightly classified clean images, median with 10th and 90th percentile. Whiskers are the range over seeds."
)
_FLOWS = (
    "Share of the target's images that are taken for its twin class: clean, under the same-model and under the different-model attack. Caused "
    "is what the same-model attack adds to the clean flow; the rest is imbalance alone. The matrices sum all seeds; only the row of the target "
    "class is attacked (different-model), as in the paper's Fig. 6, and every other row is clean."
)
_PGD = (
    "The paper's attack adds its step without keeping to [0, 1]. PGD keeps to its budget and to [0, 1], from a random start. Robust is the share "
    "of the rightly classified clean images that stay right under the attack, so it does not reward a network that was wrong already."
)
_FORMS = (
    "The same adversaries of the fast attack, made with the checkpoint's gradient, on the graphs that are deployed (ONNX Runtime). Points "
    "are the accuracy of the graph minus that of the checkpoint on the same images. An INT8 graph begins by rounding its images to 8 bits: "
    "where the budget is no whole number of grey levels (0.01 is 2.55 of them), what it sees is a larger attack (3 levels)."
)


_REMEDIES = (
    "Accuracy on the target class in per cent, clean and under each attack with the network's own gradient. Class-balanced weighs the loss by the "
    "inverse effective number of each class, logit-adjustment adds the log of the class shares to the logits in training, cost-sensitive adds the expected cost of "
    "mistakes, ten times as high where the target class is concerned. In the long-tailed set "
    "class sizes fall in the order of the classes."
)


def sections(
    measured: Sequence[Measured], trainings: Sequence[Training], *, classes: tuple[str, ...], twins: Mapping[str, int]
) -> tuple[Section, ...]:
    """Return everything that stands after the verdicts."""
    targets = tuple(dict.fromkeys(one.target for one in measured))
    bars = (_accuracy_bars(measured, targets), _relative_bars(measured, targets))
    flows = tables.flows(measured, targets, classes, twins)
    remedies = tables.remedies(measured)
    return (
        Section("What was trained", (_effort(trainings), tables.trained(trainings, measured))),
        Section("Accuracy under attack (Table 1)", (_TABLE_1, tables.under_attack(measured, targets), _SLIP)),
        Section("What the attack takes (Fig. 2 and 4)", (_TAKES, tables.taken(measured, targets), *bars)),
        Section("Where the images go (Fig. 6)", (_FLOWS, flows, *_matrices(measured, targets, classes))),
        Section("Attacks that stay in their budget", (_PGD, tables.attacks(measured, targets))),
        Section("Deployed forms", (_FORMS, tables.forms(measured, targets))),
        *([Section("Remedies", (_REMEDIES, remedies))] if remedies else []),
    )


def _effort(trainings: Sequence[Training]) -> str:
    steps, seconds = sum(training.steps for training in trainings), sum(training.seconds for training in trainings)
    return (
        f"{len(trainings)} rows of (target, network, seed); networks that serve several targets are counted for each. "
        f"{1000 * seconds / max(steps, 1):.0f} s per 1,000 steps. All are trained and stopped alike. A class's images are those left of it "
        "after validation and calibration images are held out, so the target images are those really trained on."
    )


def _accuracy_bars(measured: Sequence[Measured], targets: Sequence[str]) -> Figure:
    def bar(target: str, network: str) -> Bar:
        key = (network, "fp32", "fast", "same")
        behind = by_seed.average(values(measured, target, key, by_seed.clean))
        return _bar(values(measured, target, key, by_seed.attacked), behind=behind)

    return grouped_bars(
        "Accuracy on the target class: clean (pale) and under the same-model attack",
        series=NETWORKS,
        groups={target: [bar(target, network) for network in NETWORKS] for target in targets},
        description="A group a target class, a bar a network; whiskers are the range over seeds.",
    )


def _relative_bars(measured: Sequence[Measured], targets: Sequence[str]) -> Figure:
    keys = [(network, "fp32", "fast", "same") for network in NETWORKS]
    return grouped_bars(
        "Relative difference under the same-model attack",
        series=NETWORKS,
        groups={target: [_bar(values(measured, target, key, by_seed.relative)) for key in keys] for target in targets},
        description="A group a target class, a bar a network; whiskers are the range over seeds.",
    )


def _bar(found: Sequence[float], *, behind: float | None = None) -> Bar:
    if not found:
        return Bar(None, behind=behind)
    low, high = (min(found), max(found)) if len(found) > 1 else (None, None)
    return Bar(mean(found), low, high, behind)


def _matrices(measured: Sequence[Measured], targets: Sequence[str], classes: tuple[str, ...]) -> Iterator[Figure]:
    for target in targets:
        mine = [one for one in measured if one.target == target]
        for network in NETWORKS[1:]:
            counts = np.sum([one.confusions[network] for one in mine], axis=0)
            attacked = [one.cells[network, "fp32", "fast", "different"].attacked for one in mine]
            counts[mine[0].label] = np.bincount(np.concatenate(attacked), minlength=len(classes))
            yield confusion_matrix(counts, classes, title=f"{target} {network}-sampled, {target} attacked")

"""The sections of the document: the paper's tables and figures beside ours, then what it did not measure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

import numpy as np

from toolkit.evaluation.metrics import Rate, drop_points, relative_difference
from toolkit.reports import numbers
from toolkit.reports.document import Section
from toolkit.reports.figures.confusion import confusion_matrix
from toolkit.reports.figures.grouped_bars import Bar, grouped_bars
from toolkit.reports.figures.svg import Figure
from toolkit.reports.tables import Cell as Entry
from toolkit.reports.tables import Column, Table
from toolkit.studies.possas_zhou import published
from toolkit.studies.possas_zhou.cells import Cell, Measured
from toolkit.studies.possas_zhou.measure import NETWORKS

_COLUMNS = (("under", "different"), ("over", "different"), ("balanced", "same"), ("under", "same"), ("over", "same"))
Number = Callable[[Cell], float | None]


@dataclass(frozen=True)
class Training:
    """One network: on how many images it was trained, and what that took."""

    target: str
    seed: int
    network: str
    of_target: int
    images: int
    epochs: int
    kept: int
    seconds: float
    steps: int


def sections(
    measured: Sequence[Measured], trainings: Sequence[Training], *, classes: tuple[str, ...], twins: Mapping[str, int]
) -> tuple[Section, ...]:
    """Return everything that stands after the verdicts."""
    targets = tuple(dict.fromkeys(one.target for one in measured))
    return (
        Section("What was trained", (_trained_text(trainings), _trained_table(trainings, measured))),
        Section("Accuracy under attack (Table 1)", (_TABLE_1, _attacked_table(measured, targets), _SLIP)),
        Section("What the attack takes (Fig. 2 and 4)", (_TAKES, _loss_table(measured, targets), _bars(measured, targets), _relative_bars(measured, targets))),
        Section("Where the images go (Fig. 6)", (_FLOWS, _flow_table(measured, targets, classes, twins), *_matrices(measured, targets, classes))),
        Section("Attacks that stay in their budget", (_PGD, _attack_table(measured, targets))),
        Section("Deployed forms", (_FORMS, _form_table(measured, targets))),
        *_remedies(measured),
    )  # fmt: skip


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
    "difference is not their order by points lost: an under-sampled network has less to lose. Margins are those of the rightly classified clean "
    "images. Published values in brackets; ranges are over seeds."
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
    "are the accuracy of the graph minus that of the checkpoint on the same images."
)


def _trained_text(trainings: Sequence[Training]) -> str:
    own = list({(t.seed, t.network if t.network in ("balanced", "long-tailed") else (t.target, t.network)): t for t in trainings}.values())  # fmt: skip
    steps, seconds = sum(t.steps for t in own), sum(t.seconds for t in own)
    return (
        f"{len(own)} networks in {steps:,} steps and {seconds / 60:.0f} minutes of their processes together, "
        f"{1000 * seconds / max(steps, 1):.0f} s per 1,000 steps. All are trained and stopped alike; the images of a class are those that are left "
        "of it after validation and calibration images are held out, so the target images are those really trained on."
    )


def _trained_table(trainings: Sequence[Training], measured: Sequence[Measured]) -> Table:
    overall = {(m.target, m.seed, network): _overall(m, network) for m in measured for network in m.networks}
    rows = []
    for (target, network), group in _grouped(trainings, lambda t: (t.target, t.network)).items():
        rates = [overall[t.target, t.seed, t.network] for t in group]
        rows.append(
            (
                Entry(target),
                Entry(network),
                Entry(_range([t.of_target for t in group])),
                Entry(_range([t.images for t in group])),
                Entry(_range([t.kept for t in group])),
                Entry(numbers.points(mean(100 * (rate.value or 0.0) for rate in rates))),
                Entry(str(len(group))),
            )
        )
    titles = ("Target images", "All images", "Epoch kept", "Accuracy, all classes", "Seeds")
    return Table((Column("Target", numeric=False), Column("Network", numeric=False), *map(Column, titles)), tuple(rows), grouped=True)  # fmt: skip


def _overall(one: Measured, network: str) -> Rate:
    counts = one.confusions[network]
    return Rate(int(np.trace(counts)), int(counts.sum()))


def _attacked_table(measured: Sequence[Measured], targets: Sequence[str]) -> Table:
    rows = [
        (
            Entry(target),
            *(
                _number(
                    _values(measured, target, (network, "fp32", "fast", adversary), _attacked),
                    published.ATTACKED.get(target, {}).get((network, adversary)),
                )
                for network, adversary in _COLUMNS
            ),
        )
        for target in targets
    ]
    means = [
        [v for target in targets for v in _values(measured, target, (network, "fp32", "fast", adversary), _attacked)]
        for network, adversary in _COLUMNS
    ]
    rows.append(
        (
            Entry("mean"),
            *(
                _number(values, published.mean_attacked(network, adversary), note="all ten classes")
                for values, (network, adversary) in zip(means, _COLUMNS, strict=True)
            ),
        )
    )
    titles = [f"{adversary.capitalize()}, {network}" for network, adversary in _COLUMNS]
    return Table((Column("Target", numeric=False), *map(Column, titles)), tuple(rows))


def _loss_table(measured: Sequence[Measured], targets: Sequence[str]) -> Table:
    rows = []
    for target in targets:
        for network in NETWORKS:
            known = published.CLEAN.get(target, {}).get(network)
            key = (network, "fp32", "fast", "same")
            rows.append(
                (
                    Entry(target),
                    Entry(network),
                    _number(_values(measured, target, key, _clean), known),
                    _number(
                        _values(measured, target, key, _relative),
                        published.relative(target, network) if known else None,
                    ),
                    _number(
                        _values(measured, target, key, _drop),
                        known - published.ATTACKED[target][network, "same"] if known else None,
                    ),
                    Entry(numbers.ratio(_mean(_values(measured, target, key, lambda cell: cell.median_margin)))),
                )
            )
    titles = ("Clean accuracy", "Relative difference", "Points lost", "Median margin")
    return Table((Column("Target", numeric=False), Column("Network", numeric=False), *map(Column, titles)), tuple(rows), grouped=True)  # fmt: skip


def _bars(measured: Sequence[Measured], targets: Sequence[str]) -> Figure:
    def bar(target: str, network: str) -> Bar:
        key = (network, "fp32", "fast", "same")
        attacked = _values(measured, target, key, _attacked)
        return _bar(attacked, behind=_mean(_values(measured, target, key, _clean)))

    return grouped_bars(
        "Accuracy on the target class: clean (pale) and under the same-model attack",
        series=NETWORKS,
        groups={target: [bar(target, network) for network in NETWORKS] for target in targets},
        description="A group a target class, a bar a network; whiskers are the range over seeds.",
    )


def _relative_bars(measured: Sequence[Measured], targets: Sequence[str]) -> Figure:
    groups = {
        target: [_bar(_values(measured, target, (network, "fp32", "fast", "same"), _relative)) for network in NETWORKS]
        for target in targets
    }
    return grouped_bars(
        "Relative difference under the same-model attack",
        series=NETWORKS,
        groups=groups,
        description="A group a target class, a bar a network; whiskers are the range over seeds.",
    )


def _flow_table(
    measured: Sequence[Measured], targets: Sequence[str], classes: Sequence[str], twins: Mapping[str, int]
) -> Table:
    rows = []
    for target in targets:
        twin = twins[target]

        def clean_flow(cell: Cell, twin: int = twin) -> float:
            return _percent(Rate.of(cell.clean == twin))

        def flow(cell: Cell, twin: int = twin) -> float:
            return _percent(Rate.of(cell.attacked == twin))

        for network in NETWORKS:
            same, different = ((network, "fp32", "fast", adversary) for adversary in ("same", "different"))
            before, after = (_values(measured, target, same, number) for number in (clean_flow, flow))
            caused = [b - a for a, b in zip(before, after, strict=True)]
            other = _values(measured, target, different, flow)
            rows.append((Entry(f"{target} to {classes[twin]}"), Entry(network), *map(_number, (before, after, other, caused))))  # fmt: skip
    titles = ("Clean", "Same", "Different", "Caused")
    return Table((Column("Flow", numeric=False), Column("Network", numeric=False), *map(Column, titles)), tuple(rows), grouped=True)  # fmt: skip


def _matrices(measured: Sequence[Measured], targets: Sequence[str], classes: tuple[str, ...]) -> Iterator[Figure]:
    for target in targets:
        mine = [one for one in measured if one.target == target]
        for network in ("under", "over"):
            counts = np.sum([one.confusions[network] for one in mine], axis=0)
            attacked = [one.cells[network, "fp32", "fast", "different"].attacked for one in mine]
            counts[mine[0].label] = np.bincount(np.concatenate(attacked), minlength=len(classes))
            yield confusion_matrix(counts, classes, title=f"{target} {network}-sampled, {target} attacked")


def _attack_table(measured: Sequence[Measured], targets: Sequence[str]) -> Table:
    attacks = dict.fromkeys(attack for one in measured for _, _, attack, _ in one.cells)
    rows = []
    for target in targets:
        for network in NETWORKS:
            cells: list[Entry] = []
            for attack in attacks:
                key = (network, "fp32", attack, "same")
                cells += [_number(_values(measured, target, key, number)) for number in (_attacked, _robust)]
            rows.append((Entry(target), Entry(network), *cells))
    titles = [f"{attack}, {what}" for attack in attacks for what in ("accuracy", "robust")]
    return Table((Column("Target", numeric=False), Column("Network", numeric=False), *map(Column, titles)), tuple(rows), grouped=True)  # fmt: skip


def _form_table(measured: Sequence[Measured], targets: Sequence[str]) -> Table:
    rows = []
    for target in targets:
        for network, adversary in (("balanced", "same"), ("under", "same"), ("over", "same"), ("under", "different"), ("over", "different")):  # fmt: skip
            base = (network, "fp32", "fast", adversary)
            cells = [_number(_values(measured, target, base, number)) for number in (_clean, _attacked)]
            for form in ("fp16", "int8"):
                key = (network, form, "fast", adversary)
                for number in (_clean, _attacked):
                    there, here = (_values(measured, target, place, number) for place in (key, base))
                    cells.append(_number([a - b for a, b in zip(there, here, strict=True)], signed=True))
            rows.append((Entry(target), Entry(f"{network}, {adversary}"), *cells))
    titles = ("Clean", "Attacked", "FP16 clean, points", "FP16 attacked, points", "INT8 clean, points", "INT8 attacked, points")  # fmt: skip
    return Table((Column("Target", numeric=False), Column("Network and adversary", numeric=False), *map(Column, titles)), tuple(rows), grouped=True)  # fmt: skip


def _remedies(measured: Sequence[Measured]) -> Iterator[Section]:
    """What helps the rare class, where it was trained."""
    rows = []
    attacks = dict.fromkeys(attack for one in measured for _, _, attack, _ in one.cells)
    for one in measured:
        if len(one.networks) <= len(NETWORKS):
            continue
        for network in one.networks:
            cells = [one.cells[network, "fp32", attack, "same"] for attack in attacks]
            rates = [cells[0].clean_accuracy, _overall(one, network), *(cell.attacked_accuracy for cell in cells)]
            rows.append(
                (
                    Entry(f"{one.target}, seed {one.seed}"),
                    Entry(network),
                    *(Entry(numbers.points(100 * (rate.value or 0.0))) for rate in rates),
                    Entry(numbers.ratio(cells[0].median_margin)),
                )
            )
    if rows:
        titles = ("Clean", "All classes", *attacks, "Median margin")
        columns = (Column("Target", numeric=False), Column("Network", numeric=False), *map(Column, titles))
        yield Section("Remedies", (_REMEDIES, Table(columns, tuple(rows), grouped=True)))


_REMEDIES = (
    "Accuracy on the target class in per cent, clean and under each attack with the network's own gradient. Class-balanced weighs the loss by the "
    "inverse effective number of each class, logit-adjustment adds the log of the class shares to the logits in training. In the long-tailed set "
    "class sizes fall in the order of the classes."
)


def _values(measured: Sequence[Measured], target: str, key: tuple[str, str, str, str], number: Number) -> list[float]:
    """Return a number of a cell for each seed where it is defined; the balanced network has no different-model cell."""
    found = [number(one.cells[key]) for one in measured if one.target == target and key in one.cells]
    return [value for value in found if value is not None]


def _clean(cell: Cell) -> float:
    return _percent(cell.clean_accuracy)


def _attacked(cell: Cell) -> float:
    return _percent(cell.attacked_accuracy)


def _relative(cell: Cell) -> float | None:
    return relative_difference(cell.clean_accuracy, cell.attacked_accuracy)


def _drop(cell: Cell) -> float | None:
    return drop_points(cell.clean_accuracy, cell.attacked_accuracy)


def _robust(cell: Cell) -> float | None:
    right = cell.clean == cell.labels
    rate = Rate.of((cell.attacked == cell.labels)[right])
    return None if rate.value is None else 100 * rate.value


def _percent(rate: Rate) -> float:
    return 100 * (rate.value or 0.0)


def _number(values: Sequence[float], known: float | None = None, *, note: str = "", signed: bool = False) -> Entry:
    """Write the mean of one value a seed, and beside it the published one."""
    if not values:
        return Entry(numbers.UNDEFINED)
    text = f"{mean(values):+.1f}".replace("-", "−") if signed else numbers.points(mean(values))
    detail = "" if known is None else f"paper {known:.4g}" if not note else f"paper {known:.1f}, {note}"
    return Entry(text, detail)


def _mean(values: Sequence[float]) -> float | None:
    return mean(values) if values else None


def _bar(values: Sequence[float], *, behind: float | None = None) -> Bar:
    if not values:
        return Bar(None, behind=behind)
    spread = (min(values), max(values)) if len(values) > 1 else (None, None)
    return Bar(mean(values), *spread, behind)


def _range(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"


def _grouped(trainings: Sequence[Training], key: Callable[[Training], tuple[str, str]]) -> dict[tuple[str, str], list[Training]]:  # fmt: skip
    groups: dict[tuple[str, str], list[Training]] = {}
    for training in trainings:
        groups.setdefault(key(training), []).append(training)
    return groups

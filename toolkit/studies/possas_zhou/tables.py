"""The tables of the document: means over seeds, the published values beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import mean

import numpy as np

from edgeproof.evaluation.metrics import Rate
from edgeproof.reports import numbers
from edgeproof.reports.tables import Cell as Entry
from edgeproof.reports.tables import Column, Table
from edgeproof.studies.possas_zhou import by_seed, published
from edgeproof.studies.possas_zhou.by_seed import entry, values
from edgeproof.studies.possas_zhou.cells import Cell, Key, Measured
from edgeproof.studies.possas_zhou.measure import NETWORKS

_COLUMNS = (("under", "different"), ("over", "different"), ("balanced", "same"), ("under", "same"), ("over", "same"))
_SAME_FIRST = (("balanced", "same"), ("under", "same"), ("over", "same"), ("under", "different"), ("over", "different"))


@dataclass(frozen=True)
class Training:
    """One network: on how many images it was trained, and what that took."""

    target: str
    seed: int
    network: str
    of_target: int
    images: int
    kept_epoch: int
    steps: int
    seconds: float


def trained(trainings: Sequence[Training], measured: Sequence[Measured]) -> Table:
    """What each network was trained on, and how good it is on all classes."""
    overall = {
        (one.target, one.seed, network): all_classes(one, network) for one in measured for network in one.networks
    }
    groups: dict[tuple[str, str], list[Training]] = {}
    for training in trainings:
        groups.setdefault((training.target, training.network), []).append(training)
    rows = [
        (
            Entry(target),
            Entry(network),
            Entry(_range([training.of_target for training in group])),
            Entry(_range([training.images for training in group])),
            Entry(_range([training.kept_epoch for training in group])),
            entry([100 * (overall[t.target, t.seed, t.network].value or 0.0) for t in group]),
            Entry(str(len(group))),
        )
        for (target, network), group in groups.items()
    ]
    return _table(
        ("Target", "Network"), ("Target images", "All images", "Epoch kept", "Accuracy, all classes", "Seeds"), rows
    )


def all_classes(one: Measured, network: str) -> Rate:
    """Return a network's accuracy on the whole clean test set."""
    counts = one.confusions[network]
    return Rate(int(np.trace(counts)), int(counts.sum()))


def under_attack(measured: Sequence[Measured], targets: Sequence[str]) -> Table:
    """The paper's Table 1, a row a target class and a row of means."""
    found = {
        (target, column): values(measured, target, (column[0], "fp32", "fast", column[1]), by_seed.attacked)
        for target in targets
        for column in _COLUMNS
    }
    rows = [
        (
            Entry(target),
            *(entry(found[target, column], published.ATTACKED.get(target, {}).get(column)) for column in _COLUMNS),
        )
        for target in targets
    ]
    means = [
        entry(
            list(chain.from_iterable(found[target, column] for target in targets)),
            _mean_known([published.ATTACKED.get(target, {}).get(column) for target in targets]),
        )
        for column in _COLUMNS
    ]
    titles = [f"{adversary.capitalize()}, {network}" for network, adversary in _COLUMNS]
    return _table(("Target",), titles, [*rows, (Entry("mean"), *means)])


def taken(measured: Sequence[Measured], targets: Sequence[str]) -> Table:
    """What the same-model attack takes, relatively and in points, and the margins that explain it."""
    rows = [_taken_row(measured, (target,), network, name=target) for target in targets for network in NETWORKS]
    rows += [_taken_row(measured, targets, network, name="mean") for network in NETWORKS]
    titles = ("Clean accuracy", "Relative difference", "Points lost", "Median margin")
    return _table(("Target", "Network"), titles, rows)


def _taken_row(measured: Sequence[Measured], targets: Sequence[str], network: str, *, name: str) -> tuple[Entry, ...]:
    key = (network, "fp32", "fast", "same")
    known = [(target, published.CLEAN.get(target, {}).get(network)) for target in targets]
    paper = (
        _mean_known([clean for _, clean in known]),
        _mean_known([published.relative(target, network) if clean else None for target, clean in known]),
        _mean_known(
            [clean - published.ATTACKED[target][network, "same"] if clean else None for target, clean in known]
        ),
    )
    found = [
        list(chain.from_iterable(values(measured, target, key, number) for target in targets))
        for number in (by_seed.clean, by_seed.relative, by_seed.drop)
    ]
    low, middle, high = (
        by_seed.average(list(chain.from_iterable(values(measured, target, key, _margin(share)) for target in targets)))
        for share in (10, 50, 90)
    )
    between = "" if low is None else f"{numbers.ratio(low)} to {numbers.ratio(high)}"
    return (Entry(name), Entry(network), *map(entry, found, paper), Entry(numbers.ratio(middle), between))


def flows(
    measured: Sequence[Measured], targets: Sequence[str], classes: Sequence[str], twins: Mapping[str, int]
) -> Table:
    """Where the target's images go: the share taken for the twin class."""
    rows = [
        (
            Entry(f"{target} to {classes[twins[target]]}"),
            Entry(network),
            *_flow_row(measured, target, network, twins[target]),
        )
        for target in targets
        for network in NETWORKS
    ]
    return _table(("Flow", "Network"), ("Clean", "Same", "Different", "Caused"), rows)


def _flow_row(measured: Sequence[Measured], target: str, network: str, twin: int) -> tuple[Entry, ...]:
    def clean(cell: Cell) -> float | None:
        return by_seed.percent(Rate.of(cell.clean == twin))

    def attacked(cell: Cell) -> float | None:
        return by_seed.percent(Rate.of(cell.attacked == twin))

    same, different = ((network, "fp32", "fast", adversary) for adversary in ("same", "different"))
    before, after = (values(measured, target, same, number) for number in (clean, attacked))
    caused = [b - a for a, b in zip(before, after, strict=True)]
    other = entry(values(measured, target, different, attacked)) if network != NETWORKS[0] else Entry("")
    return entry(before), entry(after), other, entry(caused, signed=True)


def attacks(measured: Sequence[Measured], targets: Sequence[str]) -> Table:
    """Every attack with the network's own gradient: accuracy, and robust accuracy among the rightly classified."""
    names = attack_names(measured)
    rows = []
    for target in targets:
        for network in NETWORKS:
            keys = [(network, "fp32", name, "same") for name in names]
            cells = [
                entry(values(measured, target, key, n)) for key in keys for n in (by_seed.attacked, by_seed.robust)
            ]
            rows.append((Entry(target), Entry(network), *cells))
    titles = [f"{name}, {what}" for name in names for what in ("accuracy", "robust")]
    return _table(("Target", "Network"), titles, rows)


def forms(measured: Sequence[Measured], targets: Sequence[str]) -> Table:
    """Every cell of the paper on the FP16 and INT8 graphs, as points beside the checkpoint."""
    rows = []
    for target in targets:
        for network, adversary in _SAME_FIRST:
            base = (network, "fp32", "fast", adversary)
            cells = [entry(values(measured, target, base, number)) for number in (by_seed.clean, by_seed.attacked)]
            for form in ("fp16", "int8"):
                cells += _beside(measured, target, (network, form, "fast", adversary), base)
            rows.append((Entry(target), Entry(f"{network}, {adversary}"), *cells))
    titles = (
        "Clean",
        "Attacked",
        *(f"{form} {what}, points" for form in ("FP16", "INT8") for what in ("clean", "attacked")),
    )
    return _table(("Target", "Network and adversary"), titles, rows)


def _beside(measured: Sequence[Measured], target: str, key: Key, base: Key) -> list[Entry]:
    pairs = [
        zip(values(measured, target, key, number), values(measured, target, base, number), strict=True)
        for number in (by_seed.clean, by_seed.attacked)
    ]
    return [entry([there - here for there, here in pair], signed=True) for pair in pairs]


def remedies(measured: Sequence[Measured]) -> Table | None:
    """What helps the rare class, for each target and seed where remedies were trained; None where none were."""
    names = attack_names(measured)
    rows = []
    for one in measured:
        for network in one.networks if len(one.networks) > len(NETWORKS) else ():
            cells = [one.cells[network, "fp32", name, "same"] for name in names]
            rates = [cells[0].clean_accuracy, all_classes(one, network), *(cell.attacked_accuracy for cell in cells)]
            shown = (Entry(numbers.points(by_seed.percent(rate))) for rate in rates)
            rows.append(
                (
                    Entry(f"{one.target}, seed {one.seed}"),
                    Entry(network),
                    *shown,
                    Entry(numbers.ratio(cells[0].margin(50))),
                )
            )
    return _table(("Target", "Network"), ("Clean", "All classes", *names, "Median margin"), rows) if rows else None


def attack_names(measured: Sequence[Measured]) -> list[str]:
    """Return the attacks in the order in which they were made."""
    return list(dict.fromkeys(attack for one in measured for _, _, attack, _ in one.cells))


def _table(texts: Sequence[str], titles: Sequence[str], rows: Sequence[tuple[Entry, ...]]) -> Table:
    columns = (*(Column(text, numeric=False) for text in texts), *map(Column, titles))
    return Table(columns, tuple(rows), grouped=len(texts) > 1)


def _margin(share: float) -> by_seed.Number:
    return lambda cell: cell.margin(share)


def _mean_known(known: Sequence[float | None]) -> float | None:
    """Return the mean of published values when there is one for each target."""
    there = [value for value in known if value is not None]
    return mean(there) if there and len(there) == len(known) else None


def _range(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"

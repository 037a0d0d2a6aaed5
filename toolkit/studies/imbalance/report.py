"""The sections of the document: the paper's tables and figures next to ours, then what it did not measure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import mean

import numpy as np

from edgeproof.evaluation.metrics import Rate
from edgeproof.reports import numbers
from edgeproof.reports.document import Block, Section
from edgeproof.reports.figures.confusion import confusion_matrix
from edgeproof.reports.figures.grouped_bars import Bar, grouped_bars
from edgeproof.reports.tables import Cell, Table
from edgeproof.studies.frame import Measure, Row, distinct, percent, rate, table, values, where
from edgeproof.studies.imbalance import published
from edgeproof.studies.imbalance.published import NETWORKS

_UNATTACKED, _ATTACKED = percent("clean"), percent("attacked")
_COLUMNS = (("under", "different"), ("over", "different"), ("balanced", "same"), ("under", "same"), ("over", "same"))
_SAME_FIRST = (*_COLUMNS[2:], *_COLUMNS[:2])

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
    "Relative difference is the drop in per cent of the clean accuracy; it is undefined where that is 0. The order of "
    "the networks by relative "
    "difference is not their order by points lost: an under-sampled network has less to lose. Margins (true logit minus the "
    "largest other one) are those of the correctly classified clean images, median with 10th and 90th percentile. "
    "Whiskers are the range over seeds."
)
_FLOWS = (
    "Share of the target's images that are classified as its twin class, which is the class that the paper pairs it "
    "with, or else the one that balanced networks most often confuse it with: clean, under the same-model and under the "
    "different-model attack. Caused "
    "is what the same-model attack adds to the clean flow; the rest is imbalance alone. The matrices sum all seeds; "
    "only the row of the target "
    "class is attacked (different-model), as in the paper's Fig. 6, and every other row is clean."
)
_PGD = (
    "The paper's attack adds its step without keeping to [0, 1]. PGD keeps to its budget and to [0, 1], from a random "
    "start. Robust is the share of the correctly classified clean images that are still classified correctly under the "
    "attack, so it does not reward a network that was wrong already."
)
_FORMS = (
    "The same adversaries of the fast attack, made with the checkpoint's gradient, on the graphs that are deployed (ONNX Runtime). Points "
    "are the accuracy of the graph minus that of the checkpoint on the same images. An INT8 graph begins by rounding its images to 8 bits: "
    "where the budget is no whole number of grey levels (0.01 is 2.55 of them), what it sees is a larger attack (3 levels)."
)
_REMEDIES = (
    "Accuracy on the target class in per cent, clean and under each attack with the network's own gradient. "
    "Class-balanced weighs the loss by the "
    "inverse effective number of each class, logit-adjustment adds the log of the class shares to the logits in "
    "training, cost-sensitive adds the expected cost of "
    "mistakes, ten times as high where the target class is concerned. In the long-tailed set "
    "class sizes fall in the order of the classes."
)


def sections(
    rows: Sequence[Row], networks: Sequence[Row], *, classes: tuple[str, ...], partners: Mapping[str, int]
) -> tuple[Section, ...]:
    """Return everything that stands after the verdicts.

    Args:
        rows: One for each network, form, attack and adversary.
        networks: One for each trained network.
        classes: Their names.
        partners: The class that each target is paired with.
    """
    found = [
        Section("What was trained", (_effort(networks), trained(networks))),
        Section("Accuracy under attack (Table 1)", (_TABLE_1, under_attack(rows), _SLIP)),
        Section("What the attack takes (Fig. 2 and 4)", (_TAKES, taken(rows), *bars(rows))),
        Section(
            "Where the images go (Fig. 6)",
            (_FLOWS, flows(rows, classes, partners), *_matrices(rows, networks, classes)),
        ),
        Section("Attacks that stay in their budget", (_PGD, attacks(rows))),
        Section("Deployed forms", (_FORMS, forms(rows))),
    ]
    if set(distinct(rows, "network")) > set(NETWORKS):
        found.append(Section("Remedies", (_REMEDIES, remedies(rows, networks))))
    return tuple(found)


def _effort(networks: Sequence[Row]) -> str:
    steps, seconds = sum(row["steps"] for row in networks), sum(row["seconds"] for row in networks)
    return (
        f"{len(networks)} rows of (target, network, seed); networks that serve several targets are counted for each. "
        f"{1000 * seconds / max(steps, 1):.0f} s per 1,000 steps. All are trained and stopped alike. A class's images are those left of it "
        "after validation and calibration images are held out, so the target images are those that were trained on."
    )


def trained(networks: Sequence[Row]) -> Table:
    """What each network was trained on, and how good it is on all classes."""

    def span(numbers: Sequence[int]) -> str:
        low, high = min(numbers), max(numbers)
        return f"{low:,}" if low == high else f"{low:,}–{high:,}"

    groups: dict[tuple[str, str], list[Row]] = {}
    for row in networks:
        groups.setdefault((row["target"], row["network"]), []).append(row)
    rows: list[tuple[Cell | str, ...]] = [
        (
            target,
            network,
            *(span([row[key] for row in mine]) for key in ("of_target", "images", "kept_epoch")),
            _mean([100 * (_all_classes(row).value or 0.0) for row in mine]),
            str(len(mine)),
        )
        for (target, network), mine in groups.items()
    ]
    titles = ("Target images", "All images", "Epoch kept", "Accuracy, all classes", "Seeds")
    return table(("Target", "Network"), titles, rows, grouped=True)


def under_attack(rows: Sequence[Row]) -> Table:
    """The paper's Table 1, a row per target class and a row of means."""
    targets = distinct(rows, "target")
    known = {target: published.ATTACKED.get(target, {}) for target in targets}
    shown = [
        (target, *(_mean(_fast(rows, *column, _ATTACKED, target), known[target].get(column)) for column in _COLUMNS))
        for target in targets
    ]
    means = (
        _mean(_fast(rows, *column, _ATTACKED), _mean_known([known[target].get(column) for target in targets]))
        for column in _COLUMNS
    )
    titles = [f"{adversary.capitalize()}, {network}" for network, adversary in _COLUMNS]
    return table(("Target",), titles, [*shown, ("mean", *means)])


def taken(rows: Sequence[Row]) -> Table:
    """What the same-model attack takes, relatively and in points, and the margins that explain it."""
    targets = distinct(rows, "target")

    def row(network: str, chosen: Sequence[str], name: str) -> tuple[Cell | str, ...]:
        mine = [each for each in where(rows, **_same(network)) if each["target"] in chosen]
        clean = [published.CLEAN.get(target, {}).get(network) for target in chosen]
        paired = list(zip(chosen, clean, strict=True))
        paper = (
            _mean_known(clean),
            _mean_known([published.relative(target, network) if known else None for target, known in paired]),
            _mean_known(
                [known - published.ATTACKED[target][network, "same"] if known else None for target, known in paired]
            ),
        )
        found = [
            values(mine, _UNATTACKED),
            *(values(mine, _column(key)) for key in ("relative_difference", "drop_points")),
        ]
        margins = [values(mine, _margin(share)) for share in (10, 50, 90)]
        low, middle, high = (mean(each) if each else None for each in margins)
        between = "" if low is None else f"{numbers.ratio(low)} to {numbers.ratio(high)}"
        return (name, network, *map(_mean, found, paper), Cell(numbers.ratio(middle), between))

    shown = [row(network, (target,), target) for target in targets for network in NETWORKS]
    shown += [row(network, targets, "mean") for network in NETWORKS]
    titles = ("Clean accuracy", "Relative difference", "Points lost", "Median margin")
    return table(("Target", "Network"), titles, shown, grouped=True)


def flows(rows: Sequence[Row], classes: Sequence[str], partners: Mapping[str, int]) -> Table:
    """Where the target's images go: the share taken for the paired class."""
    shown = []
    for target in distinct(rows, "target"):
        for network in NETWORKS:

            def share(column: str, partner: int = partners[target]) -> Measure:
                return lambda row: _percent(Rate.of(row[column] == partner))

            before, after = (
                _fast(rows, network, "same", share(key), target) for key in ("predicted_clean", "predicted")
            )
            other = _mean(_fast(rows, network, "different", share("predicted"), target))
            shown.append(
                (
                    f"{target} to {classes[partners[target]]}",
                    network,
                    _mean(before),
                    _mean(after),
                    other if network != NETWORKS[0] else "",  # its own gradient is the balanced network's
                    _mean([b - a for a, b in zip(before, after, strict=True)], signed=True),
                )
            )
    return table(("Flow", "Network"), ("Clean", "Same", "Different", "Caused"), shown, grouped=True)


def attacks(rows: Sequence[Row]) -> Table:
    """Every attack with the network's own gradient: accuracy, and robust accuracy among the correctly classified."""
    names = distinct(rows, "attack")
    shown = [
        (
            target,
            network,
            *(
                _mean(values(where(rows, target=target, **_same(network, attack=name)), measure))
                for name in names
                for measure in (_ATTACKED, percent("robust_among_correct"))
            ),
        )
        for target in distinct(rows, "target")
        for network in NETWORKS
    ]
    titles = [f"{name}, {what}" for name in names for what in ("accuracy", "robust")]
    return table(("Target", "Network"), titles, shown, grouped=True)


def forms(rows: Sequence[Row]) -> Table:
    """Every cell of the paper's Table 1 on the FP16 and INT8 graphs, as points next to the checkpoint."""
    shown = []
    for target in distinct(rows, "target"):
        for network, adversary in _SAME_FIRST:
            here = [_fast(rows, network, adversary, measure, target) for measure in (_UNATTACKED, _ATTACKED)]
            cells = [_mean(found) for found in here]
            for form in ("fp16", "int8"):
                there = [
                    _fast(rows, network, adversary, measure, target, form=form) for measure in (_UNATTACKED, _ATTACKED)
                ]
                cells += [
                    _mean([b - a for a, b in zip(*pair, strict=True)], signed=True)
                    for pair in zip(here, there, strict=True)
                ]
            shown.append((target, f"{network}, {adversary}", *cells))
    points = (f"{form} {what}, points" for form in ("FP16", "INT8") for what in ("clean", "attacked"))
    return table(("Target", "Network and adversary"), ("Clean", "Attacked", *points), shown, grouped=True)


def remedies(rows: Sequence[Row], networks: Sequence[Row]) -> Table:
    """What helps the rare class, for each target and seed where remedies were trained."""
    names = distinct(rows, "attack")
    shown = []
    for trained in networks:
        about = {key: trained[key] for key in ("target", "seed")}
        if len(where(networks, **about)) == len(NETWORKS):
            continue
        mine = [where(rows, **about, **_same(trained["network"], attack=name))[0] for name in names]
        rates = [rate(mine[0], "clean"), _all_classes(trained), *(rate(row, "attacked") for row in mine)]
        shown.append(
            (
                f"{trained['target']}, seed {trained['seed']}",
                trained["network"],
                *(numbers.points(_percent(each)) for each in rates),
                numbers.ratio(mine[0]["margins"]["p50"]),
            )
        )
    return table(("Target", "Network"), ("Clean", "All classes", *names, "Median margin"), shown, grouped=True)


def bars(rows: Sequence[Row]) -> Iterator[Block]:
    """Draw what is left under the same-model attack, and what that is of the clean accuracy."""

    def bar(found: Sequence[float], behind: Sequence[float] = ()) -> Bar:
        pale = mean(behind) if behind else None
        if not found:
            return Bar(None, behind=pale)
        low, high = (min(found), max(found)) if len(found) > 1 else (None, None)
        return Bar(mean(found), low, high, pale)

    targets = distinct(rows, "target")
    description = "One group per target class, one bar per network; whiskers are the range over seeds."
    own = {
        (target, network): where(rows, target=target, **_same(network)) for target in targets for network in NETWORKS
    }
    accuracy = {key: bar(values(mine, _ATTACKED), values(mine, _UNATTACKED)) for key, mine in own.items()}
    relative = {key: bar(values(mine, _column("relative_difference"))) for key, mine in own.items()}
    for caption, bars in (
        ("Accuracy on the target class: clean (pale) and under the same-model attack", accuracy),
        ("Relative difference under the same-model attack", relative),
    ):
        groups = {target: [bars[target, network] for network in NETWORKS] for target in targets}
        yield grouped_bars(caption, series=NETWORKS, groups=groups, description=description)


def _matrices(rows: Sequence[Row], networks: Sequence[Row], classes: tuple[str, ...]) -> Iterator[Block]:
    for target in distinct(rows, "target"):
        for network in NETWORKS[1:]:
            matrix = np.sum([row["confusion"] for row in where(networks, target=target, network=network)], axis=0)
            attacked = where(rows, target=target, network=network, form="fp32", attack="fast", adversary="different")
            predicted = np.concatenate([row["predicted"] for row in attacked])
            matrix[classes.index(target)] = np.bincount(predicted, minlength=len(classes))
            yield confusion_matrix(matrix, classes, title=f"{target} {network}-sampled, {target} attacked")


def _same(network: str, *, attack: str = "fast") -> dict[str, str]:
    """Return what the rows of a checkpoint under an attack with its own gradient have."""
    return {"network": network, "form": "fp32", "attack": attack, "adversary": "same"}


def _fast(
    rows: Sequence[Row],
    network: str,
    adversary: str,
    measure: Measure,
    target: str | None = None,
    *,
    form: str = "fp32",
) -> list[float]:
    """Return a number under the fast attack, seed by seed, of one target or of all."""
    wanted = {"network": network, "form": form, "attack": "fast", "adversary": adversary}
    return values(where(rows, **wanted, **({"target": target} if target else {})), measure)


def _column(key: str) -> Measure:
    return lambda row: row[key]


def _margin(share: int) -> Callable[[Row], float | None]:
    return lambda row: row["margins"][f"p{share}"]


def _all_classes(row: Row) -> Rate:
    """Return the accuracy of a network on the whole clean test set."""
    return Rate(int(np.trace(row["confusion"])), int(row["confusion"].sum()))


def _percent(found: Rate) -> float | None:
    return None if found.value is None else 100 * found.value


def _mean(found: Sequence[float], known: float | None = None, *, signed: bool = False) -> Cell:
    """Write a mean, with the published value next to it."""
    detail = "" if known is None else f"paper {known:.3g}"
    if not found:
        return Cell(numbers.UNDEFINED, detail)
    sign = "+" if signed and mean(found) > 0 else ""
    return Cell(sign + numbers.points(mean(found)), detail)


def _mean_known(known: Sequence[float | None]) -> float | None:
    """Return the mean of published values when there is one for each target."""
    there = [value for value in known if value is not None]
    return mean(there) if there and len(there) == len(known) else None

"""From finished jobs to rows, and from rows to verdicts: the paper's claims and ours."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import mean
from typing import Any

import numpy as np

from edgeproof.data.arrays import read_npz
from edgeproof.evaluation.metrics import Rate, attack_success, confusion, drop_points, predictions, relative_difference
from edgeproof.runs import Run
from edgeproof.studies.frame import Row, counts, distinct, where
from edgeproof.studies.imbalance import published
from edgeproof.studies.imbalance.measure import LOGITS
from edgeproof.studies.imbalance.published import BALANCED, NETWORKS
from edgeproof.studies.verdicts import Effect, Verdict, judge, over_seeds, within_seed
from edgeproof.types import Array, Labels, Logits

#: Columns with a value for each image, which `study.json` does not hold.
PER_IMAGE = ("labels", "predicted_clean", "predicted")
_REPEATS = 1000  # of the bootstrap


@dataclass(frozen=True)
class Measured:
    """One target class at one seed.

    Attributes:
        rows: One for each network, form, attack and adversary: "same" when the images were made with the network's own
            gradient, "different" with that of the balanced one.
        networks: For each network its row of the table of trainings, with the confusion (K, K) on the whole clean test set.
    """

    rows: list[dict[str, Any]]
    networks: dict[str, dict[str, Any]]


def read_data(run: Run) -> tuple[tuple[str, ...], Labels]:
    """Return the names of the classes and the labels of the training images."""
    arrays = read_npz(run.file("images.npz"), required=("y_train", "classes"))
    return tuple(map(str, arrays["classes"])), arrays["y_train"]


def read_measured(run: Run, *, target: str, seed: int) -> Measured:
    """Read the logits of a target class at a seed.

    Raises:
        DataError: When they are not plain arrays.
    """
    arrays = read_npz(run.file(LOGITS), required=("labels", "rows"))
    labels, mine = arrays["labels"], arrays["rows"]
    clean: dict[tuple[str, str], Logits] = {}
    networks: dict[str, dict[str, Any]] = {}
    for key, logits in arrays.items():
        if key.startswith("clean/"):
            _, network, form = key.split("/")
            clean[network, form] = logits[mine] if form == "fp32" else logits
            if form == "fp32":
                matrix = confusion(predictions(logits), labels, num_classes=logits.shape[1])
                networks[network] = {"target": target, "seed": seed, "network": network, "confusion": matrix}
    rows = []
    for key, logits in arrays.items():
        if key.count("/") >= 3:
            attack, source, network, form = key.rsplit("/", 3)  # an attack may be called "PGD 8/255"
            about = {"target": target, "seed": seed, "network": network, "form": form, "attack": attack}
            about["adversary"] = "same" if source == network else "different"
            rows.append({**about, **measured_row(labels[mine], clean[network, form], logits)})
    return Measured(rows, networks)


def measured_row(labels: Labels, clean_logits: Logits, logits: Logits) -> dict[str, Any]:
    """Return what a row holds of the logits of one network on the images of the target class, clean and attacked.

    Margins are the true logit minus the largest other one, of the images that are correctly classified clean.
    """
    clean, attacked = predictions(clean_logits), predictions(logits)
    before, after = Rate.of(clean == labels), Rate.of(attacked == labels)
    fooled = attack_success(clean, attacked, labels)
    images = np.arange(len(labels))
    others = clean_logits.copy()
    others[images, labels] = -np.inf
    margins = (clean_logits[images, labels] - others.max(axis=1))[clean == labels]
    return {
        "clean": counts(before),
        "attacked": counts(after),
        "robust_among_correct": counts(Rate(fooled.total - fooled.hits, fooled.total)),
        "relative_difference": relative_difference(before, after),
        "drop_points": drop_points(before, after),
        "margins": {
            f"p{share}": float(np.percentile(margins, share)) if len(margins) else None for share in (10, 50, 90)
        },
        "labels": labels,
        "predicted_clean": clean,
        "predicted": attacked,
    }


def read_training(run: Run, labels: Labels, *, target: int) -> dict[str, Any]:
    """Return on how many images a network was trained, and what that took."""
    history = json.loads(run.file("history.json").read_text(encoding="utf-8"))
    used = labels[read_npz(run.file("splits.npz"), required=("train",))["train"]]
    return {
        "of_target": int((used == target).sum()),
        "images": len(used),
        "kept_epoch": int(history["kept_epoch"]),
        "steps": len(history["epochs"]) * max(len(used) // int(run.config["batch_size"]), 1),
        "seconds": run.manifest.seconds if run.manifest else 0.0,
    }


def partners(networks: Sequence[Row], classes: Sequence[str]) -> dict[str, int]:
    """Return the class that each target is paired with: the paper's, else the one that balanced networks most often take it for."""
    found = {}
    for target in distinct(networks, "target"):
        own = classes.index(target)
        known = published.PARTNERS.get(target)
        if known in classes:
            found[target] = classes.index(known)
        else:
            mistakes = np.sum(
                [row["confusion"][own] for row in where(networks, target=target, network=BALANCED)], axis=0
            )
            mistakes[own] = -1
            found[target] = int(mistakes.argmax())
    return found


class Case:
    """One target class at one seed with its images weighted: all alike, or as resamples of them.

    Every number is (B,), one for each row of weights, in per cent or points.
    """

    def __init__(self, rows: Sequence[Row], *, partner: int, weights: Array | None = None) -> None:
        """Take the rows of one target and seed; `weights` are (B, M), rows that sum to 1, or None for all images alike."""
        self._rows = {(row["network"], row["form"], row["attack"], row["adversary"]): row for row in rows}
        self._partner = partner
        self.seed = rows[0]["seed"]
        self.labels = rows[0]["labels"]
        self.networks = set(distinct(rows, "network"))
        count = len(self.labels)
        self._weights = np.full((1, count), 1 / count) if weights is None else weights

    def resampled(self) -> Case:
        """Return bootstrap resamples of the images; every network sees the same ones."""
        random = np.random.default_rng([self.seed, int(self.labels[0])])
        count = len(self.labels)
        weights = random.multinomial(count, np.full(count, 1 / count), size=_REPEATS) / count
        return Case(list(self._rows.values()), partner=self._partner, weights=weights)

    def clean(self, network: str, *, form: str = "fp32") -> Array:
        """Accuracy without an attack."""
        row = self._rows[network, form, "fast", "same"]
        return self._share(row["predicted_clean"] == self.labels)

    def attacked(self, network: str, *, adversary: str = "same", attack: str = "fast", form: str = "fp32") -> Array:
        """Accuracy under an attack."""
        return self._share(self._rows[network, form, attack, adversary]["predicted"] == self.labels)

    def drop(self, network: str, *, attack: str = "fast") -> Array:
        """Points that the attack costs."""
        return self.clean(network) - self.attacked(network, attack=attack)

    def relative(self, network: str, *, attack: str = "fast") -> Array:
        """The same in per cent of the accuracy without it; NaN where that is 0."""
        clean = self.clean(network)
        return 100 * self.drop(network, attack=attack) / np.where(clean > 0, clean, np.nan)

    def flow(self, network: str, *, attacked: bool = True) -> Array:
        """Share of the images that are taken for the paired class, under the fast attack or without it."""
        row = self._rows[network, "fp32", "fast", "same"]
        return self._share(row["predicted" if attacked else "predicted_clean"] == self._partner)

    def added_flow(self, network: str) -> Array:
        """What the attack adds to it."""
        return self.flow(network) - self.flow(network, attacked=False)

    def int8_loss(self, network: str) -> Array:
        """Accuracy under the fast attack that the INT8 graph loses."""
        return self.attacked(network) - self.attacked(network, form="int8")

    def _share(self, mask: Array) -> Array:
        share: Array = 100 * (self._weights @ mask)
        return share


@dataclass(frozen=True)
class Claim:
    """A sentence that is true when its effect is above 0, and the published value of that effect."""

    text: str
    effect: Callable[[Case], Array]
    published: str = ""
    networks: tuple[str, ...] = NETWORKS


def claims(pgd: Sequence[str]) -> Iterator[Claim]:
    """List the claims; `pgd` names the PGD attacks, by rising budget."""
    clean, attacked, relative = published.mean_clean, published.mean_attacked, published.mean_relative
    yield Claim(
        "Clean accuracy on the target class: over-sampled > balanced",
        _difference(Case.clean, "over", "balanced"),
        f"{clean('over') - clean('balanced'):+.1f}",
    )
    yield Claim(
        "Clean accuracy on the target class: balanced > under-sampled",
        _difference(Case.clean, "balanced", "under"),
        f"{clean('balanced') - clean('under'):+.1f}",
    )
    yield Claim(
        "Relative difference: under-sampled > balanced",
        _difference(Case.relative, "under", "balanced"),
        f"{relative('under') - relative('balanced'):+.1f}",
    )
    yield Claim(
        "Relative difference: balanced > over-sampled",
        _difference(Case.relative, "balanced", "over"),
        f"{relative('balanced') - relative('over'):+.1f}",
    )
    yield Claim(
        "Accuracy of the under-sampled network: different-model attack > same-model attack",
        lambda case: case.attacked("under", adversary="different") - case.attacked("under"),
        f"{attacked('under', 'different') - attacked('under', 'same'):+.1f}",
    )
    yield Claim(
        "Accuracy of the over-sampled network: different-model attack > same-model attack",
        lambda case: case.attacked("over", adversary="different") - case.attacked("over"),
        f"{attacked('over', 'different') - attacked('over', 'same'):+.1f}",
    )
    yield Claim(
        "Flow to the twin class under attack: under-sampled > balanced",
        _difference(Case.flow, "under", "balanced"),
        "cat +8, truck +19, dog -6, automobile -16",
    )
    yield Claim(
        "What the attack adds to that flow, beyond the clean images: under-sampled > balanced",
        _difference(Case.added_flow, "under", "balanced"),
    )
    points = clean("balanced") - attacked("balanced", "same") - clean("under") + attacked("under", "same")
    yield Claim(
        "Drop in points turns the order round: balanced > under-sampled",
        _difference(Case.drop, "balanced", "under"),
        f"{points:+.1f}",
    )
    for attack in pgd:
        yield Claim(
            f"Relative difference under {attack}: under-sampled > balanced",
            _difference(partial(Case.relative, attack=attack), "under", "balanced"),
        )
    yield Claim(
        "INT8 costs the under-sampled network more accuracy under attack than the balanced one",
        _difference(Case.int8_loss, "under", "balanced"),
    )
    yield Claim(
        "INT8 costs the under-sampled network more clean accuracy on the target class than the balanced one",
        lambda case: (
            case.clean("under")
            - case.clean("under", form="int8")
            - case.clean("balanced")
            + case.clean("balanced", form="int8")
        ),
    )
    for network in ("under", "long-tailed"):
        for loss in ("class-balanced", "logit-adjustment", "cost-sensitive"):
            remedied = f"{network}, {loss}"
            yield Claim(
                f"{loss} raises the clean accuracy of the {network} network on the target class",
                _difference(Case.clean, remedied, network),
                networks=(network, remedied),
            )
            yield Claim(
                f"{loss} raises its accuracy under attack",
                _difference(Case.attacked, remedied, network),
                networks=(network, remedied),
            )


def _difference(measure: Callable[[Case, str], Array], more: str, less: str) -> Callable[[Case], Array]:
    """Return the effect that is how much more one network has of something than another."""
    return lambda case: measure(case, more) - measure(case, less)


def verdicts(rows: Sequence[Row], *, partners: Mapping[str, int], pgd: Sequence[str]) -> tuple[Verdict, ...]:
    """Judge every claim for which networks were measured: over seeds, or with one seed over its images."""
    cases = [
        Case(mine, partner=partners[target])
        for target in distinct(rows, "target")
        for seed in distinct(rows, "seed")
        if (mine := where(rows, target=target, seed=seed))
    ]
    found = []
    for claim in claims(pgd):
        asked = [case for case in cases if case.networks >= set(claim.networks)]
        if not asked:
            continue
        values = [(case.seed, float(claim.effect(case)[0])) for case in asked]
        known = [(seed, value) for seed, value in values if not np.isnan(value)]
        means = [mean(value for at, value in known if at == seed) for seed in dict.fromkeys(seed for seed, _ in known)]
        effect = over_seeds(means)
        if len(means) == 1:
            effect = _over_images(claim, [case.resampled() for case in asked], means[0])
        undefined = f", {len(values) - len(known)} undefined" if len(known) < len(values) else ""
        note = f"{sum(value > 0 for _, value in known)} of {len(known)}{undefined}"
        found.append(judge(claim.text, effect, published=claim.published, note=note))
    return tuple(found)


def _over_images(claim: Claim, resampled: Sequence[Case], value: float) -> Effect:
    """Give the effect at the only seed a bootstrap interval over its images."""
    draws = np.stack([claim.effect(case) for case in resampled])
    known = draws[:, ~np.isnan(draws).any(axis=0)]
    if not known.size:
        return over_seeds([value])
    low, high = np.percentile(known.mean(axis=0), [2.5, 97.5])
    return within_seed(
        value, low=float(low), high=float(high), method=f"paired bootstrap over images, {_REPEATS} resamples"
    )

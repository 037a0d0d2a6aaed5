"""The paper's claims and ours, each as a number that is above 0 when the claim is true."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

import numpy as np

from edgeproof.studies.possas_zhou import published
from edgeproof.studies.possas_zhou.cells import Measured
from edgeproof.studies.possas_zhou.measure import NETWORKS
from edgeproof.studies.verdicts import Effect, Verdict, judge, over_seeds, within_seed
from edgeproof.types import Array

_REPEATS = 1000  # of the bootstrap


@dataclass(frozen=True)
class Look:
    """One target class at one seed, its images weighted: alike, or as resamples of them.

    Attributes:
        measured: The cells.
        twin: Index of the class that the target is paired with.
        weights: (B, M), rows that sum to 1; every number below is (B,), in per cent or points.
    """

    measured: Measured
    twin: int
    weights: Array

    def clean(self, network: str, *, form: str = "fp32") -> Array:
        """Accuracy without an attack."""
        cell = self.measured.cells[network, form, "fast", "same"]
        return self._share(cell.clean == cell.labels)

    def attacked(self, network: str, *, adversary: str = "same", attack: str = "fast", form: str = "fp32") -> Array:
        """Accuracy under an attack."""
        cell = self.measured.cells[network, form, attack, adversary]
        return self._share(cell.attacked == cell.labels)

    def drop(self, network: str, *, attack: str = "fast") -> Array:
        """What the attack takes, in points."""
        return self.clean(network) - self.attacked(network, attack=attack)

    def relative(self, network: str, *, attack: str = "fast") -> Array:
        """What it takes in per cent of the accuracy without it; NaN where that is 0."""
        clean = self.clean(network)
        return 100 * self.drop(network, attack=attack) / np.where(clean > 0, clean, np.nan)

    def flow(self, network: str, *, adversary: str | None = None) -> Array:
        """Share of the images that are taken for the twin class, without an attack or under the fast one."""
        cell = self.measured.cells[network, "fp32", "fast", adversary or "same"]
        return self._share((cell.attacked if adversary else cell.clean) == self.twin)

    def caused_flow(self, network: str, *, adversary: str = "same") -> Array:
        """What the attack adds to the flow."""
        return self.flow(network, adversary=adversary) - self.flow(network)

    def loss(self, network: str, form: str) -> Array:
        """Accuracy under the fast attack that a deployed form loses."""
        return self.attacked(network) - self.attacked(network, form=form)

    def has(self, *networks: str) -> bool:
        """Whether these networks were measured."""
        return set(networks) <= set(self.measured.networks)

    def _share(self, mask: Array) -> Array:
        share: Array = 100 * (self.weights @ mask)
        return share


@dataclass(frozen=True)
class Claim:
    """A sentence, the effect that makes it true when above 0, and the published value of that effect."""

    text: str
    effect: Callable[[Look], Array]
    published: str = ""
    networks: tuple[str, ...] = NETWORKS


def claims(pgd: Sequence[str]) -> tuple[Claim, ...]:
    """List the claims; `pgd` names the PGD attacks, by rising budget."""
    mean_relative, mean_clean, mean_attacked = published.mean_relative, published.mean_clean, published.mean_attacked
    paper = (
        Claim("Clean accuracy on the target class: over-sampled > balanced", lambda look: look.clean("over") - look.clean("balanced"), _points(mean_clean("over") - mean_clean("balanced"))),
        Claim("Clean accuracy on the target class: balanced > under-sampled", lambda look: look.clean("balanced") - look.clean("under"), _points(mean_clean("balanced") - mean_clean("under"))),
        Claim("Relative difference: under-sampled > balanced", lambda look: look.relative("under") - look.relative("balanced"), _points(mean_relative("under") - mean_relative("balanced"))),
        Claim("Relative difference: balanced > over-sampled", lambda look: look.relative("balanced") - look.relative("over"), _points(mean_relative("balanced") - mean_relative("over"))),
        Claim("Accuracy of the under-sampled network: different-model attack > same-model attack", lambda look: look.attacked("under", adversary="different") - look.attacked("under"), _points(mean_attacked("under", "different") - mean_attacked("under", "same"))),
        Claim("Accuracy of the over-sampled network: different-model attack > same-model attack", lambda look: look.attacked("over", adversary="different") - look.attacked("over"), _points(mean_attacked("over", "different") - mean_attacked("over", "same"))),
        Claim("Flow to the twin class under attack: under-sampled > balanced", lambda look: look.flow("under", adversary="same") - look.flow("balanced", adversary="same"), "cat +8, truck +19, dog -6, automobile -16"),
    )  # fmt: skip
    ours = (
        Claim("What the attack adds to that flow, beyond the clean images: under-sampled > balanced", lambda look: look.caused_flow("under") - look.caused_flow("balanced")),
        Claim("Drop in points turns the order round: balanced > under-sampled", lambda look: look.drop("balanced") - look.drop("under"), _points(mean_clean("balanced") - mean_attacked("balanced", "same") - mean_clean("under") + mean_attacked("under", "same"))),
        *(Claim(f"Relative difference under {name}: under-sampled > balanced", lambda look, name=name: look.relative("under", attack=name) - look.relative("balanced", attack=name)) for name in pgd),  # type: ignore[misc]
        Claim("INT8 costs the under-sampled network more accuracy under attack than the balanced one", lambda look: look.loss("under", "int8") - look.loss("balanced", "int8")),
        Claim("INT8 costs the under-sampled network more clean accuracy on the target class than the balanced one", lambda look: look.clean("under") - look.clean("under", form="int8") - look.clean("balanced") + look.clean("balanced", form="int8")),
    )  # fmt: skip
    return (*paper, *ours, *_remedies("under"), *_remedies("long-tailed"))


def _remedies(network: str) -> tuple[Claim, ...]:
    found = []
    for loss in ("class-balanced", "logit-adjustment", "cost-sensitive"):
        remedied = f"{network}, {loss}"
        found += [
            Claim(f"{loss} raises the clean accuracy of the {network} network on the target class", lambda look, name=remedied: look.clean(name) - look.clean(network), networks=(network, remedied)),  # type: ignore[misc]
            Claim(f"{loss} raises its accuracy under attack", lambda look, name=remedied: look.attacked(name) - look.attacked(network), networks=(network, remedied)),  # type: ignore[misc]
        ]  # fmt: skip
    return tuple(found)


def judge_claims(measured: Sequence[Measured], *, twins: Mapping[str, int], pgd: Sequence[str]) -> tuple[Verdict, ...]:
    """Judge every claim for which networks were measured."""
    looks = [Look(one, twins[one.target], _alike(one)) for one in measured]
    return tuple(
        _judge(claim, mine) for claim in claims(pgd) if (mine := [look for look in looks if look.has(*claim.networks)])
    )


def _judge(claim: Claim, looks: Sequence[Look]) -> Verdict:
    values = [(look.measured.seed, float(claim.effect(look)[0])) for look in looks]
    known = [(seed, value) for seed, value in values if not np.isnan(value)]
    seeds = dict.fromkeys(seed for seed, _ in known)
    means = [mean(value for seed, value in known if seed == which) for which in seeds]
    effect = over_seeds(means) if len(means) != 1 else _resampled(claim, looks, means[0])
    agreeing = sum(value > 0 for _, value in known)
    note = f"{agreeing} of {len(known)}"
    if missing := len(values) - len(known):
        note += f", {missing} undefined"
    return judge(claim.text, effect, published=claim.published, note=note)


def _resampled(claim: Claim, looks: Sequence[Look], value: float) -> Effect:
    """Give the one seed an interval over its images: every network sees the same resample of them."""
    draws = np.stack([claim.effect(Look(look.measured, look.twin, _resamples(look.measured))) for look in looks])
    known = draws[:, ~np.isnan(draws).any(axis=0)]
    if not known.size:
        return over_seeds([value])
    low, high = np.percentile(known.mean(axis=0), [2.5, 97.5])
    return within_seed(
        value, low=float(low), high=float(high), method=f"paired bootstrap over images, {_REPEATS} resamples"
    )


def _alike(measured: Measured) -> Array:
    count = _count(measured)
    return np.full((1, count), 1 / count)


def _resamples(measured: Measured) -> Array:
    count = _count(measured)
    random = np.random.default_rng([measured.seed, measured.label])
    return random.multinomial(count, np.full(count, 1 / count), size=_REPEATS) / count


def _count(measured: Measured) -> int:
    return len(next(iter(measured.cells.values())).labels)


def _points(value: float) -> str:
    return f"{value:+.1f}"

"""From finished jobs to rows, and from rows to verdicts: what the abstract claims and what a reconstruction must show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from edgeproof.data.arrays import read_npz
from edgeproof.evaluation import metrics
from edgeproof.runs import Run
from edgeproof.studies.frame import Measure, Row, across, counts, distinct, gains, percent, seed_means, where
from edgeproof.studies.universal.measure import CHECKPOINT, CLEAN, PREDICTIONS
from edgeproof.studies.verdicts import Verdict, judge, over_seeds

BALANCED = "two-stage-balanced"
FRESH = ("fresh plain", "fresh margin", "fresh balanced")  # the universal attacks; one per class needs the true class
_SLACK = 1.0  # points that count as no loss
_NEIGHBOUR = "94 % of predictions in one class (SGD-UAP, ResNet-18, CIFAR-10, 10/255)"

accuracy, fooling, top1 = percent("accuracy"), percent("fooling"), percent("top1")


def entropy(row: Row) -> float:
    """Entropy of the predicted classes, in per cent of log K."""
    return 100 * float(row["entropy"])


def least_class_error(row: Row) -> float:
    """The error rate of the class that suffers least, in per cent."""
    return 100 * float(min(row["class_errors"]))


def read_rows(run: Run, *, training: str, seed: int) -> Iterator[dict[str, Any]]:
    """Make a row for each attack on a network, as each form of it (or another network) sees it.

    Its rates: `accuracy` over all test images, `fooling`, the images predicted as another class than when clean by the same
    form, `top1` and `top3`, those predicted as one of the classes predicted most. Then the entropy of the predicted classes
    over log K, and the error rate of each true class.
    """
    arrays = read_npz(run.file(PREDICTIONS), required=("labels",))
    labels = arrays.pop("labels")
    classes = int(labels.max()) + 1
    for key, predicted in arrays.items():
        name, _, form = key.rpartition("/")
        attack, _, scale = name.partition("@")
        rates = metrics.per_class_accuracy(predicted, labels, num_classes=classes)
        yield {
            "training": training,
            "seed": seed,
            "attack": attack,
            "scale": float(scale or 1),
            "form": form,
            "accuracy": counts(metrics.accuracy(predicted, labels)),
            "fooling": counts(metrics.fooling_ratio(arrays[f"{CLEAN}/{form}"], predicted)),
            "top1": counts(metrics.top_share(predicted, num_classes=classes, classes=1)),
            "top3": counts(metrics.top_share(predicted, num_classes=classes, classes=3)),
            "entropy": metrics.normalised_entropy(predicted, num_classes=classes) or 0.0,
            "class_errors": [1 - (rate.value or 0.0) for rate in rates],
        }


def of(rows: Sequence[Row], attack: str, *, training: str = "natural", form: str = CHECKPOINT) -> list[Row]:
    """Return the rows of an attack at full scale, seed by seed."""
    found = where(rows, attack=attack, training=training, form=form, scale=1.0)
    return sorted(found, key=lambda row: int(row["seed"]))


def at_equal_fooling(curve: Sequence[Row], measure: Measure, *, ratio: float) -> float:
    """Return what a curve has where it fools `ratio` per cent: linear between its points, flat beyond them.

    Args:
        curve: One perturbation at several scales.
        measure: What is read off.
        ratio: Fooling ratio of the perturbation that it is compared with, in per cent.
    """
    ordered = sorted(curve, key=lambda row: fooling(row) or 0.0)
    return float(np.interp(ratio, [fooling(row) or 0.0 for row in ordered], [measure(row) or 0.0 for row in ordered]))


def excess(rows: Sequence[Row], name: str, measure: Measure) -> dict[int, float]:
    """Return, for each seed, how much more a perturbation has of something than the plain one of the same fooling ratio."""
    natural = where(rows, training="natural", form=CHECKPOINT)
    found = {}
    for row in of(rows, name):
        at_seed = where(natural, seed=row["seed"])
        curve = [*where(at_seed, attack=CLEAN), *where(at_seed, attack="plain")]
        plain = at_equal_fooling(curve, measure, ratio=fooling(row) or 0.0)
        found[row["seed"]] = (measure(row) or 0.0) - plain
    return found


def worst_universal(rows: Sequence[Row], training: str) -> dict[int, float]:
    """Return the least accuracy under the fresh universal perturbations, in per cent, for each seed."""
    return across(min, [seed_means(of(rows, name, training=training), accuracy) for name in FRESH])


def verdicts(rows: Sequence[Row], *, taus: Sequence[float], tau: float) -> tuple[Verdict, ...]:
    """Judge the claims on the perturbations, on their transfer and on the trainings.

    Args:
        rows: Every attack on every network.
        taus: Weights of the calibration that were measured.
        tau: The one that the claims are about.
    """
    return (*_on_balance(rows, taus, tau), *_on_transfer(rows, tau), *_on_training(rows))


def _on_balance(rows: Sequence[Row], taus: Sequence[float], tau: float) -> Iterator[Verdict]:
    yield judge(
        "The plain perturbation gathers predictions: its most predicted class takes over 10 points more of them than on clean images.",
        over_seeds(gains(seed_means(of(rows, CLEAN), top1), seed_means(of(rows, "plain"), top1))),
        threshold=10.0,
        published=_NEIGHBOUR,
    )
    at = f"(tau {tau:g}, against the plain one made smaller until it fools as many)"
    beyond = partial(excess, rows, f"balanced {tau:g}")
    yield judge(
        f"At an equal fooling ratio the balanced perturbation spreads predictions more evenly {at}.",
        over_seeds(list(beyond(entropy).values()), unit="% of log K"),
    )
    yield judge(
        f"At an equal fooling ratio its most predicted class takes fewer of them {at}.",
        over_seeds([-value for value in beyond(top1).values()]),
    )
    yield judge(
        f"At an equal fooling ratio the class that suffers least suffers more {at}.",
        over_seeds(list(beyond(least_class_error).values())),
    )
    worst = across(min, [excess(rows, f"balanced {each:g}", entropy) for each in taus])
    yield judge(
        "Every point of the tau curve spreads predictions more evenly than the plain perturbation of its fooling ratio.",
        over_seeds(list(worst.values()), unit="% of log K"),
        note="The effect is that of the worst tau at each seed.",
    )
    plain = seed_means(of(rows, "plain"), fooling)
    best = across(max, [seed_means(of(rows, f"balanced {each:g}"), fooling) for each in taus])
    yield judge(
        "At full budget some tau fools as many images as the plain perturbation, to a point.",
        over_seeds(gains(plain, best)),
        threshold=-_SLACK,
    )


def _on_transfer(rows: Sequence[Row], tau: float) -> Iterator[Verdict]:
    for form in distinct(rows, "form"):
        if not form.startswith(("int8", "fp16")):
            continue
        for name in ("plain", f"balanced {tau:g}"):
            here, there = (seed_means(of(rows, name, form=each), fooling) for each in (CHECKPOINT, form))
            yield judge(
                f"The perturbation {name!r} made on the checkpoint fools the {form} graph as often, to two points.",
                over_seeds(gains(here, there)),
                threshold=-2.0,
            )


def _on_training(rows: Sequence[Row]) -> Iterator[Verdict]:
    trainings = distinct(rows, "training")
    others = [name for name in trainings if name not in ("natural", BALANCED)]
    clean = {name: seed_means(of(rows, CLEAN, training=name), accuracy) for name in trainings}
    best = across(max, [clean[name] for name in others])
    yield judge(
        "Of the five robust trainings, the two-stage balanced one has the best clean accuracy.",
        over_seeds(gains(best, clean[BALANCED])),
        published="claimed in the abstract, without numbers here",
        note="Against the best of the other four at each seed.",
    )
    left = {name: worst_universal(rows, name) for name in trainings}
    for rival in others:
        yield judge(
            f"Under its worst fresh universal perturbation the two-stage balanced network is no worse than {rival}, to a point.",
            over_seeds(gains(left[rival], left[BALANCED])),
            threshold=-_SLACK,
        )
    yield judge(
        "Under its worst fresh universal perturbation it is better than the natural network.",
        over_seeds(gains(left["natural"], left[BALANCED])),
    )

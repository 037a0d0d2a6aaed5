"""Every metric of the toolkit, defined once, in NumPy, on predicted classes.

Predictions are (N,) int64 class indices, -1 where an engine gave no usable logits; such an image counts as wrong everywhere.
`labels` are (N,) int64 true classes. A rate carries its hits and total; its denominator is part of its definition.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from pydantic import Field, computed_field
from pydantic.dataclasses import dataclass

from edgeproof.types import Array, Labels, Logits

Z = 1.959963984540054  # the normal distribution's 97.5 % point: intervals hold 95 %


@dataclass(frozen=True)
class Rate:
    """Hits among a total, with the Wilson score interval at 95 % (Wilson, 1927); value and interval are None when the total is 0.

    As JSON it has all five; what is read back is hits and total, from which the others follow.
    """

    hits: int = Field(ge=0)
    total: int = Field(le=2**63)

    def __post_init__(self) -> None:
        if self.hits > self.total:
            raise ValueError(f"a rate of {self.hits} hits among {self.total}; expected at most as many hits")

    @classmethod
    def of(cls, mask: Array) -> Rate:
        """Count the true entries of a boolean array."""
        return cls(int(np.count_nonzero(mask)), int(mask.size))

    @computed_field  # type: ignore[prop-decorator]
    @property
    def value(self) -> float | None:
        """Hits over total, or None when the total is 0."""
        return self.hits / self.total if self.total else None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def low(self) -> float | None:
        """The lower end of the interval."""
        return self.interval[0] if self.interval else None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def high(self) -> float | None:
        """The upper end of the interval."""
        return self.interval[1] if self.interval else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Both ends, or None when the total is 0."""
        if not self.total:
            return None
        share, weight = self.hits / self.total, Z**2 / self.total
        middle = (share + weight / 2) / (1 + weight)
        half = math.sqrt(share * (1 - share) * weight + weight**2 / 4) / (1 + weight)
        # The interval ends exactly at 0 or 1 there; rounding would leave it a last bit away.
        low = 0.0 if self.hits == 0 else max(middle - half, 0.0)
        high = 1.0 if self.hits == self.total else min(middle + half, 1.0)
        return low, high


@dataclass(frozen=True)
class McNemar:
    """Exact McNemar test of two engines on the same images: the two kinds of discordant pairs, two-sided p."""

    only_reference_right: int
    only_engine_right: int
    p_value: float


def predictions(logits: Logits) -> Labels:
    """Return the class of the largest logit (the first of equals), or -1 for an image with a NaN among its logits."""
    classes: Labels = np.where(np.isnan(logits).any(axis=1), -1, np.argmax(logits, axis=1)).astype(np.int64)
    return classes


def accuracy(predicted: Labels, labels: Labels) -> Rate:
    """Return how many of all images are classified correctly: clean or robust accuracy, as the images are."""
    return Rate.of(predicted == labels)


def attack_success(clean: Labels, attacked: Labels, labels: Labels) -> Rate:
    """Return how many of the images that an engine classifies correctly when clean it gets wrong when attacked."""
    right = clean == labels
    return Rate.of((attacked != labels)[right])


def transfer_rate(
    source_clean: Labels, source_attacked: Labels, clean: Labels, attacked: Labels, labels: Labels
) -> Rate:
    """Return how many successes on the source model are successes on the engine.

    Over the images on which the attack succeeded on the source (right when clean, wrong when attacked) and that the
    engine classifies correctly when clean: those that the engine now gets wrong.
    """
    fooled = (source_clean == labels) & (source_attacked != labels) & (clean == labels)
    return Rate.of((attacked != labels)[fooled])


def transfer_ratio(
    source_clean: Labels, source_attacked: Labels, clean: Labels, attacked: Labels, labels: Labels
) -> float | None:
    """Return success on the engine over success on the source, both on the images that both classify correctly when clean.

    None where the attack never succeeded on the source there.
    """
    both = (source_clean == labels) & (clean == labels)
    on_source = int(np.count_nonzero((source_attacked != labels)[both]))
    on_engine = int(np.count_nonzero((attacked != labels)[both]))
    return on_engine / on_source if on_source else None


def agreement(reference: Labels, predicted: Labels) -> Rate:
    """Return how many of all images two engines give the same class, right or wrong."""
    return Rate.of((reference == predicted) & (predicted >= 0))


def mcnemar(reference: Labels, predicted: Labels, labels: Labels) -> McNemar:
    """Test whether two engines are equally often right (McNemar, 1947; exact binomial form)."""
    reference_right, right = reference == labels, predicted == labels
    only_reference = int(np.count_nonzero(reference_right & ~right))
    only_engine = int(np.count_nonzero(right & ~reference_right))
    return McNemar(only_reference, only_engine, sign_test(only_reference, only_engine))


def sign_test(first: int, second: int) -> float:
    """Return the exact two-sided p-value of `first` against `second` tosses of a fair coin; 1 when there are none."""
    count, few = first + second, min(first, second)
    term: int = 1
    tail: int = 1
    for k in range(few):
        term = term * (count - k) // (k + 1)
        tail += term
    # Integers until this division: nothing is rounded before it.
    return min(1.0, float(2 * tail / 2**count))


def fooling_ratio(clean: Labels, attacked: Labels) -> Rate:
    """Return how many of all images are predicted as another class than when clean, whatever is true (Moosavi-Dezfooli et al., 2017)."""
    return Rate.of(clean != attacked)


def prediction_counts(predicted: Labels, *, num_classes: int) -> Array:
    """Return how often each class is predicted, (K,); images without a prediction are not counted."""
    counts: Array = np.bincount(predicted[predicted >= 0], minlength=num_classes)
    return counts


def top_share(predicted: Labels, *, num_classes: int, classes: int) -> Rate:
    """Return how many of all images are predicted as one of the `classes` classes that are predicted most."""
    counts = np.sort(prediction_counts(predicted, num_classes=num_classes))[::-1]
    return Rate(int(counts[:classes].sum()), len(predicted))


def normalised_entropy(predicted: Labels, *, num_classes: int) -> float | None:
    """Return the entropy of the predicted classes over log K: 1 where all are predicted equally often, 0 for one class."""
    counts = prediction_counts(predicted, num_classes=num_classes)
    shares = counts[counts > 0] / max(int(counts.sum()), 1)
    return max(float(-(shares * np.log(shares)).sum()) / math.log(num_classes), 0.0) if len(shares) else None


def per_class_accuracy(predicted: Labels, labels: Labels, *, num_classes: int) -> tuple[Rate, ...]:
    """Return the accuracy over the images of each true class."""
    totals = np.bincount(labels, minlength=num_classes)
    hits = np.bincount(labels[predicted == labels], minlength=num_classes)
    return tuple(Rate(int(hit), int(total)) for hit, total in zip(hits, totals, strict=True))


def relative_difference(clean: Rate, attacked: Rate) -> float | None:
    """Return 100 * (clean - attacked) / clean accuracy, in per cent (Possas and Zhou, 2017); None where clean is 0."""
    if not clean.value or attacked.value is None:
        return None
    return 100 * (clean.value - attacked.value) / clean.value


def drop_points(clean: Rate, attacked: Rate) -> float | None:
    """Return 100 * (clean - attacked) accuracy, in percentage points; None where there are no images."""
    if clean.value is None or attacked.value is None:
        return None
    return 100 * (clean.value - attacked.value)


def worst_class(rates: Sequence[Rate]) -> int | None:
    """Return the class of lowest accuracy, the first of equals, among those that have images."""
    known = [(rate.value, label) for label, rate in enumerate(rates) if rate.value is not None]
    return min(known)[1] if known else None


def confusion(predicted: Labels, labels: Labels, *, num_classes: int) -> Array:
    """Return counts (K, K): rows are true classes, columns predictions. Images without a prediction are in no column."""
    known = predicted >= 0
    flat = labels[known] * num_classes + predicted[known]
    return np.bincount(flat, minlength=num_classes**2).reshape(num_classes, num_classes)


def image_costs(predicted: Labels, labels: Labels, costs: Array) -> Array:
    """Return what each image costs, (N,) float64, by `costs` (K, K): rows are true classes, columns predictions.

    An image without a prediction costs what the most costly mistake of its class does.
    """
    paid: Array = np.where(predicted >= 0, costs[labels, predicted], costs.max(axis=1)[labels])
    return paid


def mean_interval(values: Array) -> tuple[float, float] | None:
    """Return the normal 95 % interval of a mean of numbers from 0 on; None where fewer than two values differ."""
    if len(np.unique(values)) < 2:
        return None
    half = Z * float(values.std(ddof=1)) / math.sqrt(len(values))
    return max(float(values.mean()) - half, 0.0), float(values.mean()) + half

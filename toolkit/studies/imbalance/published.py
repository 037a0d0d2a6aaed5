"""The published numbers, in per cent (Table 1 and Fig. 2 of the paper; Fig. 2 from the first author's thesis).

Means are over the ten classes of CIFAR-10. The text of the paper quotes 25.8 % as the mean of the same-model attack on
under-sampled networks; that is the mean of the balanced column, and the under-sampled one has 14.2 %.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import mean

BALANCED = "balanced"
NETWORKS = (BALANCED, "under", "over")  # those of the paper; others are remedies

#: Clean accuracy on the target class, by network.
CLEAN: Mapping[str, Mapping[str, float]] = {
    "airplane": {"balanced": 84, "under": 69, "over": 89},
    "automobile": {"balanced": 88, "under": 77, "over": 93},
    "bird": {"balanced": 80, "under": 48, "over": 79},
    "cat": {"balanced": 69, "under": 26, "over": 76},
    "deer": {"balanced": 85, "under": 70, "over": 85},
    "dog": {"balanced": 77, "under": 58, "over": 80},
    "frog": {"balanced": 88, "under": 83, "over": 89},
    "horse": {"balanced": 83, "under": 69, "over": 90},
    "ship": {"balanced": 90, "under": 80, "over": 92},
    "truck": {"balanced": 93, "under": 80, "over": 91},
}

_COLUMNS = (("under", "different"), ("over", "different"), ("balanced", "same"), ("under", "same"), ("over", "same"))
_TABLE_1 = {
    "airplane": (60, 87, 36, 19, 61),
    "automobile": (64, 91, 23, 16, 63),
    "bird": (38, 73, 20, 9.4, 27),
    "cat": (21, 72, 11, 0.5, 19),
    "deer": (58, 80, 20, 9.8, 20),
    "dog": (47, 76, 15, 9, 38),
    "frog": (76, 88, 27, 20, 49),
    "horse": (59, 88, 20, 18, 52),
    "ship": (69, 89, 37, 19, 59),
    "truck": (46, 87, 49, 21, 54),
}
#: Accuracy on the attacked target class, by network and adversary.
ATTACKED: Mapping[str, Mapping[tuple[str, str], float]] = {
    name: dict(zip(_COLUMNS, row, strict=True)) for name, row in _TABLE_1.items()
}

#: The classes that the paper pairs.
PARTNERS: Mapping[str, str] = {"cat": "dog", "dog": "cat", "automobile": "truck", "truck": "automobile"}


def relative(target: str, network: str, adversary: str = "same") -> float:
    """Return the published relative difference of a cell, computed from its two accuracies."""
    clean = CLEAN[target][network]
    return 100 * (clean - ATTACKED[target][network, adversary]) / clean


def mean_clean(network: str) -> float:
    """Return the mean of a column of Fig. 2."""
    return mean(row[network] for row in CLEAN.values())


def mean_attacked(network: str, adversary: str) -> float:
    """Return the mean of a column of Table 1."""
    return mean(row[network, adversary] for row in ATTACKED.values())


def mean_relative(network: str) -> float:
    """Return the mean of a series of Fig. 4."""
    return mean(relative(target, network) for target in CLEAN)

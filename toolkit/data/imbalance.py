"""Class-imbalanced subsets of a balanced data set, with exact counts; `index` says which images they kept.

The order of the images stays. For one seed, a smaller subset of a class is a part of every larger one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from edgeproof.data.base import LabelledImages
from edgeproof.data.classes import class_index
from edgeproof.errors import ConfigError, DataError
from edgeproof.types import Array

_SPEC = re.compile(r"(under|over):(.+)=(\d{1,9})|(long-tailed):(\d{1,9}(?:\.\d{1,9})?)")


def imbalanced(data: LabelledImages, spec: str, *, seed: int) -> LabelledImages:
    """Keep other numbers of each class, as users write it.

    Args:
        data: The images.
        spec: `under:CLASS=COUNT` keeps so many of the class, `over:CLASS=COUNT` so many of each other class, and
            `long-tailed:RATIO` lets class sizes fall to a RATIO-th, from what the smallest class has; CLASS is a name or
            an index (#3).
        seed: Seed of the choice.

    Raises:
        ConfigError: When the spec is none of these, or there is no such class.
        DataError: When a class has too few images.
    """
    match = _SPEC.fullmatch(spec)
    if not match:
        raise ConfigError(
            f"imbalance = {spec!r} is not known; expected under:CLASS=COUNT, over:CLASS=COUNT or long-tailed:RATIO"
        )
    kind, target, count, tail, ratio = match.groups()
    if tail:
        return long_tailed(data, largest=int(_sizes(data).min()), ratio=float(ratio), seed=seed)
    sample = under_sample if kind == "under" else over_sample
    return sample(data, target=target, count=int(count), seed=seed)


def under_sample(data: LabelledImages, *, target: int | str, count: int, seed: int) -> LabelledImages:
    """Keep `count` images of class `target` and all of the others.

    Raises:
        ConfigError: When there is no such class.
        DataError: When it has fewer than `count` images.
    """
    counts = _sizes(data)
    counts[_label(data, target)] = count
    return keep_counts(data, counts, seed=seed)


def over_sample(data: LabelledImages, *, target: int | str, count: int, seed: int) -> LabelledImages:
    """Keep all images of class `target` and `count` of each other class; nothing is repeated.

    Raises:
        ConfigError: When there is no such class.
        DataError: When another has fewer than `count` images.
    """
    sizes = _sizes(data)
    counts = np.full_like(sizes, count)
    counts[_label(data, target)] = sizes[_label(data, target)]
    return keep_counts(data, counts, seed=seed)


def long_tailed(data: LabelledImages, *, largest: int, ratio: float, seed: int) -> LabelledImages:
    """Let class sizes fall exponentially, in the order of the classes, from `largest` to `largest / ratio` (rounded).

    The profile is that of Cao et al., 2019, arXiv:1906.07413, who truncate where we round.

    Raises:
        DataError: When `ratio` is under 1, or a class has fewer images than the profile wants.
    """
    if not ratio >= 1:
        raise DataError(f"ratio = {ratio:g}; expected the largest class over the smallest, 1 or more")
    position = np.arange(data.num_classes) / max(data.num_classes - 1, 1)
    return keep_counts(data, np.rint(largest * ratio**-position).astype(np.int64), seed=seed)


def keep_counts(data: LabelledImages, counts: Sequence[int] | Array, *, seed: int) -> LabelledImages:
    """Keep exactly so many images of each class, chosen by the seed.

    Args:
        data: The images.
        counts: (K,) the number to keep of each class.
        seed: Seed of the choice.

    Raises:
        DataError: When a count is under 1 or over what the class has, or there is not one for each class.
    """
    if len(counts) != data.num_classes:
        raise DataError(
            f"{data.name}: {len(counts)} counts were given for {data.num_classes} classes; expected one each"
        )
    kept = []
    for label, (count, size) in enumerate(zip(counts, _sizes(data), strict=True)):
        if not 1 <= count <= size:
            raise DataError(
                f"{data.name}/{data.split}: class {data.classes[label]!r} has {size} images and {count} were asked for; "
                f"expected 1 to {size}"
            )
        mine = np.flatnonzero(data.labels == label)
        kept.append(np.random.default_rng([seed, 3, label]).permutation(mine)[:count])
    return data.take(np.sort(np.concatenate(kept)))


def _label(data: LabelledImages, target: int | str) -> int:
    return class_index(str(target), data.classes, context=f"{data.name}: ")


def _sizes(data: LabelledImages) -> Array:
    return np.bincount(data.labels, minlength=data.num_classes)

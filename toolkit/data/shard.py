"""One part in N of a set of images, for as many machines: every N-th image, so that each part has its share of each class."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeproof.errors import ConfigError, DataError
from edgeproof.types import Array

_TEXT = re.compile(r"([1-9]\d{0,5})/([1-9]\d{0,5})")


@dataclass(frozen=True)
class Shard:
    """Part `number` of `count`; the first is 1."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def rows(self, total: int) -> Array:
        """Return the positions of this part's images among all.

        Raises:
            DataError: When there are fewer images than parts.
        """
        if total < self.count:
            raise DataError(f"{total} images cannot be shared among {self.count} shards; expected at least one each")
        return np.arange(self.number - 1, total, self.count)


def parse_shard(text: str) -> Shard:
    """Read `2/4`.

    Raises:
        ConfigError: For anything but I/N with I from 1 to N.
    """
    match = _TEXT.fullmatch(text.strip())
    if match is None or int(match[1]) > int(match[2]):
        raise ConfigError(f"shard {text!r} is not understood; expected I/N with I from 1 to N, such as 1/4")
    return Shard(int(match[1]), int(match[2]))


def check_complete(texts: Sequence[str]) -> list[Shard]:
    """Read the shards of one whole and return them.

    Raises:
        DataError: When one is missing, comes twice, or is of another division.
    """
    shards = [parse_shard(text) for text in texts]
    count = shards[0].count
    if any(shard.count != count for shard in shards):
        raise DataError(
            f"shards of different divisions: {', '.join(map(str, shards))}; expected all of one N; repeat the others with it"
        )
    numbers = [shard.number for shard in shards]
    twice = sorted({number for number in numbers if numbers.count(number) > 1})
    missing = sorted(set(range(1, count + 1)) - set(numbers))
    if twice or missing:
        wrong = [f"{number}/{count} comes twice" for number in twice] + [f"{n}/{count} is missing" for n in missing]
        raise DataError(f"the shards do not make a whole: {', '.join(wrong[:5])}; give each of them once")
    return shards


def interleave(parts: Sequence[Array], shards: Sequence[Shard]) -> Array:
    """Put the rows of all shards back into their order."""
    whole = np.empty((sum(map(len, parts)), *parts[0].shape[1:]), parts[0].dtype)
    for part, shard in zip(parts, shards, strict=True):
        rows = shard.rows(len(whole))
        if len(rows) != len(part):
            raise DataError(
                f"shard {shard} has {len(part)} images; expected {len(rows)} of {len(whole)}; make that shard again"
            )
        whole[rows] = part
    return whole

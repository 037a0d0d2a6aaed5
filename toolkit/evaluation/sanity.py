"""Warnings: results that are probably not what they look like. Each is a sentence with the numbers that raise it.

After Carlini et al., 2019 (arXiv:1902.06705) and the flags of AutoAttack. Only files are read. Indicators of
masked gradients are in `edgeproof.evaluation.masking`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np

from edgeproof.evaluation.results import CellRecord, EngineRecord, SetRecord
from edgeproof.types import Logits

_FEW = 100  # images under which an interval is wider than +-10 points at 50 %
_FEW_A_CLASS = 10


def check_logits(engine: str, set_: str, logits: Logits) -> Iterator[str]:
    """Warn of NaN or infinite numbers in an engine's raw outputs."""
    broken = int(np.count_nonzero(~np.isfinite(logits).all(axis=1)))
    if broken:
        yield (
            f"{engine} gave NaN or infinite logits on {broken} of {len(logits)} images of {set_!r}; an image with NaN counts as wrong"
        )


def check_probabilities(logits: Mapping[tuple[str, str], Logits], sets: Sequence[SetRecord]) -> Iterator[str]:
    """Warn once of the engines that give probabilities where logits belong, unless all that they saw are our white-box sets."""
    white_box = {each.name for each in sets if each.access in ("gradients", "data")}
    engines = {
        engine: None
        for (engine, set_), values in logits.items()
        if set_ not in white_box and len(values) and values.min() >= 0 and np.allclose(values.sum(axis=1), 1, atol=1e-3)
    }
    if engines:
        yield (
            f"{', '.join(engines)}: probabilities, not logits. The classes are right, and `attack` works on their logarithms or in "
            f"front of the softmax; other attacks would see vanishing gradients: export without the softmax for them"
        )


def check_engine(engine: EngineRecord) -> Iterator[str]:
    """Warn of an engine whose answer depends on the batch around an image, or whose INT8 is not computed in integers."""
    tried = engine.invariance
    if tried and tried.flips:
        yield (
            f"{engine.name} gives {tried.flips} of {tried.images} images another class in another batch size or slot "
            f"(rows {', '.join(map(str, tried.flipped[:5]))}{', ...' if tried.flips > 5 else ''})"
        )
    if engine.kernels and engine.kernels.integer < engine.kernels.total:
        yield (
            f"{engine.name} computes {engine.kernels.integer} of {engine.kernels.total} convolutions and matrix products in "
            f"integers, the rest in floating point between Q and DQ: it has INT8's rounding but not all of its speed"
        )


def check_results(
    cells: Sequence[CellRecord], *, engines: Sequence[str], sets: Sequence[SetRecord], classes: Sequence[str]
) -> Iterator[str]:
    """Warn of what accuracies and sets show.

    Args:
        cells: Every engine on every set.
        engines: The engines' names.
        sets: The clean set and the adversarial ones.
        classes: The class names.
    """
    found = {(cell.engine, cell.set): cell for cell in cells}
    attacks = [set_ for set_ in sets if set_.kind == "adversarial" and set_.attack != "noise"]
    noises = [set_ for set_ in sets if set_.kind == "adversarial" and set_.attack == "noise"]
    yield from _small(cells[0], classes)
    for engine in engines:
        yield from _chance(found[engine, "clean"], len(classes))
    for attack in attacks:
        for noise in noises:
            if attack.norm == noise.norm and (noise.eps or 0) <= (attack.eps or 0):
                yield from _noise(attack.name, noise.name, found, engines)
    for small, large in _neighbours(attacks):
        yield from _order(small.name, large.name, found, engines)


def _small(cell: CellRecord, classes: Sequence[str]) -> Iterator[str]:
    total = cell.accuracy.total
    if total < _FEW:
        yield f"only {total} images: the intervals are wide; use at least {_FEW}, better 1000"
    sizes = {record.label: record.total for record in cell.per_class}
    few = [label for label in range(len(classes)) if sizes.get(label, 0) < _FEW_A_CLASS]
    if few and total >= _FEW:
        names = ", ".join(f"{classes[label]} ({sizes.get(label, 0)})" for label in few[:5])
        yield f"{len(few)} of {len(classes)} classes have fewer than {_FEW_A_CLASS} images: {names}{', ...' if len(few) > 5 else ''}"


def _chance(cell: CellRecord, classes: int) -> Iterator[str]:
    chance = 1 / classes
    if cell.accuracy.total and cell.accuracy.low is not None and cell.accuracy.low <= chance:
        yield (
            f"{cell.engine} is right on {cell.accuracy.hits} of {cell.accuracy.total} clean images, no better than chance "
            f"({chance:.0%}): check its class order and that it takes images in [0, 1]"
        )


def _noise(
    attack: str, noise: str, found: Mapping[tuple[str, str], CellRecord], engines: Sequence[str]
) -> Iterator[str]:
    hits = {engine: (found[engine, noise].accuracy.hits, found[engine, attack].accuracy.hits) for engine in engines}
    hurt = [
        engine for engine, (control, left) in hits.items() if control <= left < found[engine, "clean"].accuracy.hits
    ]
    if hurt:
        control, left = hits[hurt[0]]
        yield (
            f"the control {noise!r} leaves {control} images right on {hurt[0]}{_more(hurt)}, {attack!r} leaves {left}: "
            f"the attack does no more than chance"
        )


def _neighbours(attacks: Sequence[SetRecord]) -> Iterator[tuple[SetRecord, SetRecord]]:
    """Pair the sets that differ in their budget alone, each with the next larger one."""
    series: dict[str, list[SetRecord]] = {}
    for set_ in attacks:
        series.setdefault(f"{set_.attack} {set_.norm} {set_.source}", []).append(set_)
    for members in series.values():
        for small, large in pairwise(sorted(members, key=lambda set_: set_.eps or 0)):
            if small.eps != large.eps:
                yield small, large


def _order(
    small: str, large: str, found: Mapping[tuple[str, str], CellRecord], engines: Sequence[str]
) -> Iterator[str]:
    hits = {engine: (found[engine, small].accuracy, found[engine, large].accuracy) for engine in engines}
    # By more than a point: a one-step attack may overshoot a little at a large budget without anything being wrong.
    odd = [engine for engine, (weak, strong) in hits.items() if strong.hits - weak.hits > 0.01 * strong.total]
    if odd:
        weak, strong = hits[odd[0]]
        yield (
            f"{large!r} leaves {strong.hits} images right on {odd[0]}{_more(odd)}, {small!r} only {weak.hits}: a larger "
            f"budget should not be weaker; try more steps or restarts"
        )


def _more(engines: Sequence[str]) -> str:
    return f" (and {len(engines) - 1} other engines likewise)" if len(engines) > 1 else ""

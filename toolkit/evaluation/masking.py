"""Masked gradients: signs that an attack found little because it was misled, and not because the model is robust.

Only files are read. What needs gradients was measured by the attack stage (`edgeproof.attacks.probes`) and came with the set; what needs
several sets is taken from the gaps and cells of this evaluation. docs/masking.md has a section for each indicator.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from edgeproof.config import format_eps
from edgeproof.evaluation.results import CellRecord, GapRecord, IndicatorRecord, SetRecord

_LEVEL = 0.01  # of McNemar's test between two sets: many are made
_GREY = 0.5  # L-infinity budget that turns every image into the same grey
_CLEAR = 0.1  # above chance, as a fraction: more than the images of a probe can show by luck


@dataclass(frozen=True)
class Indicator:
    """One sign of masking.

    Attributes:
        name: As in docs/masking.md.
        key: What the attack stage measured, in a set's indicators.
        limit: Beyond it the indicator is reported.
        meaning: A plain sentence, with what to do.
        beyond: Whether too much is reported, or too little.
    """

    name: str
    key: str
    limit: float
    meaning: str
    beyond: Literal["above", "below"] = "above"

    def reports(self, value: float) -> bool:
        """Whether a value is reported."""
        return value > self.limit if self.beyond == "above" else value < self.limit


def indicators(*, chance: float) -> tuple[Indicator, ...]:
    """Return every indicator, for data on which guessing is right with probability `chance`."""
    return (
        Indicator("zero-gradients", "zero_gradients", 0.05,
            "the source's gradient is exactly zero on many clean images, so an attack that follows it stands still; "
            "add an attack without gradients (square)"),
        Indicator("non-finite-gradients", "non_finite_gradients", 0.0,
            "the source's gradient or loss is NaN or infinite on clean images, so an attack that follows it goes nowhere; "
            "add an attack without gradients (square)"),
        Indicator("transfer-stronger", "transfer_gain", 0.1,
            "adversaries made on another model fool more than those that followed this model's own gradients; "
            "count the worst attack of each image"),
        Indicator("query-stronger", "query_gain", 0.1,
            "an attack that only asks for answers fools more than the one that followed gradients; "
            "count the worst attack of each image"),
        Indicator("probabilities", "probabilities", 0.05,
            "the source gives probabilities where logits belong, whose gradients vanish; attack it without its softmax"),
        Indicator("randomness", "random_outputs", 0.0,
            "the source answers the same image differently from call to call; average over calls when attacking it"),
        Indicator("eps-sweep", "large_eps_accuracy", chance + _CLEAR,
            "accuracy does not fall to chance under a budget that can turn every image grey, so it is the attack "
            "that fails; use more steps or restarts, or another attack"),
        Indicator("budget-unused", "budget_used", 0.5,
            "the attack uses less than half of its budget on average, so it is weaker than its eps says", "below"),
        Indicator("saturated-loss", "saturated_loss", 0.05,
            "the source's cross-entropy has no precision left on clean images, so its gradient is rounding; "
            "follow the margin or the DLR loss (--loss margin, apgd-dlr)"),
        Indicator("temperature", "temperature_gain", 0.1,
            "the same attack on logits divided by a temperature fools many more images; use pgd-temperature or apgd-dlr"),
    )  # fmt: skip


def masking(
    cells: Sequence[CellRecord], *, sets: Sequence[SetRecord], gaps: Sequence[GapRecord], classes: int
) -> tuple[IndicatorRecord, ...]:
    """Return every indicator with the worst value that was measured, over all attacks of an evaluation.

    Args:
        cells: Every engine on every set.
        sets: The clean set and the adversarial ones.
        gaps: What knowing more of an engine gained.
        classes: Number of classes.
    """
    attacks = [set_ for set_ in sets if set_.kind == "adversarial" and set_.attack != "noise"]
    compared = {
        "eps-sweep": list(_at_grey(cells, attacks, classes)),
        "transfer-stronger": list(_weaker_than("transferred", gaps)),
        "query-stronger": list(_weaker_than("query", gaps)),
    }
    known = indicators(chance=1 / classes) if attacks else ()
    return tuple(_judge(each, attacks, compared.get(each.name, [])) for each in known)


def warnings(records: Sequence[IndicatorRecord]) -> Iterator[str]:
    """Return the sentence of each indicator that is reported."""
    for record in records:
        if record.reported:
            yield f"{record.meaning} ({record.measured:.1%} {record.where}; docs/masking.md#{record.name})"


Found: TypeAlias = "tuple[float, str, bool]"  # a value, where it was measured, whether it is reported


def _judge(indicator: Indicator, attacks: Sequence[SetRecord], compared: Sequence[Found]) -> IndicatorRecord:
    found = [*compared]
    for attack in attacks:
        if indicator.key in attack.indicators and not _does_not_matter(indicator, attack):
            value = attack.indicators[indicator.key]
            found.append((value, f"for {attack.name!r}", indicator.reports(value)))
    sign = 1 if indicator.beyond == "above" else -1
    worst = max(found, key=lambda each: (each[2], sign * each[0]), default=None)
    return IndicatorRecord(
        name=indicator.name,
        meaning=indicator.meaning,
        measured=worst[0] if worst else None,
        limit=indicator.limit,
        beyond=indicator.beyond,
        where=worst[1] if worst else "",
        reported=bool(worst and worst[2]),
    )


def _does_not_matter(indicator: Indicator, attack: SetRecord) -> bool:
    """Whether an attack follows another loss than the one that is saturated."""
    return indicator.name == "saturated-loss" and attack.params.get("loss") in ("margin", "dlr")


def _weaker_than(threat: str, gaps: Sequence[GapRecord]) -> Iterator[Found]:
    for gap in gaps:
        if gap.first_threat == threat and gap.second_threat == "white-box" and gap.difference > 0:
            where = f"of the images: {gap.first!r} against {gap.second!r} on {gap.engine}"
            yield gap.difference, where, gap.p_value < _LEVEL


def _at_grey(cells: Sequence[CellRecord], attacks: Sequence[SetRecord], classes: int) -> Iterator[Found]:
    large: Mapping[str, SetRecord] = {
        set_.name: set_ for set_ in attacks if set_.norm == "linf" and (set_.eps or 0) >= _GREY
    }
    for cell in cells:
        if cell.set in large and cell.threat == "white-box" and cell.accuracy.value is not None:
            chance, low = 1 / classes, cell.accuracy.low or 0.0
            where = f"right on {cell.engine} at eps = {format_eps(large[cell.set].eps or 0)} ({cell.set!r})"
            yield cell.accuracy.value, where, low > chance

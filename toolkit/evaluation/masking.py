"""Masked gradients: indicators that an attack found little because it was misled, and not because the model is robust.

Only files are read. What needs gradients was measured by the attack stage (`edgeproof.attacks.probes`) and came with the set; what needs
several sets is computed from the predictions of this evaluation. docs/masking.md has a section for each indicator.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from edgeproof.config import format_eps
from edgeproof.evaluation.gap import gaps_to_white_box
from edgeproof.evaluation.results import CellRecord, EngineRecord, IndicatorRecord, SetRecord
from edgeproof.evaluation.scoring import Predictions

_LEVEL = 0.01  # of McNemar's test between two sets: many are made
_GREY = 0.5  # L-infinity budget that turns every image into the same grey
_ENSEMBLE_STEPS = 100  # of an ensemble whose members take their own default
_CLEAR = 0.1  # above chance, as a fraction: more than the images of a probe can show by luck


@dataclass(frozen=True)
class Indicator:
    """One indicator of gradient masking.

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


@dataclass(frozen=True)
class _Found:
    """A value of an indicator, where it was measured, and whether it is reported."""

    value: float
    where: str
    reported: bool


def masking(
    predicted: Predictions,
    cells: Sequence[CellRecord],
    *,
    engines: Sequence[EngineRecord],
    sets: Sequence[SetRecord],
    classes: int,
) -> tuple[IndicatorRecord, ...]:
    """Return every indicator with the worst value that was measured, over all attacks of an evaluation.

    Args:
        predicted: The predictions that the cells were made from.
        cells: Every engine on every set, with what each attack knew.
        engines: The engines.
        sets: The clean set and the adversarial ones.
        classes: Number of classes.
    """
    attacks = [set_ for set_ in sets if set_.kind == "adversarial" and set_.attack != "noise"]
    if not attacks:
        return ()
    compared = list(_against_white_box(predicted, engines, sets))
    records = []
    for each in indicators(chance=1 / classes):
        found = [measured for name, measured in compared if name == each.name]
        if each.name == "eps-sweep":
            found += _at_grey(cells, attacks, chance=1 / classes)
        for attack in attacks:
            # Another loss than the cross-entropy does not saturate with it.
            ignored = each.name == "saturated-loss" and attack.params.get("loss") in ("margin", "dlr")
            if each.key in attack.indicators and not ignored:
                value = attack.indicators[each.key]
                found.append(_Found(value, f"for {attack.name!r}", each.reports(value)))
        sign = 1 if each.beyond == "above" else -1
        worst = max(found, key=lambda measured: (measured.reported, sign * measured.value), default=None)
        records.append(
            IndicatorRecord(
                name=each.name,
                meaning=each.meaning,
                measured=worst.value if worst else None,
                limit=each.limit,
                beyond=each.beyond,
                where=worst.where if worst else "",
                reported=bool(worst and worst.reported),
            )
        )
    return tuple(records)


def warnings(records: Sequence[IndicatorRecord]) -> Iterator[str]:
    """Return the sentence of each indicator that is reported."""
    for record in records:
        if record.reported:
            yield f"{record.meaning} ({record.measured:.1%} {record.where}; docs/masking.md#{record.name})"


def _against_white_box(
    predicted: Predictions, engines: Sequence[EngineRecord], sets: Sequence[SetRecord]
) -> Iterator[tuple[str, _Found]]:
    """Find where an attack that knew less did more than all white-box attacks of its budget together."""
    for gap, less, white_box in gaps_to_white_box(predicted, engines=engines, sets=sets):
        if gap.difference <= 0:
            continue
        name = "query-stronger" if gap.first_threat == "query" else "transfer-stronger"
        steps, own = _steps(less), max(map(_steps, white_box))
        # An attack of fewer steps may lose to one of more without any masking, and a single step to queries.
        weaker = own < steps if name == "transfer-stronger" else own < 2
        where = f"of the images: {gap.first!r} against {gap.second!r} on {gap.engine}"
        if weaker:
            than = f", {less.attack} {steps}" if name == "transfer-stronger" else ""
            where += f"; not reported, since the white-box attack has {own} step{'s' if own > 1 else ''}{than}"
        yield name, _Found(gap.difference, where, gap.p_value < _LEVEL and not weaker)


def _steps(set_: SetRecord) -> int:
    """Return how many gradient steps an attack takes per image, restarts included; 1 where it has no such number."""
    steps, restarts = (set_.params.get(key, 1) for key in ("steps", "restarts"))
    steps = _ENSEMBLE_STEPS if steps is None else steps
    return steps * restarts if isinstance(steps, int) and isinstance(restarts, int) else 1


def _at_grey(cells: Sequence[CellRecord], attacks: Sequence[SetRecord], *, chance: float) -> Iterator[_Found]:
    large = {set_.name: set_.eps or 0.0 for set_ in attacks if set_.norm == "linf" and (set_.eps or 0) >= _GREY}
    for cell in cells:
        if cell.set in large and cell.threat == "white-box" and cell.accuracy.value is not None:
            where = f"right on {cell.engine} at eps = {format_eps(large[cell.set])} ({cell.set!r})"
            yield _Found(cell.accuracy.value, where, (cell.accuracy.low or 0.0) > chance)

"""Limits that decide the exit status: `--fail-under [ENGINE:]METRIC[SET]@CLASS=VALUE`, `--max-drop` and `--max-cost` likewise.

ENGINE is a name or a precision; without it every engine is meant. SET, in brackets, is the name of an adversarial set or
its attack; without it the worst over all adversarial sets but the noise control counts. CLASS is a name or a number.
Gates are read before anything runs: a misspelt one costs no hour of measuring. One that cannot fail is a warning.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from edgeproof.config import parse_number
from edgeproof.data.classes import class_index
from edgeproof.errors import ConfigError, nearest
from edgeproof.evaluation.metrics import Rate
from edgeproof.evaluation.results import KNEW, CellRecord, EngineRecord, GateRecord, LeftOutRecord, SetRecord

Kind = Literal["fail-under", "max-drop", "max-cost"]

#: Metric to what it means.
METRICS: Mapping[str, str] = {
    "clean_accuracy": "accuracy on the clean images",
    "robust_accuracy": "accuracy on an adversarial set",
    "worst_class_clean_accuracy": "clean accuracy of the class where it is lowest",
    "worst_class_robust_accuracy": "robust accuracy of the class where it is lowest",
    "agreement": "share of clean images with the reference engine's class",
    "robust_agreement": "share of adversarial images with the reference engine's class",
}
#: Metric of `--max-cost` to what it means; with `@CLASS` it is the mean over the images of that true class.
COSTS: Mapping[str, str] = {
    "clean_cost": "expected cost of an image on the clean images",
    "robust_cost": "expected cost of an image on an adversarial set",
}
_FORM = re.compile(
    r"(?:(?P<engine>[^:=@\[\]]+):)?(?P<metric>[A-Za-z_]+)(?:\[(?P<set>[^\]]+)\])?(?:@(?P<label>[^=]+))?=(?P<limit>.+)"
)
_ROUNDING = 1e-9  # 0.97 - 0.96 is 0.010000000000000009: a drop of 0.01 all the same


@dataclass(frozen=True)
class Gate:
    """One limit, as written and, once bound, with what it applies to."""

    text: str
    kind: Kind
    metric: str
    limit: float
    engine: str | None = None
    set: str | None = None
    label: str | None = None
    engines: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    sets: tuple[str, ...] = ()
    class_index: int | None = None

    @property
    def relative(self) -> bool:
        """Whether it is measured against the reference engine."""
        return self.kind == "max-drop" or self.metric.endswith("agreement")


def parse_gates(fail_under: Sequence[str], max_drop: Sequence[str], max_cost: Sequence[str] = ()) -> tuple[Gate, ...]:
    """Read the texts of gates.

    Raises:
        ConfigError: For another form, an unknown metric, a value that is no fraction or a negative cost.
    """
    asked: tuple[tuple[Kind, Sequence[str]], ...] = (
        ("fail-under", fail_under),
        ("max-drop", max_drop),
        ("max-cost", max_cost),
    )
    return tuple(_parse(text, kind) for kind, texts in asked for text in texts)


def bind_gates(
    gates: Sequence[Gate],
    *,
    engines: Mapping[str, str],
    reference: str,
    sets: Sequence[SetRecord],
    classes: Sequence[str],
    left_out: Sequence[LeftOutRecord] = (),
) -> tuple[Gate, ...]:
    """Find the engines, sets and class that gates name.

    Args:
        gates: As `parse_gates` reads them.
        engines: Name to precision.
        reference: The engine that drops and agreement are counted from; it is left out of those.
        sets: The clean set and the adversarial ones.
        classes: The class names.
        left_out: Engines that could not be opened; a limit that may be on one is bound to it too, and does not hold.

    Raises:
        ConfigError: For a name that is not there; the nearest one is offered.
    """
    names = [each.name for each in left_out]
    return tuple(
        replace(
            gate,
            engines=_engines(gate, engines, reference, missing),
            left_out=missing,
            sets=_sets(gate, sets),
            class_index=None if gate.label is None else class_index(gate.label, classes, context=f"--{gate.text}: "),
        )
        for gate in gates
        for missing in [tuple(each.name for each in left_out if _may_mean(gate, each, {*engines, *names}))]
    )


def judge(gates: Sequence[Gate], cells: Sequence[CellRecord], *, reference: str) -> tuple[GateRecord, ...]:
    """Measure bound gates, one record for each engine that a gate applies to.

    Of several sets the one counts on which the engine is worst: the lowest value, or the largest drop or cost.
    """
    found = {(cell.engine, cell.set): cell for cell in cells}
    records = []
    for gate in gates:
        for engine in gate.engines:
            values = {set_: _measure(gate, found[engine, set_], found[reference, set_]) for set_ in gate.sets}
            undefined = [set_ for set_, value in values.items() if value is None]
            known = [(value, set_) for set_, value in values.items() if value is not None]
            if undefined:
                records.append(_record(gate, found[engine, undefined[0]], None))
            else:
                measured, set_ = min(known) if gate.kind == "fail-under" else max(known)
                records.append(_record(gate, found[engine, set_], measured))
        records += [
            GateRecord(
                text=gate.text,
                metric=gate.metric,
                engine=name,
                set=gate.sets[0],
                measured=None,
                limit=gate.limit,
                count=0,
                passed=False,
                message=f"{gate.metric} of {name} cannot be measured: it could not be opened",
            )
            for name in gate.left_out
        ]
    return tuple(records)


def idle_gates(
    gates: Sequence[Gate], cells: Sequence[CellRecord], *, engines: Sequence[EngineRecord], reference: str
) -> Iterator[str]:
    """Warn of bound gates that hold whatever is measured: nothing that they say was checked."""
    found = {(cell.engine, cell.set): cell for cell in cells}
    files = {engine.name: engine for engine in engines}
    for gate in gates:
        limit = f"the limit {gate.text!r} cannot fail"
        if (gate.kind, gate.limit) in (("fail-under", 0.0), ("max-drop", 1.0)):
            yield f"{limit}: every value holds; choose a value between 0 and 1"
            continue
        if not gate.relative:
            continue
        for engine in gate.engines:
            if _runs_alike(files[engine], files[reference]):
                yield f"{limit} for {engine}: it is the same file as the reference {reference}, run alike; name another engine"
        if gate.kind == "max-drop":
            rates = [(set_, _rate(gate, found[reference, set_])) for set_ in gate.sets]
            lost = [set_ for set_, rate in rates if rate and rate.value == 0]
            if lost:
                yield (
                    f"{limit} on {', '.join(map(repr, lost))}: the reference {reference} has 0 % there, so nothing can be lost; "
                    "use a smaller budget, or --fail-under"
                )


def _runs_alike(one: EngineRecord, other: EngineRecord) -> bool:
    first, second = (
        (each.sha256, each.backend, each.precision, each.device, each.provider, each.options) for each in (one, other)
    )
    return bool(one.sha256) and first == second


def _may_mean(gate: Gate, engine: LeftOutRecord, names: Collection[str]) -> bool:
    """Return whether a limit may be on an engine left out; one that did not say its precision may be of any."""
    any_precision = not engine.precision and gate.engine not in names
    return any_precision or gate.engine in (None, engine.name, engine.precision)


def _parse(text: str, kind: Kind) -> Gate:
    match = _FORM.fullmatch(text.strip())
    if not match:
        raise ConfigError(
            f"--{kind} {text!r} is not understood; expected [ENGINE:]METRIC[[SET]][@CLASS]=VALUE, such as robust_accuracy=0.4"
        )
    part = match.groupdict()
    metric, known = part["metric"], COSTS if kind == "max-cost" else METRICS
    if metric not in known:
        raise ConfigError(
            f"--{kind} {text!r}: unknown metric {metric!r}{nearest(metric, known)}; known: {', '.join(known)}"
        )
    if kind == "max-drop" and metric.endswith("agreement"):
        raise ConfigError(f"--max-drop {text!r}: agreement is already relative to the reference; use --fail-under")
    if part["label"] and metric not in ("clean_accuracy", "robust_accuracy", *COSTS):
        raise ConfigError(f"--{kind} {text!r}: {metric} has no value per class; use clean_accuracy or robust_accuracy")
    if part["set"] and "robust" not in metric:
        raise ConfigError(f"--{kind} {text!r}: {metric} is measured on the clean images; leave out [{part['set']}]")
    limit = parse_number(part["limit"])
    if kind == "max-cost":
        if not 0 <= limit < math.inf:
            raise ConfigError(f"--{kind} {text!r}: {limit:g} is no cost; expected a number from 0 on")
    elif not 0 <= limit <= 1:
        hint = f"; did you mean {limit / 100:g}?" if 1 < limit <= 100 else ""
        raise ConfigError(f"--{kind} {text!r}: {limit:g} is no fraction; expected a value from 0 to 1{hint}")
    return Gate(f"{kind} {text.strip()}", kind, metric, limit, part["engine"], part["set"], part["label"])


def _engines(gate: Gate, engines: Mapping[str, str], reference: str, missing: Sequence[str]) -> tuple[str, ...]:
    named = [name for name, precision in engines.items() if gate.engine in (None, name, precision)]
    if not named and not missing and gate.engine:
        known = {**engines, **dict.fromkeys(engines.values(), "")}
        raise ConfigError(
            f"--{gate.text}: unknown engine {gate.engine!r}{nearest(gate.engine, known)}; known: {', '.join(known)}"
        )
    chosen = tuple(name for name in named if not (gate.relative and name == reference))
    if not chosen and not missing:
        raise ConfigError(f"--{gate.text}: would compare the reference {reference!r} with itself; name another engine")
    return chosen


def _sets(gate: Gate, sets: Sequence[SetRecord]) -> tuple[str, ...]:
    if "robust" not in gate.metric:
        return ("clean",)
    adversarial = [set_ for set_ in sets if set_.kind == "adversarial"]
    if gate.set is None:
        chosen = [set_.name for set_ in adversarial if set_.attack != "noise"]
        if not chosen:
            raise ConfigError(
                f"--{gate.text}: no adversarial set is given (noise does not count); add --adversaries RUN"
            )
        return tuple(chosen)
    chosen = [set_.name for set_ in adversarial if gate.set in (set_.name, set_.attack)]
    if not chosen:
        known = [set_.name for set_ in adversarial]
        raise ConfigError(
            f"--{gate.text}: unknown set {gate.set!r}{nearest(gate.set, known)}; known: {', '.join(known)}"
        )
    return tuple(chosen)


def _measure(gate: Gate, cell: CellRecord, reference: CellRecord) -> float | None:
    if gate.kind == "max-cost":
        if cell.cost is None:
            return None
        return cell.cost.mean if gate.class_index is None else cell.cost.per_class[gate.class_index]
    mine, theirs = _rate(gate, cell), _rate(gate, reference)
    value = mine.value if mine else None
    if gate.kind == "fail-under" or value is None:
        return value
    return theirs.value - value if theirs and theirs.value is not None else None


def _rate(gate: Gate, cell: CellRecord) -> Rate | None:
    if gate.metric.endswith("agreement"):
        return cell.agreement
    if gate.metric.startswith("worst_class"):
        return None if cell.worst_class is None else cell.rate(cell.worst_class)
    return cell.accuracy if gate.class_index is None else cell.rate(gate.class_index)


def _record(gate: Gate, cell: CellRecord, measured: float | None) -> GateRecord:
    rate = _rate(gate, cell)
    count = rate.total if rate else 0
    if measured is None:
        passed, said = False, "cannot be measured: there are no such images"
    elif gate.kind == "max-drop":
        passed = measured <= gate.limit + _ROUNDING
        said = f"drops by {measured:.4f}, limit {gate.limit:g}, n = {count}"
    elif gate.kind == "max-cost":
        passed = measured <= gate.limit + _ROUNDING
        said = f"is {measured:.4f} an image, limit {gate.limit:g}, n = {count}"
    else:
        passed = measured >= gate.limit - _ROUNDING
        interval = f" [{rate.low:.4f}, {rate.high:.4f}]" if rate and rate.low is not None else ""
        said = f"is {measured:.4f}{interval}, limit {gate.limit:g}, n = {count}"
    knew = f" ({KNEW[cell.threat]})" if cell.threat else ""
    return GateRecord(
        text=gate.text,
        metric=gate.metric,
        engine=cell.engine,
        set=cell.set,
        measured=measured,
        limit=gate.limit,
        count=count,
        passed=passed,
        message=f"{gate.metric}{f' of {gate.label}' if gate.label else ''} of {cell.engine} on {cell.set!r}{knew} {said}",
        threat=cell.threat,
    )

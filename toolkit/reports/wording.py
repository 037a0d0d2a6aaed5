"""The sentences of a report: the verdict, and what each measure means."""

from __future__ import annotations

from edgeproof.evaluation.results import KNEW, GapRecord, GateRecord, Results
from edgeproof.reports import numbers
from edgeproof.reports.content import MOST_CLASSES

MASKING = "Indicators of masked gradients"
WORST = "The worst attack of a budget, image by image"
GAPS = "What knowing more of an engine gains"
_LEVEL = 0.05

#: Each measure once, in the order in which the report uses them.
DEFINITIONS: tuple[tuple[str, str], ...] = (
    ("Clean accuracy", "Share of the unattacked images that an engine classifies correctly."),
    (
        "Robust accuracy",
        "Share of all images of an adversarial set that an engine classifies correctly. "
        "The worst robust accuracy is the lowest over the attacks of this report (noise, a control, does not count), "
        "so it is no bound on what another attack can do.",
    ),
    (
        "95 % interval",
        "Wilson score interval of a rate, from its counts. It says how far another sample of images could move the number; "
        "it says nothing about other attacks or another training run.",
    ),
    (
        "Attack success",
        "Of the images that this engine classifies correctly when they are clean, the share that it gets wrong when they are attacked.",
    ),
    (
        "Transfer",
        "Of the images on which the attack succeeded on its source model and that this engine classifies correctly when they are clean, "
        "the share that this engine gets wrong.",
    ),
    (
        "Transfer ratio",
        "Attack success on this engine over attack success on the source model, both among the images that both classify correctly when clean.",
    ),
    (
        "Fooling ratio",
        "Share of all images that are predicted as another class than when clean, whatever is true. Next to it, the class that is "
        "predicted most, the shares of it and of the three classes predicted most, and the entropy of the predicted classes over "
        "log K: 1 when all are predicted equally often.",
    ),
    (
        "Relative difference",
        "100 × (clean accuracy − adversarial accuracy) / clean accuracy. Undefined where the clean accuracy is 0. "
        "It makes classes that start low look worse than the drop does.",
    ),
    ("Drop, points", "Clean accuracy minus adversarial accuracy, in percentage points."),
    (
        "Expected cost",
        "Mean over all images of what an engine's mistakes on them cost, by the costs that were given for each class pair; being right costs "
        "nothing. Its interval is the normal one of a mean. The most costly class is the true class whose images cost the most each.",
    ),
    (
        "McNemar p",
        "Exact two-sided test of an engine against the reference on the same images: how surprising the split of the images that only "
        "one of the two gets right would be, if both were equally good. Not corrected for the number of comparisons.",
    ),
    (
        "Right under every attack",
        "Share of the images that an engine classifies correctly in every set of one norm and budget: the worst attack is chosen image by "
        "image, so it is never more than what the strongest single attack leaves.",
    ),
    (
        "White-box, query, checkpoint, transferred",
        "What an attack knew of an engine, by recorded hashes: the gradients of the very file that runs, answers of it, the gradients of the "
        "checkpoint or graph that it was made from, or another file only. Robust accuracy under anything but white-box is an upper bound.",
    ),
    (
        "Throughput",
        "Images classified in a second at the batch size given: the median over repeats, with 5th and 95th percentile.",
    ),
)


def verdict(results: Results) -> str:
    """Say in one sentence whether the limits hold."""
    failed, total = sum(not gate.passed for gate in results.gates), len(results.gates)
    if not total:
        return "No limits were set, so nothing passed or failed."
    if not failed:
        return "Passed: the one limit holds." if total == 1 else f"Passed: all {total} limits hold."
    return f"Failed: {failed} of {total} limit{'s' if total > 1 else ''} {'do' if failed > 1 else 'does'} not hold."


def knowledge(results: Results) -> str:
    """Say which engines no attack followed, and what the attacks knew instead; empty where each was attacked white-box, or none was."""
    engines: dict[str, list[str]] = {}
    for engine in results.engines:
        threats = [cell.threat for cell in results.cells if cell.engine == engine.name]
        known = [KNEW[threat] for threat in dict.fromkeys(threats) if threat and threat != "control"]
        if known and "white-box" not in threats:
            engines.setdefault("; ".join(known), []).append(engine.name)
    said = "; ".join(f"{', '.join(names)} ({known})" for known, names in engines.items())
    return f"Upper bounds of robust accuracy, since no attack followed the engine itself: {said}." if said else ""


def measured(gate: GateRecord) -> str:
    """Write what was measured for a limit: a rate in percent, a drop in points, or a cost."""
    if _is_cost(gate):
        return numbers.cost(gate.measured)
    return numbers.drop(gate.measured) if _is_drop(gate) else numbers.percent(gate.measured)


def required(gate: GateRecord) -> str:
    """Write what a limit asks for."""
    if _is_cost(gate):
        return f"at most {gate.limit:g}"
    return f"at most {numbers.drop(gate.limit)}" if _is_drop(gate) else f"at least {numbers.percent(gate.limit)}"


def costs(results: Results) -> str:
    """Say where the costs come from."""
    return f"What mistakes cost: {results.costs.source if results.costs else 'nothing was said'}"


def title(results: Results) -> str:
    """Name the report by its data."""
    return f"Adversarial robustness: {results.data['name']}, {results.data['split']}"


def scope(results: Results) -> str:
    """Say how much was measured."""
    engines, sets = len(results.engines), sum(set_.kind == "adversarial" for set_ in results.sets)
    return (
        f"{results.data['count']} images of {len(results.classes)} classes, {_count(engines, 'engine')}, "
        f"{_count(sets, 'adversarial set')}. Engines are compared with {results.reference}."
    )


def gap(record: GapRecord) -> str:
    """Say whether the attack that knows more does more, at the 5 % level."""
    if record.p_value >= _LEVEL:
        return "makes no difference that these images show"
    if record.difference < 0:
        return "is stronger"
    return "is weaker: gradients may be masked" if record.second_threat == "white-box" else "is weaker"


def gap_line(record: GapRecord) -> str:
    """Write a gap on one line, for a terminal, where the names of the sets leave no room for a table."""
    return (
        f"  {record.engine}: {record.second!r} ({record.second_threat}) against {record.first!r} ({record.first_threat}) "
        f"{numbers.points(100 * record.difference)} points ({between(record)}), p {numbers.p_value(record.p_value)}: {gap(record)}"
    )


def masking(results: Results) -> str:
    """Say in one line which indicators of masked gradients are reported."""
    reported = [record.name for record in results.masking if record.reported]
    measured = sum(record.measured is not None for record in results.masking)
    return f"{MASKING}: {', '.join(reported) or 'none'} ({measured} of {len(results.masking)} measured)"


def between(record: GapRecord) -> str:
    """Write the 95 % interval of a gap in points."""
    return f"{numbers.points(100 * record.low)} to {numbers.points(100 * record.high)}"


def _is_drop(gate: GateRecord) -> bool:
    return gate.text.startswith("max-drop")


def _is_cost(gate: GateRecord) -> bool:
    return gate.text.startswith("max-cost")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def classes_shown(results: Results) -> str:
    """Say which of many classes have a row or a bar of their own; empty where all do."""
    count = len(results.classes)
    if count <= MOST_CLASSES:
        return ""
    return (
        f"Of {count:,} classes the {MOST_CLASSES} with images on which {results.reference} is worst are shown, set by set; "
        "results.json has all of them."
    )

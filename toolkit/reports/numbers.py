"""Numbers and names as people read them: fractions become percent here and nowhere else."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from edgeproof.evaluation.metrics import Rate
from edgeproof.evaluation.results import Results

UNDEFINED = "undefined"
#: Control characters, line separators, bidirectional overrides, lone surrogates and what XML 1.0 forbids.
_INVISIBLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


def percent(value: float | None) -> str:
    """Write a fraction as `87.3 %`, or `undefined`."""
    return _defined(value, lambda number: f"{100 * number:.1f} %")


def interval(rate: Rate) -> str:
    """Write the 95 % interval of a rate in percent, as `84.1–89.8`; empty when there is none."""
    if rate.low is None or rate.high is None:
        return ""
    return f"{100 * rate.low:.1f}–{100 * rate.high:.1f}"


def hits(rate: Rate) -> str:
    """Write the counts behind a rate, as `471/540`."""
    return f"{rate.hits}/{rate.total}"


def share(rate: Rate) -> str:
    """Write a rate in percent so that only all of them are 100 %: 9,999 of 10,000 is `99.99 %`."""
    missing = rate.total - rate.hits
    digits = 1 if not missing or not rate.total else max(1, math.ceil(math.log10(rate.total / (200 * missing))))
    return _defined(rate.value, lambda number: f"{100 * number:.{digits}f} %")


def relative(value: float | None) -> str:
    """Write a relative difference, which is in percent already; `undefined` where the clean accuracy is 0."""
    return _defined(value, lambda number: f"{_decimal(number, 1)} %")


def points(value: float | None) -> str:
    """Write a difference of percentages, in points, with a true minus sign."""
    return _defined(value, lambda number: _decimal(number, 1))


def plain(value: float | None) -> str:
    """Write what has no unit, with a true minus sign."""
    return _defined(value, lambda number: _decimal(number, 3))


def drop(value: float | None) -> str:
    """Write a difference of fractions in points, as `2.0 points`."""
    return _defined(value, lambda number: f"{_decimal(100 * number, 1)} points")


def cost(value: float | None) -> str:
    """Write a cost per image, in the unit of the cost matrix."""
    return _defined(value, lambda number: f"{number:.3f}")


def p_value(value: float) -> str:
    """Write a p value: `0.042`, or `< 0.001`."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def ratio(value: float | None) -> str:
    """Write a ratio with two decimals, or `undefined`."""
    return _defined(value, lambda number: f"{number:.2f}")


def per_second(value: float) -> str:
    """Write a throughput with three significant digits and thousands separated, as `12,300` or `4.56`."""
    digits = 2 - math.floor(math.log10(value)) if value > 0 else 0
    return f"{round(value, digits):,.{max(digits, 0)}f}"


def size(count: int) -> str:
    """Write a number of bytes, as `1.4 MB`."""
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


def pairs(values: Mapping[str, Any]) -> str:
    """Write a mapping on one line, without what is not set, as `steps 20, restarts 1`."""
    return ", ".join(f"{key} {_value(value)}" for key, value in values.items() if value not in (None, "", (), [], {}))


def visible(text: str) -> str:
    r"""Show characters that a terminal would obey, XML forbids or a reader cannot see as their escapes, as `\x1b`."""
    return _INVISIBLE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def visible_results(results: Results) -> Results:
    """Return the results with every name and sentence made visible, whoever chose it."""
    return Results.model_validate(_visible(results.model_dump()))


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _visible(value: Any) -> Any:
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, dict):
        return {visible(str(key)): _visible(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return tuple(_visible(item) for item in value)
    return value


def _defined(value: float | None, write: Callable[[float], str]) -> str:
    return UNDEFINED if value is None or math.isnan(value) else write(value)


def _decimal(value: float, digits: int) -> str:
    text = f"{value:.{digits}f}"
    return text.replace("-", "−" if float(text) else "")

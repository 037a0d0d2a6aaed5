"""The parts of all configurations: strict records, numbers that may be fractions, budgets, when an option counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict

from edgeproof.config.reading import parse_number
from edgeproof.errors import ConfigError

MAX_SEED = 2**63 - 1
Number = Annotated[float, BeforeValidator(parse_number)]


@dataclass(frozen=True)
class Counts:
    """When options have an effect; where they have none, giving them is an error.

    Attributes:
        options: Dotted names of fields; that of a nested record stands for all its fields.
        when: Whether they have an effect in a configuration.
        because: Why they have none otherwise, a format string of the configuration, such as "the optimizer is {0.optimizer}".
        add: What to add so that they have one; "" where nothing would do.
    """

    options: tuple[str, ...]
    when: Callable[[Any], bool]
    because: str
    add: str = ""


class Strict(BaseModel):
    """A model that refuses unknown keys and cannot be changed.

    Attributes:
        counts: The options that have an effect only under a condition.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())
    counts: ClassVar[tuple[Counts, ...]] = ()


def uses_processor(config: Any) -> bool:
    """Return whether the engines of a configuration may run on the processor: a TensorRT plan does not."""
    return not config.engines or not all(engine.endswith(".plan") for engine in config.engines)


def check_eps(eps: float, *, norm: str) -> float:
    """Refuse a budget that cannot be meant.

    Raises:
        ConfigError: When eps is negative or not finite, or an L-infinity budget is over 1, the whole pixel range.
    """
    if not 0 <= eps < float("inf"):
        raise ConfigError(f"eps = {eps:g} is not a budget; expected a number from 0 on, such as 8/255")
    if norm == "linf" and eps > 1:
        raise ConfigError(
            f"eps = {eps:g} is more than the whole pixel range, since images are in [0, 1]; did you mean {eps:g}/255?"
        )
    return eps


def format_eps(eps: float) -> str:
    """Write a budget as users write it: a short decimal where it is one, `8/255` where it is a number of grey levels."""
    short = f"{eps:g}"
    if float(short) == eps and len(short) <= 4:
        return short
    levels = eps * 255 if eps < 1 else 0.0
    whole = round(levels)
    return f"{whole}/255" if whole and abs(levels - whole) < 1e-6 else short

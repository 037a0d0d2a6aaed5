"""What `set.json` and `poison.json` say: read from run folders, which may be untrusted, and so checked against a shape."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from edgeproof.config import Strict


class SetFields(Strict):
    """What is known of one adversarial set besides its images: `AdversarialSet` holds it, `set.json` and `results.json` store it."""

    name: str
    attack: str | None
    norm: str | None
    eps: float | None = Field(ge=0, allow_inf_nan=False)
    pixels: str
    params: dict[str, Any]
    source: str = ""
    indicators: dict[str, float]
    access: str = Field("", description="what the attack needed of its source: gradients, queries, data, none")
    source_sha256: tuple[str, ...] = Field((), description="hash of each file that was attacked")
    findings: dict[str, Any] = Field(
        {}, description="counts: success against queries, what only one of two builds gets wrong"
    )


class SetAbout(SetFields):
    """`set.json` of an attack run."""

    attack: str
    norm: str
    eps: float = Field(ge=0, allow_inf_nan=False)
    classes: tuple[str, ...]
    data: str
    split: str
    clipped: bool = True


class PoisonAbout(Strict):
    """`poison.json` of a poison run, as `PoisonedImages` describes it."""

    data: str
    classes: tuple[str, ...]
    eps: float = Field(ge=0, allow_inf_nan=False)
    method: str
    target: tuple[int, ...] | None
    flipped: bool

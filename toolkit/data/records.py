"""What `set.json` and `poison.json` say: read from run folders, which may be a stranger's, and so held to a shape."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from edgeproof.config import Strict


class SetAbout(Strict):
    """`set.json` of an attack run, as `AdversarialSet` describes it."""

    name: str
    attack: str
    norm: str
    eps: float = Field(ge=0, allow_inf_nan=False)
    source: str = ""
    params: dict[str, Any]
    pixels: str
    indicators: dict[str, float]
    classes: tuple[str, ...]
    data: str
    split: str
    clipped: bool = True
    access: str = ""
    source_sha256: tuple[str, ...] = ()
    findings: dict[str, Any] = Field(default_factory=dict)


class PoisonAbout(Strict):
    """`poison.json` of a poison run, as `PoisonedImages` describes it."""

    data: str
    classes: tuple[str, ...]
    eps: float = Field(ge=0, allow_inf_nan=False)
    method: str
    target: tuple[int, ...] | None
    flipped: bool

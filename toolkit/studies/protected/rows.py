"""The ways of training that the study of protected classes compares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_HALF_CLEAN = {"steps": 1, "random_start": False, "clean": 0.5}


@dataclass(frozen=True)
class Row:
    """One way of training.

    Attributes:
        objective: Registry name.
        params: Of the objective, besides `eps`, costs and weights of penalties.
        start: The row whose weights it starts from; None for fresh ones.
        attacks: Whether its objective takes `eps`.
        side: Half of the cost matrix, where it knows the protected class; it is then trained once for each.
        penalised: Whether it takes the weights `conv1` and `conv2`.
    """

    objective: str
    params: Mapping[str, Any] = field(default_factory=dict)
    start: str | None = "normal"
    attacks: bool = False
    side: str | None = None
    penalised: bool = False


ROWS: Mapping[str, Row] = {
    "normal": Row("standard", start=None),
    "normal-continued": Row("standard"),
    "adv": Row("adversarial", _HALF_CLEAN, attacks=True),
    "adv-continued": Row("adversarial", _HALF_CLEAN, start="adv", attacks=True),
    "csa-both": Row("cost-sensitive", start="adv", attacks=True, side="both"),
    "csa-miss": Row("cost-sensitive", start="adv", attacks=True, side="miss"),
    "csa-false-alarm": Row("cost-sensitive", start="adv", attacks=True, side="false-alarm"),
    "cse": Row("min-max", side="both", penalised=True),
    "sparse-only": Row("min-max", {"cost_weight": 0.0}, penalised=True),
    "cost-only": Row("min-max", {"conv1": 0.0}, side="both"),
    "l2-conv1": Row("min-max", {"penalty": "l2"}, side="both", penalised=True),
    "pgd-at": Row("adversarial", {"steps": 7, "clean": 0.5}, start="adv", attacks=True),
    "trades": Row("trades", start="adv", attacks=True),
    "cfa": Row("class-wise", {"rule": "cfa"}, start="adv", attacks=True),
    "dafa": Row("class-wise", {"rule": "dafa"}, start="adv", attacks=True),
    "worst-class": Row("class-wise", {"rule": "worst"}, start="adv", attacks=True),
}

"""An attack with everything chosen, and the refusal of choices that make no sense."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from edgeproof.attacks.base import AttackSpec, Draws, check_contract, parse_stop
from edgeproof.attacks.norms import BALLS
from edgeproof.config import check_eps
from edgeproof.errors import AttackContractError, ConfigError
from edgeproof.ops import LEVELS, to_grid, to_grid_inwards, universal_apply
from edgeproof.plugins.parameters import read_params
from edgeproof.plugins.registry import CALLERS
from edgeproof.types import LogitsFn, Pixels

if TYPE_CHECKING:
    from edgeproof.attacks.fitting import FitCheckpoint
    from edgeproof.attacks.queries import QueryTrace


@dataclass(frozen=True)
class Attack:
    """What is done to each batch.

    Attributes:
        spec: What the attack promises.
        eps: Its budget in [0, 1] pixel units.
        params: All its parameters, defaults resolved.
        pixels: "uint8" brings its images to the 8-bit grid, inside the budget.
        stop: "never", "first" or "margin=K": when an image has been attacked enough.
        deployed: The second build, for an attack on the difference between two.
        perturbation: (P, C, H, W), what a universal attack adds: the same to all images, or one per class; None until it is fitted.
    """

    spec: AttackSpec
    eps: float
    params: Mapping[str, Any]
    pixels: Pixels = "float"
    stop: str = "never"
    deployed: LogitsFn | None = None
    perturbation: Tensor | None = None

    @property
    def radius(self) -> float:
        """How far an image may be moved."""
        return self.spec.radius(self.eps, self.params)

    def run(self, model: LogitsFn, x: Tensor, y: Tensor, *, draws: Draws, trace: QueryTrace | None = None) -> Tensor:
        """Attack one batch (N, C, H, W) with its classes (N,) and check what comes back; `trace` notes each query.

        Raises:
            AttackContractError: When the attack breaks its promise.
        """
        if self.spec.access == "data":
            if self.perturbation is None:
                raise ConfigError(
                    f"attack {self.spec.name!r} is fitted on training images first; run it as `attack {self.spec.name}`"
                )
            which = torch.zeros_like(y) if len(self.perturbation) == 1 else y
            return self.finish(x, universal_apply(x, self.perturbation.to(x.dtype), which))
        if not len(x):  # many graphs take no empty batch
            return x.clone()
        offered = {"deployed": self.deployed, "stop": self.stop, "draws": draws, "trace": trace}
        taken = {name: value for name, value in offered.items() if self.spec.takes(name)}
        version = x._version
        x_adv = self.spec.function(model, x, y, eps=self.eps, **self.params, **taken)
        if x._version != version or x.requires_grad:  # the budget would be measured from what it has made of them
            raise AttackContractError(
                f"attack {self.spec.name!r} changed the clean images in place; expected it to begin with x.clone()"
            )
        return self.finish(x, x_adv)

    def fit(
        self, model: LogitsFn, x: Tensor, y: Tensor, *, draws: Draws, checkpoint: FitCheckpoint | None = None
    ) -> Tensor:
        """Return the perturbations (P, C, H, W) of a universal attack, fitted on these images; `checkpoint` keeps how far it has come."""
        return self.spec.function(model, x, y, eps=self.eps, **self.params, checkpoint=checkpoint, draws=draws)

    def finish(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """Check an attack's images, and bring them to the 8-bit grid where that was chosen.

        Raises:
            AttackContractError: When the attack breaks its promise.
        """
        check_contract(self.spec, x, x_adv, eps=self.radius)
        if self.pixels == "uint8":
            x_adv = to_grid(x_adv, x, eps=self.radius) if self.spec.norm == "linf" else to_grid_inwards(x_adv, x)
            check_contract(self.spec, x, x_adv, eps=self.radius, pixels="uint8")
        return x_adv


def run_sweep(attacks: Sequence[Attack], model: LogitsFn, x: Tensor, y: Tensor, *, draws: Draws) -> list[Tensor]:
    """Run a nested attack at several budgets, which differ in `eps` alone, in one search.

    Args:
        attacks: The budgets.
        model: The source model.
        x: Clean images, (N, C, H, W).
        y: True classes, (N,).
        draws: Random numbers.

    Returns:
        The images of each attack, the same as it would give alone.

    Raises:
        AttackContractError: When the attack breaks its promise.
    """
    widest = max(attacks, key=lambda attack: attack.eps)
    found = replace(widest, pixels="float").run(model, x, y, draws=draws)
    project = BALLS[widest.spec.norm].project
    return [attack.finish(x, project(found, x, eps=attack.eps)) for attack in attacks]


def choose_attack(
    spec: AttackSpec,
    *,
    eps: float,
    params: Mapping[str, Any],
    pixels: Pixels = "float",
    stop: str = "never",
    deployed: LogitsFn | None = None,
) -> Attack:
    """Read an attack's parameters and refuse what it cannot do.

    Raises:
        ConfigError: For a budget that cannot be meant, an unknown parameter, or a combination without sense.
    """
    check_eps(eps, norm=spec.norm)
    parse_stop(stop)
    if spec.takes("deployed") != (deployed is not None):
        raise ConfigError(
            f"attack {spec.name!r} is between two builds; name the second one with --deployed FILE.onnx"
            if deployed is None
            else f"attack {spec.name!r} takes one source model; drop --deployed"
        )
    if stop != "never" and not spec.takes("stop"):
        raise ConfigError(f"attack {spec.name!r} has no steps after which an image could leave; drop stop = {stop!r}")
    if pixels == "uint8" and not spec.box:
        raise ConfigError(
            f"attack {spec.name!r} does not clip to [0, 1], so its images have no 8-bit form; use pixels = float"
        )
    if pixels == "uint8" and spec.norm == "linf" and eps * LEVELS < 1 - 1e-6:
        raise ConfigError(f"eps = {eps:g} is less than one 8-bit level, 1/255: no pixel could move; use pixels = float")
    return Attack(spec, eps, read_params(spec.entry, params, skip=CALLERS["attack"]), pixels, stop, deployed)

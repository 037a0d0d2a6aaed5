"""What an attack is: its specification, its randomness, and the contract that its caller checks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from edgeproof.errors import AttackContractError, ConfigError
from edgeproof.ops import LEVELS, l2_norm
from edgeproof.plugins.registry import Entry, find
from edgeproof.types import Array, Norm, Pixels

Access: TypeAlias = Literal["gradients", "queries", "data", "none"]
Budget: TypeAlias = Literal["eps", "steps*eps"]

#: Rounding that a float image may show over its budget, per pixel: about eight units in the last place of float32 at 1.
TOLERANCE = 1e-6


@dataclass(frozen=True)
class AttackSpec:
    """What is promised of an attack, from the literals of its `register`.

    Attributes:
        name: Registry name.
        norm: "linf" or "l2".
        access: What it needs of the model: "gradients", "queries", "data" (other images too) or "none".
        box: Whether its images stay in [0, 1]. Only the reproduction of a paper that did not clip says no.
        budget: How far its images may be from the clean ones: "eps", or "steps*eps" where nothing is projected.
        nested: Whether its images at a smaller eps are the projection of those at a larger one, so that one search
            serves every eps of a sweep.
        entry: Where it is registered.
        least_classes: Classes that the model must have for its loss to be defined.
    """

    name: str
    norm: Norm
    access: Access
    entry: Entry
    box: bool = True
    budget: Budget = "eps"
    nested: bool = False
    least_classes: int = 2

    @property
    def function(self) -> Callable[..., Tensor]:
        """The attack itself."""
        return self.entry.load()

    def takes(self, parameter: str) -> bool:
        """Whether the attack has this parameter."""
        return any(param.name == parameter for param in self.entry.params)

    def radius(self, eps: float, params: Mapping[str, Any]) -> float:
        """Return how far the images may be from the clean ones, in the attack's norm."""
        return eps * int(params["steps"]) if self.budget == "steps*eps" else eps


def find_attack(name: str) -> AttackSpec:
    """Return the attack of that registry name.

    Raises:
        ConfigError: When there is none; the nearest name is offered.
    """
    entry = find("attack", name)
    return AttackSpec(name=name, entry=entry, **entry.options)


@dataclass(frozen=True)
class Draws:
    """Random numbers that belong to a sample, not to its place in a batch.

    Each number is a pure function of (seed, sample index, restart, stream, position), by the counter-based generator
    Philox-4x32-10 (Salmon et al., 2011), computed on the processor. So it depends on neither batch size, order, sharding
    nor device, and images that leave a batch change nothing for those that stay.

    Attributes:
        seed: From 0 to 2**64 - 1.
        index: (N,) int64, the samples' positions in their data set, below 2**32.
        restart: Which restart of the attack is drawing.
    """

    seed: int
    index: Array
    restart: int = 0

    def uniform(self, stream: int, shape: tuple[int, ...]) -> Tensor:
        """Return (N, *shape) float32 in [0, 1), on the processor; multiples of 2**-24, so exact in float64 too.

        Args:
            stream: Which of an attack's draws this is; equal streams give equal numbers.
            shape: Of the numbers of one sample.
        """
        count = math.prod(shape)
        blocks = np.arange(-(-count // 4), dtype=np.uint32)[None, :]
        samples = np.asarray(self.index).astype(np.uint32)[:, None]
        words = philox((blocks, samples, np.uint32(stream), np.uint32(self.restart)), seed=self.seed)
        numbers = (words >> np.uint32(8)).astype(np.float32) * np.float32(2**-24)
        flat = numbers.reshape(len(samples), 4 * blocks.size)[:, :count]
        return torch.from_numpy(np.ascontiguousarray(flat)).reshape(len(samples), *shape)

    def take(self, positions: Tensor) -> Draws:
        """Return the draws of the samples at these positions of the batch."""
        return replace(self, index=self.index[positions.cpu().numpy()])

    def restarted(self, restart: int) -> Draws:
        """Return the draws of another restart."""
        return replace(self, restart=restart)


def philox(counter: tuple[Any, Any, Any, Any], *, seed: int) -> Array:
    """Return Philox-4x32-10 of counters that broadcast to a common shape: uint32 of that shape and four words more."""
    c0, c1, c2, c3 = np.broadcast_arrays(*(np.asarray(word, np.uint32) for word in counter))
    k0, k1 = seed & 0xFFFFFFFF, seed >> 32
    for _ in range(10):
        high0, low0 = _multiply(0xD2511F53, c0)
        high1, low1 = _multiply(0xCD9E8D57, c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ np.uint32(k0), low1, high0 ^ c3 ^ np.uint32(k1), low0
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=-1)


def _multiply(factor: int, words: Array) -> tuple[Array, Array]:
    product = words.astype(np.uint64) * np.uint64(factor)
    return (product >> np.uint64(32)).astype(np.uint32), product.astype(np.uint32)


def draws_of(draws: Draws | None, x: Tensor) -> Draws:
    """Return the draws, or where a caller gave none those of seed 0 with the batch's own positions as indices."""
    return draws if draws is not None else Draws(seed=0, index=np.arange(len(x)))


def distance(x: Tensor, x_adv: Tensor, *, norm: Norm) -> Tensor:
    """Return how far each image has been moved, (N,) float64."""
    delta = x_adv.double() - x.double()
    return delta.abs().flatten(1).amax(1) if norm == "linf" else l2_norm(delta).flatten()


def check_contract(spec: AttackSpec, x: Tensor, x_adv: Tensor, *, eps: float, pixels: Pixels = "float") -> None:
    """Refuse images that break what the attack promises; every caller of an attack runs this.

    Args:
        spec: The attack.
        x: Clean images, (N, C, H, W).
        x_adv: What the attack made of them.
        eps: How far they may be: `spec.radius(eps, params)`. On float images rounding may add 1e-6 to a pixel; on the
            8-bit grid, where the images are whole levels, nothing is added beyond what float32 cannot write.
        pixels: "uint8" asks for whole levels too.

    Raises:
        AttackContractError: For another shape or type, a gradient that is still carried, NaN, a value outside [0, 1], an image outside its budget or a
            pixel off the grid. The message has the number.
    """
    if x_adv.shape != x.shape or x_adv.dtype != x.dtype:
        raise AttackContractError(
            f"attack {spec.name!r} returned {x_adv.dtype} of shape {tuple(x_adv.shape)}; "
            f"expected {x.dtype} of shape {tuple(x.shape)}"
        )
    if x_adv.requires_grad:
        raise AttackContractError(
            f"attack {spec.name!r} returned images that still carry a gradient; expected x_adv.detach()"
        )
    if not x.numel():
        return
    if not bool(torch.isfinite(x_adv).all()):
        raise AttackContractError(f"attack {spec.name!r} returned NaN or infinite pixels; expected finite ones")
    if spec.box and (float(x_adv.min()) < 0 or float(x_adv.max()) > 1):
        raise AttackContractError(
            f"attack {spec.name!r} left the pixel range: [{float(x_adv.min()):g}, {float(x_adv.max()):g}]; expected [0, 1]"
        )
    _check_budget(spec, x, x_adv, eps=eps)
    if pixels == "uint8":
        _check_grid(spec, x, x_adv, eps=eps)


def _check_budget(spec: AttackSpec, x: Tensor, x_adv: Tensor, *, eps: float) -> None:
    # Under L2 every pixel may be rounded by half a unit in the last place, and the norm itself by a few.
    tolerance = TOLERANCE if spec.norm == "linf" else TOLERANCE * (1 + eps) + 2**-24 * math.sqrt(x[0].numel())
    worst = float(distance(x, x_adv, norm=spec.norm).max())
    if worst > eps + tolerance:
        what = "max |x_adv - x|" if spec.norm == "linf" else "||x_adv - x||_2"
        raise AttackContractError(f"attack {spec.name!r} left its budget: {what} = {worst:.7f} > eps = {eps:.7f}")


def _check_grid(spec: AttackSpec, x: Tensor, x_adv: Tensor, *, eps: float) -> None:
    levels = torch.round(x_adv * LEVELS)
    if not torch.equal(levels.div(LEVELS), x_adv):
        raise AttackContractError(f"attack {spec.name!r} left the 8-bit grid: a pixel is no k/255 with whole k")
    if spec.norm == "linf":
        # Whole levels over a float64 bound: what is over it by a level at all is over it by far more than 1e-4.
        moved = float((levels.double() - x.double() * LEVELS).abs().max())
        if moved > eps * LEVELS + 1e-4:
            raise AttackContractError(
                f"attack {spec.name!r} moved a pixel by {moved:.4f} levels; expected at most {eps * LEVELS:.4f} (eps = {eps:g})"
            )


def parse_stop(text: str) -> float:
    """Return the margin over which an image has been attacked enough: 0 for "first", K for "margin=K", inf for "never".

    Raises:
        ConfigError: For another text.
    """
    word, equals, value = text.partition("=")
    if text in ("never", "first"):
        return math.inf if text == "never" else 0.0
    try:
        margin = float(value)
    except ValueError:
        margin = math.nan
    if word != "margin" or not equals or not 0 <= margin < math.inf:
        raise ConfigError(f"stop = {text!r} is not known; expected never, first or margin=K with K from 0 on")
    return margin


def check_positive(**values: float | None) -> None:
    """Refuse parameters that must be above 0; None, which stands for a default, passes.

    Raises:
        ConfigError: For the first one that is not.
    """
    for name, value in values.items():
        if value is not None and not value > 0:
            raise ConfigError(f"{name} = {value:g}; expected more than 0")

"""The search that all iterative attacks share: observe, keep the worst image found, let finished images go, move."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

import torch
from torch import Tensor

from edgeproof.attacks.base import Draws, parse_stop
from edgeproof.attacks.losses import goal_margin
from edgeproof.errors import ConfigError
from edgeproof.source_model.gradients import ForwardPass, Loss
from edgeproof.types import Direction

if TYPE_CHECKING:
    from edgeproof.types import LogitsFn

Keep: TypeAlias = Literal["best", "last"]
B = TypeVar("B", bound="Batch")


@dataclasses.dataclass(frozen=True)
class Batch:
    """The images still under attack, one row an image; an attack that carries more along adds fields.

    Attributes:
        rows: (n,) int64, their positions in the whole batch.
        x: Clean images, (n, C, H, W).
        y: The class whose loss is followed, (n,).
        x_adv: Where the search stands.
        draws: Their random numbers.
    """

    rows: Tensor
    x: Tensor
    y: Tensor
    x_adv: Tensor
    draws: Draws

    def __len__(self) -> int:
        return len(self.rows)

    def take(self: B, kept: Tensor) -> B:
        """Return the images at these positions, with all that is carried along."""
        changes: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            changes[field.name] = value.take(kept) if isinstance(value, Draws) else value[kept]
        return dataclasses.replace(self, **changes)


class Worst:
    """The worst image found so far for each clean one, over steps, restarts and attacks.

    How bad an image is comes from its logits and class: `goal` where one is given, else how far it is out of class y
    (ascent) or in it (descent).

    Attributes:
        images: (N, C, H, W); the clean image where nothing has been offered yet.
        margin: (N,), how far beyond the attack's goal each is; positive where the model is fooled.
    """

    def __init__(self, x: Tensor, y: Tensor, *, direction: Direction, stop: str, goal: Loss | None = None) -> None:
        self.images = x.clone()
        self.margin = torch.full((len(x),), -math.inf, dtype=x.dtype, device=x.device)
        self._y = y
        self._goal = goal or partial(goal_margin, direction=direction)
        self._enough = parse_stop(stop)

    @property
    def stops(self) -> bool:
        """Whether images leave the batch at all. Where they do not, nothing waits for the device."""
        return self._enough < math.inf

    def offer(self, rows: Tensor, images: Tensor, logits: Tensor) -> None:
        """Keep the images that are worse than what was found before."""
        margin = self._goal(logits, self._y[rows]).to(self.margin.dtype)
        worse = margin > self.margin[rows]
        self.images[rows] = torch.where(worse.view(-1, 1, 1, 1), images, self.images[rows])
        self.margin[rows] = torch.where(worse, margin, self.margin[rows])

    def settle(self, rows: Tensor, images: Tensor) -> None:
        """Keep these images whatever they do to the model."""
        self.images[rows] = images

    def open(self, rows: Tensor) -> Tensor:
        """Return which of these rows, as positions among them, are to be attacked further."""
        return torch.nonzero(self.margin[rows] <= self._enough).flatten()


def search(
    model: LogitsFn,
    batch: B,
    *,
    observe: Callable[[B, int], ForwardPass],
    move: Callable[[B, ForwardPass, int], B],
    steps: int,
    worst: Worst,
    keep: Keep = "best",
    lunge: Callable[[B, ForwardPass], Tensor] | None = None,
) -> None:
    """Attack a batch for a number of steps.

    Args:
        model: The model; asked once more for the last images.
        batch: Where the search starts.
        observe: Loss and gradient at the batch, at a step.
        move: The batch after one step.
        steps: Number of gradients.
        worst: What every image is offered to; it says which ones are done and leave the batch.
        keep: "best" offers the images of every step; "last" keeps those after the last one, unseen.
        lunge: Images that the first gradient suggests, offered too where images may leave: one pass forwards that spares
            most images of an undefended model the rest. The search goes on from where it was.
    """
    for step in range(steps):
        seen = observe(batch, step)
        if keep == "best":
            worst.offer(batch.rows, batch.x_adv, seen.logits)
        if worst.stops:
            batch, seen = _without_done(batch, seen, step, observe=observe, worst=worst)
            if lunge and step == 0:
                batch, seen = _after_lunge(model, batch, seen, lunge(batch, seen), worst=worst)
            if not len(batch):
                return
        batch = move(batch, seen, step)
    if keep == "last":
        worst.settle(batch.rows, batch.x_adv)
    else:
        with torch.no_grad():
            worst.offer(batch.rows, batch.x_adv, model(batch.x_adv))


def _without_done(
    batch: B, seen: ForwardPass, step: int, *, observe: Callable[[B, int], ForwardPass], worst: Worst
) -> tuple[B, ForwardPass]:
    """Let the images go that are done."""
    kept = worst.open(batch.rows)
    if len(kept) == len(batch):
        return batch, seen
    fewer = batch.take(kept)
    # Running a few images forwards again (1 part) and backwards (2) costs less than all of them backwards.
    few = 0 < 3 * len(kept) < 2 * len(batch)
    return fewer, observe(fewer, step) if few else seen.take(kept)


def _after_lunge(
    model: LogitsFn, batch: B, seen: ForwardPass, images: Tensor, *, worst: Worst
) -> tuple[B, ForwardPass]:
    with torch.no_grad():
        worst.offer(batch.rows, images, model(images))
    kept = worst.open(batch.rows)
    return batch.take(kept), seen.take(kept)


def restarted(
    x: Tensor,
    y: Tensor,
    *,
    attempt: Callable[[Batch], object],
    start: Callable[..., Tensor] | None,
    restarts: int,
    worst: Worst,
    draws: Draws,
) -> None:
    """Attack anew from several starts, each time only the images that are not done.

    Args:
        x: Clean images.
        y: The class whose loss is followed.
        attempt: One search, which offers what it finds to `worst`.
        start: Called with clean images and their `draws` for the starting points, or None to start at the clean images.
        restarts: Number of attempts.
        worst: Collects the images.
        draws: Random numbers; each attempt has its own.

    Raises:
        ConfigError: For several equal attempts.
    """
    if restarts > 1 and start is None:
        raise ConfigError(f"restarts = {restarts} without a random start repeat the same search; expected restarts = 1")
    every = torch.arange(len(x), device=x.device)
    for restart in range(restarts):
        rows = every[worst.open(every)] if worst.stops else every
        if len(rows):
            mine = draws.take(rows).restarted(restart)
            clean = x[rows]
            attempt(Batch(rows, clean, y[rows], start(clean, draws=mine) if start else clean, mine))


def check_keep(keep: Keep, *, restarts: int, stop: str) -> None:
    """Refuse options that contradict each other.

    Raises:
        ConfigError: When only the last iterate counts and images are to leave early or several restarts compete.
    """
    if keep == "last" and (stop != "never" or restarts > 1):
        raise ConfigError(f"keep = 'last' needs restarts = 1 and stop = 'never', not {restarts} and {stop!r}")

"""The loop of all attacks that take steps: look, keep the best adversary so far, let finished images go, move.

With `stop="never"`, which is the default, it is what the papers have:

    x_adv = start(x)
    for number in range(steps):
        seen = gradient(x_adv)                  # one pass forwards, and backwards when the gradient is asked for
        best.update(x_adv, seen.logits)         # each image keeps its worst iterate
        x_adv = step(x_adv, seen.grad, x)       # e.g. clip(x_adv + step_size * sign(grad), x - eps, x + eps)
    best.update(x_adv, model(x_adv))

With "first" or "margin=K" images leave the batch once they are misclassified (by that margin), which saves most of the work on an
undefended model and changes nothing for those that stay: all that is drawn or remembered belongs to an image.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from edgeproof.attacks.base import Draws, draws_of, parse_stop
from edgeproof.attacks.losses import goal_margin
from edgeproof.attacks.options import IterativeOptions
from edgeproof.errors import ConfigError
from edgeproof.source_model.gradients import ForwardPass, Loss
from edgeproof.types import Direction, LogitsFn

B = TypeVar("B", bound="Batch")


@dataclasses.dataclass(frozen=True)
class Batch:
    """The images still under attack, one row per image; an attack that carries more along adds fields.

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


class BestAdversarial:
    """The best adversarial image found so far for each clean one, over steps, restarts and attacks.

    How good one is comes from its logits and class: `goal` where one is given, else how far it is out of class y (ascent) or in
    it (descent).

    Attributes:
        images: (N, C, H, W); the clean image where nothing has been found yet.
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

    def update(self, rows: Tensor, images: Tensor, logits: Tensor) -> None:
        """Keep the images that are better than what was found before."""
        margin = self._goal(logits, self._y[rows]).to(self.margin.dtype)
        better = margin > self.margin[rows]
        self.images[rows] = torch.where(better.view(-1, 1, 1, 1), images, self.images[rows])
        self.margin[rows] = torch.where(better, margin, self.margin[rows])

    def finalize(self, rows: Tensor, images: Tensor) -> None:
        """Keep these images whatever they do to the model."""
        self.images[rows] = images

    def active(self, rows: Tensor) -> Tensor:
        """Return which of these rows, as positions among them, are to be attacked further."""
        if not self.stops:
            return torch.arange(len(rows), device=rows.device)
        return torch.nonzero(self.margin[rows] <= self._enough).flatten()


def iterate(
    model: LogitsFn,
    x: Tensor,
    y: Tensor,
    options: IterativeOptions,
    *,
    gradient: Callable[[B, int], ForwardPass],
    step: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
    move: Callable[[B, ForwardPass, int], B] | None = None,
    start: Callable[..., Tensor] | None = None,
    full_step: Callable[[B, ForwardPass], Tensor] | None = None,
    begin: Callable[[Batch], B] = lambda batch: batch,  # type: ignore[assignment,return-value]
    goal: Loss | None = None,
) -> Tensor:
    """Attack a batch, from several starts and for a number of steps each.

    Args:
        model: The model; asked itself for the last images alone.
        x: Clean images, (N, C, H, W).
        y: The class whose loss is followed, (N,).
        options: Which images are kept, when they leave, and how often all of this is done.
        gradient: Loss and gradient at the batch, at a step.
        step: Iterates, gradients and clean images to the next iterates: one of `ops`, with its options.
        move: In its place the batch after a step, for an attack that carries more along.
        start: Called with clean images and their `draws` for the starting points; None starts at the clean images.
        full_step: Images one whole budget along the first gradient, tried too where images may leave: one pass forwards that
            spares most images of an undefended model the rest. The search goes on from where it was.
        begin: Adds to a batch what an attack carries along.
        goal: Of the logits and `y`: how good an adversary is, where it is not how far it is out of (or in) class y.

    Returns:
        The best adversarial image of each, or with `keep="last"` the last.

    Raises:
        ConfigError: For several equal attempts.
    """
    if (step is None) == (move is None):
        raise TypeError("iterate takes a step or a move, one of them")
    if options.restarts > 1 and start is None:
        raise ConfigError(
            f"restarts = {options.restarts} without a random start repeat the same search; expected restarts = 1"
        )
    best = BestAdversarial(x, y, direction=options.direction, stop=options.stop, goal=goal)
    draws, every = draws_of(options.draws, x), torch.arange(len(x), device=x.device)
    for restart in range(options.restarts):
        rows = best.active(every)
        if not len(rows):
            break
        clean, own = x[rows], draws.take(rows).restarted(restart)
        batch = begin(Batch(rows, clean, y[rows], start(clean, draws=own) if start else clean, own))
        for number in range(options.steps):
            seen = gradient(batch, number)
            if options.keep == "best":
                best.update(batch.rows, batch.x_adv, seen.logits)
            if best.stops:
                kept = best.active(batch.rows)
                if len(kept) < len(batch):
                    # Running a few images forwards again (1 part) and backwards (2) costs less than all of them backwards.
                    few = 0 < 3 * len(kept) < 2 * len(batch)
                    batch = batch.take(kept)
                    seen = gradient(batch, number) if few else seen.take(kept)
                if full_step and number == 0 and len(batch):
                    tried = full_step(batch, seen)
                    with torch.no_grad():
                        best.update(batch.rows, tried, model(tried))
                    kept = best.active(batch.rows)
                    batch, seen = batch.take(kept), seen.take(kept)
                if not len(batch):
                    break
            if step:
                batch = dataclasses.replace(batch, x_adv=step(batch.x_adv, seen.grad, batch.x))
            elif move:
                batch = move(batch, seen, number)
        if options.keep == "last":
            best.finalize(batch.rows, batch.x_adv)
        elif len(batch):
            with torch.no_grad():
                best.update(batch.rows, batch.x_adv, model(batch.x_adv))
    return best.images

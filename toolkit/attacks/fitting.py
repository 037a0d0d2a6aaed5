"""How universal perturbations are fitted: batches of other images, step by step, continued where a killed process stood.

P perturbations are fitted at once. `which` (N,) says which one each image of a batch carries: always the same one, its class's,
or one of several that see different images. One pass through the model serves them all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from edgeproof.attacks.base import Draws
from edgeproof.attacks.labels import followed_class
from edgeproof.data.arrays import read_npz, write_npz
from edgeproof.ops import l2_norm, universal_apply, universal_update
from edgeproof.source_model.gradients import value_and_grad
from edgeproof.system.progress import progress
from edgeproof.types import LogitsFn, Norm

_SAVED_EVERY = 50  # steps; a state is one perturbation in size


@dataclass(frozen=True)
class Batch:
    """Images of one step.

    Attributes:
        x: (N, C, H, W) in [0, 1].
        y: (N,) int64, true classes.
        which: (N,) int64, which perturbation each carries.
    """

    x: Tensor
    y: Tensor
    which: Tensor


#: Logits (N, K), classes (N,) and which perturbation each carries (N,) to one number per image, which grows as the objective is reached.
FitObjective: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]
#: Perturbations (P, C, H, W), a batch and the step to where the perturbations are after it.
Move: TypeAlias = Callable[[Tensor, Batch, int], Tensor]


class BatchSampler:
    """Batches of a data set, the same at each step whoever asks: each pass is in an order of its own.

    Args:
        x: Images to fit on, (N, C, H, W); they stay where they are, and a batch goes to the device of `y`.
        y: Their classes, (N,) int64.
        size: Images that each perturbation sees in a step.
        count: P, or None for one perturbation per class, each of which sees the images of its class in a batch of `size`.
        draws: Random numbers of the orders.
    """

    def __init__(self, x: Tensor, y: Tensor, *, size: int, count: int | None, draws: Draws) -> None:
        self._x, self._y, self._draws = x, y, draws
        self._count = count
        self._size = size * (count or 1)
        self._order = lru_cache(maxsize=2)(self._shuffled)

    def __call__(self, step: int) -> Batch:
        """Return the batch of a step, counted from 0."""
        places = np.arange(step * self._size, (step + 1) * self._size)
        rows = torch.cat(
            [
                self._order(turn)[places[places // len(self._x) == turn] % len(self._x)]
                for turn in range(places[0] // len(self._x), places[-1] // len(self._x) + 1)
            ]
        )
        y = self._y[rows.to(self._y.device)]
        which = (
            y
            if self._count is None
            else torch.arange(self._count, device=y.device).repeat_interleave(len(y) // self._count)
        )
        return Batch(self._x[rows.to(self._x.device)].to(y.device), y, which)

    def _shuffled(self, turn: int) -> Tensor:
        return self._draws.uniform(turn, (1,)).flatten().argsort(stable=True)


class FitCheckpoint:
    """Shows how far a fit is, and keeps its state in a file so that a killed one is continued.

    Args:
        path: The file, or None to keep and show nothing.
        title: What is shown.
    """

    def __init__(self, path: Path | None = None, *, title: str = "") -> None:
        self._path, self._title = path, title

    def steps(self, total: int, state: Mapping[str, Tensor]) -> Iterator[int]:
        """Yield the steps that are left, counted from 0; `state` is brought to where an earlier process left it.

        Args:
            total: All steps.
            state: What the next step depends on; changed in place, here and by the caller.
        """
        if self._path is None:
            yield from range(total)
            return
        done = 0
        if self._path.exists():
            saved = read_npz(self._path, required=("done", *state))
            done = int(saved["done"])
            for name, value in state.items():
                value.copy_(torch.from_numpy(saved[name]))
        with progress(self._title, total, done=done) as advance:
            for step in range(done, total):
                yield step
                advance()
                if (step + 1) % _SAVED_EVERY == 0 or step + 1 == total:
                    arrays = {name: value.cpu().numpy() for name, value in state.items()}
                    write_npz(self._path, {"done": np.asarray(step + 1), **arrays})


def fit(
    delta: Tensor,
    sampler: Callable[[int], Batch],
    move: Move,
    *,
    steps: int,
    checkpoint: FitCheckpoint | None = None,
    memory: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """Move perturbations over batches.

    Args:
        delta: Where they start, (P, C, H, W); changed in place.
        sampler: The batch of a step.
        move: One step.
        steps: Number of batches.
        checkpoint: Keeps the state.
        memory: What `move` remembers from step to step, changed in place.

    Returns:
        `delta`.
    """
    for step in (checkpoint or FitCheckpoint()).steps(steps, {"delta": delta, **(memory or {})}):
        delta.copy_(move(delta, sampler(step), step))
    return delta


@dataclass(frozen=True)
class Ascent:
    """A step of all perturbations along the gradient of an objective: of its sign, or normalised under L2.

    The gradient is taken at the perturbed images, as if they were not clipped: a pixel that the clip holds at 0 or 1 in this
    batch still says where it wants to go.

    Attributes:
        model: Gives gradients with respect to its images; treats each image by itself.
        objective: What is ascended.
        norm: Of the budget.
        eps: The budget.
        step_size: Length of the first step.
        steps: The step falls to 0 after so many, along a cosine; None keeps its length.
        label: The class that the objective is about, as `followed_class` reads it.
    """

    model: LogitsFn
    objective: FitObjective
    norm: Norm
    eps: float
    step_size: float
    steps: int | None = None
    label: str = "true"

    def __call__(self, delta: Tensor, batch: Batch, step: int = 0) -> Tensor:
        """Return the perturbations (P, C, H, W) after a step."""
        fallen = 0.0 if self.steps is None else step / self.steps
        rate = self.step_size * (1 + math.cos(math.pi * fallen)) / 2
        x = universal_apply(batch.x, delta, batch.which)
        followed = followed_class(self.model, batch.x, batch.y, label=self.label)
        grad = value_and_grad(
            self.model, x, followed, loss=lambda logits, y: self.objective(logits, y, batch.which)
        ).grad
        return step_along(delta, grad, batch.which, norm=self.norm, eps=self.eps, step_size=rate)


def step_along(delta: Tensor, grad: Tensor, which: Tensor, *, norm: Norm, eps: float, step_size: float) -> Tensor:
    """Move each perturbation by `step_size` along the sum of its images' gradients, inside its ball.

    Args:
        delta: (P, C, H, W).
        grad: (N, C, H, W).
        which: (N,), which perturbation an image carries.
        norm: "linf" takes the sign of the sum, "l2" its direction.
        eps: Radius of the ball around zero.
        step_size: Length of the step in that norm.
    """
    if norm == "linf":
        return universal_update(grad, delta, which, step_size=step_size, eps=eps)
    total = torch.zeros_like(delta).index_add_(0, which, grad)
    return within(delta + step_size * total / l2_norm(total).clamp_(min=1e-30), norm=norm, eps=eps)


def within(delta: Tensor, *, norm: Norm, eps: float) -> Tensor:
    """Bring perturbations (P, C, H, W) into the ball of radius `eps` around zero."""
    if norm == "linf":
        return delta.clamp(-eps, eps)
    return delta * (eps / l2_norm(delta).clamp_(min=1e-30)).clamp_(max=1)


def mean_by_perturbation(values: Tensor, which: Tensor, *, count: int) -> Tensor:
    """Return the mean of (N, K) over the images of each perturbation, (count, K); 0 where it has none."""
    sizes = torch.bincount(which, minlength=count).clamp_(min=1)
    return values.new_zeros(count, values.shape[1]).index_add(0, which, values) / sizes[:, None]

"""Two-stage training against a pool of universal perturbations: fit perturbations to the network, then the network to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from edgeproof.attacks.base import Draws, check_positive
from edgeproof.attacks.fitting import Ascent, BatchSampler, FitObjective, fit
from edgeproof.attacks.objectives import Balanced, clamped_cross_entropy, uniform_histogram
from edgeproof.models.base import Classifier
from edgeproof.plugins.registry import register
from edgeproof.source_model.folding import fast_form
from edgeproof.training.objectives.base import Objective, Task, attacking
from edgeproof.training.objectives.universal import check_budget, perturbed_loss

Kind: TypeAlias = Literal["balanced", "plain"]

_MEMBER = 0  # the stream that chooses an image's perturbation


@register("universal-two-stage", stateful=True)
def universal_two_stage(
    task: Task,
    *,
    eps: float,
    kind: Kind = "balanced",
    added: int = 2,
    pool: int = 6,
    fit_steps: int = 50,
    fit_batch: int = 128,
    step_size: float | None = None,
    tau: float = 2.0,
    kappa: float = 1.0,
    beta: float = 9.0,
    clean: float = 0.5,
    warm_up: int = 1,
) -> Objective:
    """Two-stage universal adversarial training; a reconstruction from the abstract of Ma et al. (IJCNN 2023).

    Before each epoch, with the network frozen, fresh perturbations are fitted from 0 and join a pool that keeps the last few;
    then, with the pool frozen, the network is trained for the epoch on clean images and on images under members of the pool.

    Args:
        task: What is trained on.
        eps: L-infinity budget in pixel units.
        kind: "balanced" fits class-balanced perturbations, as the attack `universal-balanced`; "plain" as `universal`.
        added: Perturbations fitted before each epoch, all at once, each on other images.
        pool: How many are remembered.
        fit_steps: Batches that they are fitted on.
        fit_batch: Images of each in a batch.
        step_size: Length of the first step of the fit (default: eps / 2).
        tau: Weight of the calibration ("balanced").
        kappa: Margin above which an image no longer pulls ("balanced").
        beta: Cross-entropy above which an image no longer pulls ("plain").
        clean: Share of each batch that stays as it is.
        warm_up: Epochs on clean images alone, before the first fit.

    Raises:
        ConfigError: For a budget that cannot be meant, or numbers that are not positive.
    """
    check_budget(eps, clean=clean, step_size=step_size, beta=beta)
    check_positive(added=added, pool=pool, fit_steps=fit_steps, fit_batch=fit_batch, kappa=kappa)
    rate = step_size or eps / 2
    fresh = Fresh(kind, eps, added, fit_steps, fit_batch, rate, tau, kappa, beta)
    return TwoStageTraining(task, fresh, pool=pool, clean=clean, warm_up=warm_up)


@dataclass(frozen=True)
class Fresh:
    """Makes the perturbations of one epoch; the fields are those of `universal_two_stage`."""

    kind: Kind
    eps: float
    added: int
    steps: int
    batch: int
    step_size: float
    tau: float
    kappa: float
    beta: float

    def fit(self, model: Classifier, task: Task, *, epoch: int) -> Tensor:
        """Return (added, C, H, W), fitted to the network as it is, all at once and each on images of its own."""
        frozen = fast_form(model, task.images[:8], mode="fast")
        seed = int(np.random.SeedSequence([task.seed, epoch]).generate_state(1, np.uint64)[0])
        draws = Draws(seed=seed, index=np.arange(len(task.images)))
        feed = BatchSampler(task.images, task.labels, size=self.batch, count=self.added, draws=draws)
        move = Ascent(frozen, self._goal(task), "linf", self.eps, self.step_size, self.steps)
        start = torch.zeros(self.added, *task.images.shape[1:], device=task.images.device)
        return fit(start, feed, move, steps=self.steps)

    def _goal(self, task: Task) -> FitObjective:
        if self.kind == "plain":
            return clamped_cross_entropy(self.beta)
        histogram = uniform_histogram(count=self.added, classes=task.num_classes, like=task.images)
        return Balanced(histogram, tau=self.tau, kappa=self.kappa)


class TwoStageTraining(Objective):
    """Cross-entropy on clean images and on images under members of a pool that grows before each epoch.

    Attributes:
        pool: (M, C, H, W), the last perturbations; a new one takes the place of the oldest.
        filled: How many have ever been added, (1,) int64.
    """

    pool: Tensor
    filled: Tensor

    def __init__(self, task: Task, fresh: Fresh, *, pool: int, clean: float, warm_up: int) -> None:
        super().__init__()
        self._task, self._fresh, self._clean, self._warm_up = task, fresh, clean, warm_up
        self.register_buffer("pool", torch.zeros(pool, *task.images.shape[1:]))
        self.register_buffer("filled", torch.zeros(1, dtype=torch.int64))

    def begin_epoch(self, model: Classifier, *, epoch: int) -> None:
        """Add perturbations that are fitted to the network as it is."""
        if epoch <= self._warm_up:
            return
        with attacking(model):
            for delta in self._fresh.fit(model, self._task, epoch=epoch):
                self.pool[int(self.filled) % len(self.pool)] = delta
                self.filled += 1

    def forward(self, model: Classifier, x: Tensor, y: Tensor, *, draws: Draws) -> Tensor:
        """Return the loss of clean images and of images each under a random member of the pool."""
        known = min(int(self.filled), len(self.pool))
        if not known:
            return functional.cross_entropy(model(x), y)
        which = (draws.uniform(_MEMBER, (1,)).flatten() * known).long().to(x.device)
        return perturbed_loss(model, x, y, self.pool, which, spared=round(self._clean * len(x)))

"""Training against perturbations that images share: one for all, one a class, or one for a few images of a batch."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from edgeproof.attacks.base import Draws, check_positive
from edgeproof.attacks.fitting import Ascent, Batch
from edgeproof.attacks.objectives import clamped_cross_entropy
from edgeproof.config import check_eps
from edgeproof.errors import ConfigError
from edgeproof.models.base import Classifier
from edgeproof.ops import universal_apply
from edgeproof.plugins.registry import register
from edgeproof.training.objectives.base import Objective, Task, attacking

Per: TypeAlias = Literal["data", "class"]


@register("universal", stateful=True)
def universal(
    task: Task, *, eps: float, step_size: float | None = None, per: Per = "data", beta: float = 9.0, clean: float = 0.0
) -> Objective:
    """Universal adversarial training (Shafahi et al., 2020, arXiv:1811.11304): a batch moves the perturbation, then the weights.

    The perturbation is never reset. With `per=class` every class has its own (Benz et al., 2021, arXiv:2104.03000). Differing
    from both, the perturbation is moved in eval mode, so that batch statistics do not help it.

    Args:
        task: What is trained on.
        eps: L-infinity budget in pixel units.
        step_size: Length of the perturbation's step (default: eps / 4).
        per: "data" keeps one perturbation, "class" one a class.
        beta: Cross-entropy above which an image no longer pulls the perturbation.
        clean: Share of each batch that stays as it is, such as 0.5.

    Raises:
        ConfigError: For a budget that cannot be meant, or a share outside [0, 1).
    """
    check_budget(eps, clean=clean, step_size=step_size, beta=beta)
    count = task.num_classes if per == "class" else 1
    return UniversalTraining(task, eps=eps, step_size=step_size or eps / 4, count=count, beta=beta, clean=clean)


class UniversalTraining(Objective):
    """Cross-entropy under perturbations that take a step at each batch.

    Attributes:
        delta: (P, C, H, W), one for all images or one a class.
    """

    delta: Tensor

    def __init__(self, task: Task, *, eps: float, step_size: float, count: int, beta: float, clean: float) -> None:
        super().__init__()
        self._eps, self._step_size, self._clean = eps, step_size, clean
        self._goal = clamped_cross_entropy(beta)
        self.register_buffer("delta", torch.zeros(count, *task.images.shape[1:]))

    def forward(self, model: Classifier, x: Tensor, y: Tensor, *, draws: Draws) -> Tensor:
        """Move the perturbations of this batch, and return the loss under them."""
        which = y if len(self.delta) > 1 else torch.zeros_like(y)
        spared = round(self._clean * len(x))
        with attacking(model):
            move = Ascent(model, self._goal, "linf", self._eps, self._step_size)
            self.delta.copy_(move(self.delta, Batch(x[spared:], y[spared:], which[spared:])))
        return perturbed_loss(model, x, y, self.delta, which, spared=spared)


@register("shared")
def shared(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    images: int = 16,
    steps: int = 4,
    step_size: float | None = None,
    beta: float = 9.0,
    clean: float = 0.0,
    draws: Draws,
) -> Tensor:
    """Shared adversarial training (Mummadi et al., 2019, arXiv:1812.03705): a few images of a batch share one perturbation.

    Between PGD training (one image) and universal training (all of them). Differing from them, perturbations start at 0.

    Args:
        model: The classifier in training.
        x: Images, (N, C, H, W) in [0, 1].
        y: Classes, (N,) int64.
        eps: L-infinity budget in pixel units.
        images: How many share one.
        steps: Gradients of a perturbation.
        step_size: Length of a step (default: 2.5 * eps / steps).
        beta: Cross-entropy above which an image no longer pulls.
        clean: Share of the batch that stays as it is.
        draws: Unused: this objective is not random.

    Raises:
        ConfigError: For a budget that cannot be meant, or numbers that are not positive.
    """
    check_budget(eps, clean=clean, step_size=step_size, beta=beta)
    check_positive(images=images, steps=steps)
    spared = round(clean * len(x))
    which = torch.arange(len(x), device=x.device) // images
    delta = torch.zeros(-(-len(x) // images), *x.shape[1:], dtype=x.dtype, device=x.device)
    with attacking(model):
        move = Ascent(model, clamped_cross_entropy(beta), "linf", eps, step_size or 2.5 * eps / steps)
        for _ in range(steps):
            delta = move(delta, Batch(x[spared:], y[spared:], which[spared:]))
    return perturbed_loss(model, x, y, delta, which, spared=spared)


def perturbed_loss(model: Classifier, x: Tensor, y: Tensor, delta: Tensor, which: Tensor, *, spared: int) -> Tensor:
    """Return the cross-entropy of a batch whose first `spared` images are clean and whose others carry their perturbation."""
    images = torch.cat([x[:spared], universal_apply(x[spared:], delta, which[spared:])])
    return functional.cross_entropy(model(images), y)


def check_budget(eps: float, *, clean: float, step_size: float | None, beta: float) -> None:
    """Refuse a budget that cannot be meant, a share of clean images outside [0, 1), and lengths that are not positive.

    Raises:
        ConfigError: For the first of them.
    """
    check_eps(eps, norm="linf")
    check_positive(step_size=step_size, beta=beta)
    if not 0 <= clean < 1:
        raise ConfigError(f"clean = {clean:g} is no share that may stay clean; expected a number from 0 to below 1")

"""Adversarial training on what mistakes cost: cross-entropy plus expected cost."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from edgeproof.attacks.base import Draws
from edgeproof.attacks.losses import cross_entropy, expected_cost
from edgeproof.attacks.options import IterativeOptions
from edgeproof.attacks.pgd import pgd
from edgeproof.config import check_eps
from edgeproof.errors import ConfigError
from edgeproof.evaluation.costs import Side, choose_costs
from edgeproof.models.base import Classifier
from edgeproof.plugins.registry import register
from edgeproof.source_model.gradients import Loss
from edgeproof.training.objectives.adversarial import check_share, mixed
from edgeproof.training.objectives.base import Objective, Task, attacking


@register("cost-sensitive", stateful=True)
def cost_sensitive(
    task: Task,
    *,
    eps: float,
    protect: tuple[str, ...] = (),
    cost: float | None = None,
    side: Side | None = None,
    costs: str | None = None,
    weight: float = 1.0,
    steps: int = 1,
    step_size: float | None = None,
    random_start: bool = False,
    clean: float = 0.5,
) -> Objective:
    """Cost-sensitive adversarial training, CSA (Shen et al., 2022, arXiv:2101.12372): cross-entropy plus expected cost.

    The adversaries climb the same sum. Differing from the authors' code, a step of the optimiser sees the clean and the
    attacked images together (they take two, one after the other), and FGSM's images are clipped to [0, 1]. The published
    matrix is side "both"; in our own runs "miss" alone raised the protected class more, since the other half makes it
    dear to predict the class at all.

    Args:
        task: What is trained on.
        eps: L-infinity budget in pixel units; the paper's 0.3 is in normalised units, 0.092 on MNIST.
        protect: Classes whose mistakes cost more than 1, by name or number.
        cost: What they cost (default: 10).
        side: "miss": the class is taken for another; "false-alarm": another is taken for it; "both" (default).
        costs: A file with the costs instead: CSV, JSON or npy, a row a true class, a column a predicted one.
        weight: Of the expected cost next to the cross-entropy.
        steps: Gradients an image; 1 is FGSM.
        step_size: Length of a step (default: 2.5 * eps / steps, and eps for a single step).
        random_start: Start at a uniform point of the ball.
        clean: Share of the loss that is of the clean images, from 0 to 1.

    Raises:
        ConfigError: Without costs, or for costs, a budget or a share that cannot be meant.
    """
    check_eps(eps, norm="linf")
    check_share(clean)
    matrix = task_costs(task, protect=protect, cost=cost, side=side, costs=costs)
    length = eps if step_size is None and steps == 1 else step_size
    options = IterativeOptions(eps, steps, length, random_start=random_start, keep="last")
    return CostSensitive(matrix, options=options, weight=weight, clean=clean)


class CostSensitive(Objective):
    """Cross-entropy plus `weight` times the expected cost, on images attacked by the same sum and on clean ones."""

    costs: Tensor

    def __init__(self, costs: Tensor, *, options: IterativeOptions, weight: float, clean: float) -> None:
        super().__init__()
        self.register_buffer("costs", costs)
        self._options = options
        self._weight = weight
        self._clean = clean

    def forward(self, model: Classifier, x: Tensor, y: Tensor, *, draws: Draws) -> Tensor:
        """Return the loss of a batch."""
        loss = with_cost(self.costs, weight=self._weight)
        with attacking(model):
            x_adv = pgd(model, x, y, replace(self._options, draws=draws), loss=loss)
        return mixed(loss, model, x_adv, x, y, clean=self._clean)


def with_cost(costs: Tensor, *, weight: float) -> Loss:
    """Return cross-entropy plus `weight` times the expected cost under `costs` (K, K)."""
    cost = expected_cost(costs)
    return lambda logits, y: cross_entropy(logits, y) + weight * cost(logits, y)


def task_costs(
    task: Task, *, protect: tuple[str, ...], cost: float | None, side: Side | None, costs: str | None
) -> Tensor:
    """Return the costs (K, K) that an objective was asked for, as `choose_costs` reads them.

    Raises:
        ConfigError: When there are none, or they cannot be meant.
    """
    classes = task.classes or tuple(map(str, range(task.num_classes)))
    chosen = choose_costs(file=costs, protect=protect, cost=cost, side=side, classes=classes)
    if chosen is None:
        raise ConfigError("the objective needs to know what mistakes cost: set protect to a class, or costs to a file")
    return torch.tensor(chosen.matrix, dtype=torch.float32, device=task.images.device)

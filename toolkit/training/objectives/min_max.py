"""The Min-Max defence: a penalty that leaves few large weights in the first convolutions, and no adversarial images."""

from __future__ import annotations

from typing import Literal, TypeAlias

from torch import Tensor, nn
from torch.linalg import vector_norm

from edgeproof.attacks.base import Draws
from edgeproof.attacks.losses import cross_entropy
from edgeproof.errors import ConfigError, ModelError
from edgeproof.evaluation.costs import Side
from edgeproof.models.base import Classifier
from edgeproof.plugins.registry import register
from edgeproof.training.objectives.base import Objective, Task
from edgeproof.training.objectives.cost_sensitive import task_costs, with_cost

Penalty: TypeAlias = Literal["min-max", "l2"]
Scope: TypeAlias = Literal["layer", "filter"]


@register("min-max", stateful=True)
def min_max(
    task: Task,
    *,
    protect: tuple[str, ...] = (),
    cost: float | None = None,
    side: Side | None = None,
    costs: str | None = None,
    cost_weight: float = 1.0,
    conv1: float = 1.0,
    conv2: float = 0.0,
    penalty: Penalty = "min-max",
    scope: Scope = "layer",
) -> Objective:
    """CSE (Shen et al., 2022, arXiv:2101.12372): cross-entropy + cost + R(conv1) + R(conv2), R(W) = |W|_1 - |W|_2.

    R is 0 exactly where at most one weight is not, so it drives a layer towards few large weights, and it shrinks all of
    them too. The defaults are the paper's for MNIST; it has 1 and 5 on Fashion-MNIST, 1 and 1 on CIFAR-10. Its controls
    are settings: sparsity alone is `cost_weight=0`, cost alone `conv1=0`, and weight decay of one layer `penalty=l2`.

    Args:
        task: What is trained on.
        protect: Classes whose mistakes cost more than 1, by name or number.
        cost: What they cost (default: 10).
        side: "miss": the class is taken for another; "false-alarm": another is taken for it; "both" (default).
        costs: A file with the costs instead: CSV, JSON or npy, a row a true class, a column a predicted one.
        cost_weight: Of the expected cost; 0 leaves it out.
        conv1: Weight of the penalty of the first convolution; 0 leaves it out.
        conv2: Of the second one.
        penalty: "min-max" is R; "l2" is half the squared L2 norm, the control that has no such shape.
        scope: "layer" takes R of a whole layer; "filter" sums R over its filters, each of which keeps a weight.

    Raises:
        ConfigError: For a negative weight, or without costs where they count.
    """
    for name, value in (("cost_weight", cost_weight), ("conv1", conv1), ("conv2", conv2)):
        if not value >= 0:
            raise ConfigError(f"{name} = {value:g} is no weight of a loss; expected a number from 0 on")
    matrix = task_costs(task, protect=protect, cost=cost, side=side, costs=costs) if cost_weight else None
    return MinMax(matrix, cost_weight=cost_weight, weights=(conv1, conv2), penalty=penalty, scope=scope)


class MinMax(Objective):
    """Cross-entropy, expected cost where there are `costs`, and a penalty on the first convolutions."""

    costs: Tensor | None

    def __init__(
        self, costs: Tensor | None, *, cost_weight: float, weights: tuple[float, ...], penalty: Penalty, scope: Scope
    ) -> None:
        super().__init__()
        self.register_buffer("costs", costs)
        self._cost_weight = cost_weight
        self._weights = weights
        self._penalty = penalty
        self._scope = scope

    def forward(self, model: Classifier, x: Tensor, y: Tensor, *, draws: Draws) -> Tensor:
        """Return the loss of a batch of clean images."""
        loss = cross_entropy if self.costs is None else with_cost(self.costs, weight=self._cost_weight)
        total = loss(model(x), y).mean()
        for number, weight in enumerate(self._weights):
            if weight:
                total = total + weight * self._punish(convolution(model, number).weight)
        return total

    def _punish(self, weight: Tensor) -> Tensor:
        if self._penalty == "l2":
            return weight.square().sum() / 2
        rows = weight.flatten(1) if self._scope == "filter" else weight.flatten().unsqueeze(0)
        return min_max_penalty(rows).sum()


def min_max_penalty(weight: Tensor) -> Tensor:
    """Return R(w) = |w|_1 - |w|_2 over the last axis: 0 where at most one weight is not, else above 0."""
    penalty: Tensor = vector_norm(weight, 1, dim=-1) - vector_norm(weight, 2, dim=-1)
    return penalty


def convolution(model: Classifier, number: int) -> nn.Conv2d:
    """Return a convolution of a network, counted from 0 in the order of its modules.

    Raises:
        ModelError: When there are fewer.
    """
    found = [module for module in model.network.modules() if isinstance(module, nn.Conv2d)]
    if number >= len(found):
        raise ModelError(
            f"{model.name} has {len(found)} convolutions; set conv{number + 1} = 0, or use another network"
        )
    return found[number]

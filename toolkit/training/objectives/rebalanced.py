"""Cross-entropy for imbalanced classes: weighted by effective numbers, or with logits adjusted by the class sizes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from edgeproof.attacks.base import Draws
from edgeproof.errors import ConfigError
from edgeproof.models.base import Classifier
from edgeproof.plugins.registry import register
from edgeproof.training.objectives.base import Objective, Task


@register("class-balanced", stateful=True)
def class_balanced(task: Task, *, beta: float = 0.999) -> Objective:
    """Cross-entropy weighted by the inverse effective number of each class (Cui et al., 2019, arXiv:1901.05555).

    A class of n images weighs (1 - beta) / (1 - beta^n), and the weights sum to the number of classes. An image's loss is
    multiplied by its class's weight and the batch's mean is taken, as in the authors' code.

    Args:
        task: What is trained on.
        beta: 0 weighs all classes alike, 1 (excluded) by the inverse of their size.

    Raises:
        ConfigError: When beta is not in [0, 1), or a class has no images.
    """
    if not 0 <= beta < 1:
        raise ConfigError(f"beta = {beta:g}; expected a number from 0 to under 1, such as 0.999")
    weights = (1 - beta) / (1 - beta ** _class_sizes(task))
    return _Rebalanced(weights=weights * task.num_classes / weights.sum(), offsets=torch.zeros_like(weights))


@register("logit-adjustment", stateful=True)
def logit_adjustment(task: Task, *, tau: float = 1.0) -> Objective:
    """Cross-entropy on logits plus tau times the log of the class shares (Menon et al., 2021, arXiv:2007.07314).

    Trained so, the network's own logits, without the addition, aim at the mean of the classes' accuracies.

    Args:
        task: What is trained on.
        tau: Strength; 0 is plain cross-entropy, 1 is consistent for the mean of the classes' accuracies.

    Raises:
        ConfigError: When tau is negative, or a class has no images.
    """
    if not tau >= 0:
        raise ConfigError(f"tau = {tau:g}; expected a number from 0 on")
    sizes = _class_sizes(task)
    return _Rebalanced(weights=torch.ones_like(sizes), offsets=tau * torch.log(sizes / sizes.sum()))


class _Rebalanced(Objective):
    """Cross-entropy with a weight and an offset for each class, both (K,) float64."""

    weights: Tensor
    offsets: Tensor

    def __init__(self, *, weights: Tensor, offsets: Tensor) -> None:
        super().__init__()
        self.register_buffer("weights", weights.float())
        self.register_buffer("offsets", offsets.float())

    def forward(self, model: Classifier, x: Tensor, y: Tensor, *, draws: Draws) -> Tensor:
        """Return the loss of a batch."""
        losses = functional.cross_entropy(model(x) + self.offsets, y, reduction="none")
        return (self.weights[y] * losses).mean()


def _class_sizes(task: Task) -> Tensor:
    sizes = torch.bincount(task.labels, minlength=task.num_classes).double()
    if bool((sizes == 0).any()):
        empty = int((sizes == 0).nonzero()[0])
        raise ConfigError(f"class {empty} has no training images, so its weight is undefined; train with images of it")
    return sizes

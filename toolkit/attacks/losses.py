"""Losses that attacks follow: logits (N, K) and the label that is followed (N,) to one number an image (N,).

Each grows as the image moves away from class `y`, so ascent leaves the class and descent goes towards it. They are never
averaged over the batch: what an image gets must not depend on its neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from edgeproof.errors import ConfigError
from edgeproof.source_model.gradients import Loss
from edgeproof.types import Direction

LossName: TypeAlias = Literal["ce", "margin", "dlr"]


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Return the cross-entropy of class y. Its gradient vanishes in float32 once the class is certain."""
    return F.cross_entropy(logits, y, reduction="none")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Return the best other logit minus that of class y: positive where the image is not classified as y."""
    own = logits.gather(1, y[:, None]).squeeze(1)
    others = logits.scatter(1, y[:, None], -torch.inf).amax(1)
    return others - own


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Return the difference-of-logits ratio (Croce & Hein, 2020, arXiv:2003.01690): scale- and shift-free.

    Raises:
        ConfigError: With fewer than three classes, where it is not defined.
    """
    _need_classes(logits, at_least=3, loss="dlr")
    top = logits.topk(3, dim=1).values
    return margin(logits, y) / (top[:, 0] - top[:, 2] + 1e-12)


def targeted_dlr(target: Tensor) -> Loss:
    """Return the targeted difference-of-logits ratio (Croce & Hein, 2020): from class y towards class `target` (N,).

    Raises:
        ConfigError: When called with fewer than four classes, where it is not defined.
    """

    def loss(logits: Tensor, y: Tensor) -> Tensor:
        _need_classes(logits, at_least=4, loss="targeted dlr")
        top = logits.topk(4, dim=1).values
        both = logits.gather(1, torch.stack([target, y], dim=1))
        return (both[:, 0] - both[:, 1]) / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + 1e-12)

    return loss


def softened_cross_entropy(rho: float) -> Loss:
    """Return the cross-entropy of softened logits, whose gradient does not vanish however certain the model is.

    The logits of each image are divided by a temperature taken from their own margin, the smallest at which the softmax
    can leave `rho` to the other classes: beta <= log((K - 1) (1 - rho) / rho) / (z_1 - z_2), Gupta & Ajanthan (2022,
    arXiv:2003.13511), proposition 1. Differing from them, logits are never sharpened and beta follows every iterate.
    """

    return lambda logits, y: cross_entropy(soften(logits, rho), y)


def soften(logits: Tensor, rho: float) -> Tensor:
    """Return logits (N, K) divided by a temperature of each image's own, where a softmax would leave the others less than `rho`.

    The order of the classes stays, and the temperature takes no gradient.
    """
    top = logits.detach().topk(2, dim=1).values
    widest = math.log((logits.shape[1] - 1) * (1 - rho) / rho)
    return logits * (widest / (top[:, 0] - top[:, 1]).clamp(min=widest)).unsqueeze(1)


def expected_cost(costs: Tensor) -> Loss:
    """Return the cost that the softmax expects (Shen et al., 2022, arXiv:2101.12372): sum_j costs[y, j] p_j.

    Args:
        costs: (K, K), rows true classes, columns predictions; 0 on the diagonal.
    """

    def loss(logits: Tensor, y: Tensor) -> Tensor:
        return (logits.softmax(1) * costs[y]).sum(1)

    return loss


LOSSES: Mapping[str, Loss] = {"ce": cross_entropy, "margin": margin, "dlr": dlr}


def goal_margin(logits: Tensor, y: Tensor, *, direction: Direction) -> Tensor:
    """Return how far beyond its goal an image is: out of class y with ascent, in class y with descent."""
    away = margin(logits, y)
    return away if direction == "ascent" else -away


def _need_classes(logits: Tensor, *, at_least: int, loss: str) -> None:
    if logits.shape[1] < at_least:
        raise ConfigError(
            f"the {loss} loss needs at least {at_least} classes and the model has {logits.shape[1]}; use ce or margin"
        )

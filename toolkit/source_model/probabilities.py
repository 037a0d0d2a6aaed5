"""Models that end in a softmax: their probabilities as logits, which attacks can follow and compare."""

from __future__ import annotations

import torch
from torch import Tensor

# The smallest normal float32: below it the gradient of the logarithm, 1 / p, is infinite.
_SMALLEST = torch.finfo(torch.float32).tiny
# What the sum of a row may differ from 1 by: ten probabilities of an INT8 softmax are each rounded to 1/256.
_ROUNDING = 0.02


def are_probabilities(outputs: Tensor) -> bool:
    """Whether the outputs (N, K) of some images are probabilities: from 0 to 1, and of sum 1 in each row."""
    sums = outputs.double().sum(1)
    return bool(len(outputs) and outputs.min() >= 0 and outputs.max() <= 1 and (sums - 1).abs().max() <= _ROUNDING)


def log_probabilities(p: Tensor) -> Tensor:
    """Return logits (N, K) whose softmax is `p`: log(p / max p), differentiable where p is at least 1.2e-38.

    Relative to the largest one, a probability that is smaller by one unit in the last place stays smaller, so every image keeps its
    class. Of a float32 softmax the logits come back to rounding where they are less than 87 apart.
    """
    exact = p.double().clamp(min=_SMALLEST)
    return (exact / exact.detach().amax(1, keepdim=True)).log().to(p.dtype)


def count_certain(p: Tensor) -> int:
    """Return for how many rows all probabilities but one are exactly 0: nothing says how near another class is."""
    return int(((p > 0).sum(1) <= 1).sum())

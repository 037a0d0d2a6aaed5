"""The tests' linear classifier as a PyTorch network; imported only where torch is installed."""

from __future__ import annotations

import math

from torch import nn


class Linear(nn.Sequential):
    """logits = flatten(images) @ weights."""

    def __init__(self, input_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__(nn.Flatten(), nn.Linear(math.prod(input_shape), num_classes, bias=False))

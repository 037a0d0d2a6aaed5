"""Which class's loss an attack follows: the true one, what the model thinks, or one that is wanted."""

from __future__ import annotations

import torch
from torch import Tensor

from edgeproof.errors import ConfigError
from edgeproof.system.untrusted import read_index
from edgeproof.types import LogitsFn

NAMES = ("true", "most-likely", "least-likely")


def followed_class(model: LogitsFn, x: Tensor, y: Tensor, *, label: str) -> Tensor:
    """Return the class (N,) whose loss is followed.

    Args:
        model: Asked once for the likely ones.
        x: Clean images, (N, C, H, W).
        y: True classes, (N,).
        label: "true", "most-likely" or "least-likely" on the clean image, or a class index such as "#3" or "3".

    Raises:
        ConfigError: For another text, or an index that is not a class of the model.
    """
    if label == "true":
        return y
    with torch.no_grad():
        logits = model(x)
    if label in NAMES:
        return logits.argmax(1) if label == "most-likely" else logits.argmin(1)
    number = read_index(label.removeprefix("#"))
    if number is None or number >= logits.shape[1]:
        raise ConfigError(
            f"label = {label!r} is not known; expected {', '.join(NAMES)} or a class from 0 to {logits.shape[1] - 1}"
        )
    return torch.full_like(y, number)

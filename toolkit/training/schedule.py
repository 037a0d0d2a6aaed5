"""Learning rates as pure functions of the step, so that a resumed run needs no scheduler state."""

from __future__ import annotations

import math

from edgeproof.config import TrainConfig

_WARM_UP = 0.3  # share of the steps in which onecycle climbs
_START, _END = 1 / 25, 1 / 250_000  # where onecycle starts and ends, as shares of the peak


def learning_rate(config: TrainConfig, *, step: int, total: int) -> float:
    """Return the learning rate of a step.

    constant: lr. cosine: from lr down to 0. inverse-time: lr / (1 + lr_decay * step), the `decay` of Keras. onecycle: up
    from lr/25 and down to lr/250,000, both along cosines (Smith & Topin, 2017, arXiv:1708.07120, as in torch's OneCycleLR).

    Args:
        config: Holds `schedule`, `lr` and `lr_decay`.
        step: From 0 to total - 1.
        total: Steps of the whole training.
    """
    if config.schedule == "constant":
        return config.lr
    if config.schedule == "inverse-time":
        return config.lr / (1 + config.lr_decay * step)
    if config.schedule == "cosine":
        return config.lr * _cosine(1, 0, step / total)
    peak = max(_WARM_UP * total - 1, 1e-9)
    if step <= peak:
        return config.lr * _cosine(_START, 1, step / peak)
    return config.lr * _cosine(1, _END, (step - peak) / max(total - 1 - peak, 1e-9))


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2

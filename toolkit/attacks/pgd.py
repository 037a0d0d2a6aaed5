"""Projected gradient descent, under both norms, and on softened logits."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor

from edgeproof.attacks.base import Draws
from edgeproof.attacks.iterative import iterate
from edgeproof.attacks.labels import followed_class
from edgeproof.attacks.losses import LOSSES, LossName, softened_cross_entropy
from edgeproof.attacks.norms import BALLS
from edgeproof.attacks.options import IterativeOptions, Keep
from edgeproof.errors import ConfigError
from edgeproof.plugins.registry import register
from edgeproof.source_model.gradients import Loss, value_and_grad
from edgeproof.types import Direction, LogitsFn, Norm


@register("pgd-linf", norm="linf", access="gradients")
def pgd_linf(
    model: LogitsFn,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    step_size: float | None = None,
    steps: int = 20,
    restarts: int = 1,
    random_start: bool = True,
    loss: LossName = "ce",
    direction: Direction = "ascent",
    label: str = "true",
    keep: Keep = "best",
    stop: str = "never",
    draws: Draws | None = None,
) -> Tensor:
    """Projected gradient descent under L-infinity (Madry et al., 2018, arXiv:1706.06083).

    Where images may leave (`stop`), the whole step of the first gradient is tried as well, which settles most images of an
    undefended model.
    """
    options = IterativeOptions(eps, steps, step_size, restarts, random_start, loss, direction, label, keep, stop, draws)
    return pgd(model, x, y, options)


@register("pgd-l2", norm="l2", access="gradients")
def pgd_l2(
    model: LogitsFn,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    step_size: float | None = None,
    steps: int = 20,
    restarts: int = 1,
    random_start: bool = True,
    loss: LossName = "ce",
    direction: Direction = "ascent",
    label: str = "true",
    keep: Keep = "best",
    stop: str = "never",
    draws: Draws | None = None,
) -> Tensor:
    """Projected gradient descent under L2 (Madry et al., 2018, arXiv:1706.06083): normalised steps, projected."""
    options = IterativeOptions(eps, steps, step_size, restarts, random_start, loss, direction, label, keep, stop, draws)
    return pgd(model, x, y, options, norm="l2")


@register("pgd-temperature", norm="linf", access="gradients")
def pgd_temperature(
    model: LogitsFn,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    step_size: float | None = None,
    steps: int = 20,
    restarts: int = 1,
    rho: float = 0.01,
    stop: str = "never",
    draws: Draws | None = None,
) -> Tensor:
    """PGD on logits softened by their own margin: PGD++ (Gupta & Ajanthan, 2022, arXiv:2003.13511).

    Where the loss of a very certain (often a quantised or binary) network is flat, this finds adversaries that `pgd-linf`
    does not; a large difference between the two is an indicator of masked gradients.

    Args:
        rho: Probability that the softened logits can leave to the other classes; below it the logits are softened.
    """
    if not 0 < rho < 0.5:
        raise ConfigError(f"rho = {rho:g}; expected a probability above 0 and below 0.5")
    options = IterativeOptions(eps, steps, step_size, restarts, stop=stop, draws=draws)
    return pgd(model, x, y, options, loss=softened_cross_entropy(rho))


def pgd(
    model: LogitsFn,
    x: Tensor,
    y: Tensor,
    options: IterativeOptions,
    *,
    norm: Norm = "linf",
    loss: Loss | None = None,
    start: Callable[..., Tensor] | None = None,
) -> Tensor:
    """Follow a loss by steps of one norm.

    Args:
        model: Maps images (N, C, H, W) in [0, 1] to logits (N, K); differentiable.
        x: Clean images, (N, C, H, W) in [0, 1].
        y: True classes, (N,) int64.
        options: Of `eps` there may be one per image, (N, 1, 1, 1), where no image leaves (`stop="never"`, one restart).
        norm: "linf" takes sign steps, "l2" normalised ones.
        loss: What is followed, where it is not `options.loss`.
        start: Called with clean images and their `draws` for the starting points, in place of `options.random_start`.

    Returns:
        Images of the shape and dtype of `x`, within `options.eps` of it and in [0, 1].
    """
    eps, ball, followed = options.eps, BALLS[norm], loss or LOSSES[options.loss]
    step_size = 2.5 * eps / options.steps if options.step_size is None else options.step_size
    step = partial(ball.step, eps=eps, direction=options.direction)
    return iterate(
        model,
        x,
        followed_class(model, x, y, label=options.label),
        options,
        gradient=lambda batch, number: value_and_grad(model, batch.x_adv, batch.y, loss=followed),
        step=partial(step, step_size=step_size),
        start=start or (partial(ball.uniform, eps=eps) if options.random_start else None),
        full_step=lambda batch, seen: step(batch.x_adv, seen.grad, batch.x, step_size=2 * eps),
    )

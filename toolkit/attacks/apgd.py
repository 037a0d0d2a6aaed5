"""Auto-PGD (Croce & Hein, 2020, arXiv:2003.01690): PGD that chooses its own step sizes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from edgeproof.attacks.base import Draws, check_positive
from edgeproof.attacks.iterative import Batch, iterate
from edgeproof.attacks.losses import cross_entropy, dlr, targeted_dlr
from edgeproof.attacks.norms import uniform_in_linf
from edgeproof.attacks.options import IterativeOptions
from edgeproof.ops import linf_project, linf_step
from edgeproof.plugins.registry import register
from edgeproof.source_model.gradients import ForwardPass, Loss, value_and_grad
from edgeproof.types import LogitsFn

_MOMENTUM = 0.75  # share of the new step, alpha in the paper
_ENOUGH = 0.75  # share of the steps since the last check that have to raise the loss, rho in the paper


@register("apgd-ce", norm="linf", access="gradients")
def apgd_ce(
    model: LogitsFn,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    steps: int = 100,
    restarts: int = 1,
    stop: str = "never",
    draws: Draws | None = None,
) -> Tensor:
    """Auto-PGD on the cross-entropy (Croce & Hein, 2020, arXiv:2003.01690): no step size to choose.

    Returns:
        Images of the shape and dtype of `x`, within `eps` of it and in [0, 1]: of each the worst iterate.
    """
    options = IterativeOptions(eps, steps, restarts=restarts, stop=stop, draws=draws)
    return _apgd(model, x, y, options, loss_of=lambda batch: cross_entropy)


@register("apgd-dlr", norm="linf", access="gradients", least_classes=3)
def apgd_dlr(
    model: LogitsFn,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    steps: int = 100,
    restarts: int = 1,
    stop: str = "never",
    draws: Draws | None = None,
) -> Tensor:
    """Auto-PGD on the difference-of-logits ratio (Croce & Hein, 2020, arXiv:2003.01690), which does not saturate.

    Returns:
        Images of the shape and dtype of `x`, within `eps` of it and in [0, 1]: of each the worst iterate.
    """
    options = IterativeOptions(eps, steps, restarts=restarts, stop=stop, draws=draws)
    return _apgd(model, x, y, options, loss_of=lambda batch: dlr)


@register("apgd-t", norm="linf", access="gradients", least_classes=4)
def apgd_t(
    model: LogitsFn,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    steps: int = 100,
    targets: int = 9,
    stop: str = "never",
    draws: Draws | None = None,
) -> Tensor:
    """Auto-PGD on the targeted difference-of-logits ratio, towards each of the likeliest wrong classes in turn.

    Args:
        steps: Number of steps towards one class, each one gradient.
        targets: Number of wrong classes, the likeliest on the clean image first; at most K - 1.

    Returns:
        Images of the shape and dtype of `x`, within `eps` of it and in [0, 1]: of each the worst iterate.
    """
    check_positive(targets=targets)
    with torch.no_grad():
        logits = model(x)
    if targets >= logits.shape[1] > 1:
        targets = logits.shape[1] - 1
    wrong = logits.scatter(1, y[:, None], -torch.inf).argsort(dim=1, descending=True)

    def towards(batch: Batch) -> Loss:
        return targeted_dlr(wrong[batch.rows, batch.draws.restart])

    options = IterativeOptions(eps, steps, restarts=targets, stop=stop, draws=draws)
    return _apgd(model, x, y, options, loss_of=towards)


@dataclasses.dataclass(frozen=True)
class Adapting(Batch):
    """A batch with what the choice of step sizes remembers; all fields have one row an image.

    Attributes:
        before: The iterate before this one.
        step_size: (n, 1, 1, 1).
        best: The iterate of the highest loss so far.
        best_grad: The gradient there.
        best_loss: (n,).
        last_loss: (n,), the loss one step ago.
        rises: (n,), how often the loss has risen since the last check.
        checked_loss: (n,), the best loss at the last check.
        halved: (n,) bool, whether the step was halved at the last check.
    """

    before: Tensor
    step_size: Tensor
    best: Tensor
    best_grad: Tensor
    best_loss: Tensor
    last_loss: Tensor
    rises: Tensor
    checked_loss: Tensor
    halved: Tensor


def checkpoints(steps: int) -> dict[int, int]:
    """Return at which steps the step size is reconsidered, each with the number of steps since the one before."""
    found: dict[int, int] = {}
    interval, at = max(int(0.22 * steps), 1), 0
    while (at := at + interval) < steps:
        found[at] = interval
        interval = max(interval - max(int(0.03 * steps), 1), max(int(0.06 * steps), 1))
    return found


def _apgd(
    model: LogitsFn, x: Tensor, y: Tensor, options: IterativeOptions, *, loss_of: Callable[[Batch], Loss]
) -> Tensor:
    checks, eps = checkpoints(options.steps), options.eps

    def gradient(batch: Adapting, step: int) -> ForwardPass:
        return value_and_grad(model, batch.x_adv, batch.y, loss=loss_of(batch))

    def move(batch: Adapting, seen: ForwardPass, step: int) -> Adapting:
        batch, grad = _remember(batch, seen), seen.grad
        if step in checks:
            batch, grad = _reconsider(batch, grad, interval=checks[step])
        moved = linf_step(batch.x_adv, grad, batch.x, step_size=batch.step_size, eps=eps)
        if step > 0:
            blended = batch.x_adv + _MOMENTUM * (moved - batch.x_adv) + (1 - _MOMENTUM) * (batch.x_adv - batch.before)
            moved = linf_project(blended, batch.x, eps=eps)
        return dataclasses.replace(batch, x_adv=moved, before=batch.x_adv)

    start, begin = partial(uniform_in_linf, eps=eps), partial(_adapting, eps=eps)
    return iterate(model, x, y, options, gradient=gradient, move=move, start=start, begin=begin)


def _adapting(batch: Batch, *, eps: float | Tensor) -> Adapting:
    column = batch.x.new_zeros(len(batch))
    return Adapting(
        **vars(batch),
        before=batch.x_adv,
        step_size=2 * eps * batch.x.new_ones((len(batch), 1, 1, 1)),
        best=batch.x_adv,
        best_grad=torch.zeros_like(batch.x),
        best_loss=column - torch.inf,
        last_loss=column + torch.inf,  # so that the first loss is no rise
        rises=column,
        checked_loss=column - torch.inf,
        halved=torch.ones_like(column, dtype=torch.bool),
    )


def _remember(batch: Adapting, seen: ForwardPass) -> Adapting:
    """Note whether the loss has risen, and the best iterate."""
    losses = seen.losses.to(batch.best_loss.dtype)
    better = losses > batch.best_loss
    wide = better.view(-1, 1, 1, 1)
    return dataclasses.replace(
        batch,
        rises=batch.rises + (losses > batch.last_loss),
        last_loss=losses,
        best=torch.where(wide, batch.x_adv, batch.best),
        best_grad=torch.where(wide, seen.grad, batch.best_grad),
        best_loss=torch.where(better, losses, batch.best_loss),
        checked_loss=torch.where(torch.isneginf(batch.checked_loss), losses, batch.checked_loss),
    )


def _reconsider(batch: Adapting, grad: Tensor, *, interval: int) -> tuple[Adapting, Tensor]:
    """Halve the step of images that rise too seldom or no higher, and send these back to their best iterate."""
    seldom = batch.rises <= _ENOUGH * interval
    stuck = ~batch.halved & (batch.checked_loss >= batch.best_loss)
    halved = seldom | stuck
    back = halved.view(-1, 1, 1, 1)
    changed = dataclasses.replace(
        batch,
        x_adv=torch.where(back, batch.best, batch.x_adv),
        step_size=torch.where(back, batch.step_size / 2, batch.step_size),
        rises=torch.zeros_like(batch.rises),
        checked_loss=batch.best_loss,
        halved=halved,
    )
    return changed, torch.where(back, batch.best_grad, grad)

"""Auto-PGD (Croce & Hein, 2020, arXiv:2003.01690): PGD that chooses its own step sizes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from edgeproof.attacks.balls import uniform_in_linf
from edgeproof.attacks.base import Draws, check_positive, draws_of
from edgeproof.attacks.losses import cross_entropy, dlr, targeted_dlr
from edgeproof.attacks.search import Batch, Worst, restarted, search
from edgeproof.ops import linf_project, linf_step
from edgeproof.plugins.registry import register
from edgeproof.source_model.gradients import ForwardPass, Loss, value_and_grad

if TYPE_CHECKING:
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

    Args:
        model: Maps images (N, C, H, W) in [0, 1] to logits (N, K); differentiable.
        x: Clean images, (N, C, H, W) in [0, 1].
        y: True classes, (N,) int64.
        eps: L-infinity budget in the units of `x`.
        steps: Number of steps, each one gradient.
        restarts: Number of random starts; the worst image over them is kept.
        stop: "never", "first" or "margin=K": when an image has been attacked enough and leaves the batch.
        draws: Random numbers of the starts.

    Returns:
        Images of the shape and dtype of `x`, within `eps` of it and in [0, 1]: of each the worst iterate.
    """
    return _apgd(
        model,
        x,
        y,
        loss_of=lambda batch: cross_entropy,
        eps=eps,
        steps=steps,
        restarts=restarts,
        stop=stop,
        draws=draws,
    )


@register("apgd-dlr", norm="linf", access="gradients")
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

    Args:
        model: Maps images (N, C, H, W) in [0, 1] to logits (N, K) of at least three classes; differentiable.
        x: Clean images, (N, C, H, W) in [0, 1].
        y: True classes, (N,) int64.
        eps: L-infinity budget in the units of `x`.
        steps: Number of steps, each one gradient.
        restarts: Number of random starts; the worst image over them is kept.
        stop: "never", "first" or "margin=K": when an image has been attacked enough and leaves the batch.
        draws: Random numbers of the starts.

    Returns:
        Images of the shape and dtype of `x`, within `eps` of it and in [0, 1]: of each the worst iterate.
    """
    return _apgd(
        model, x, y, loss_of=lambda batch: dlr, eps=eps, steps=steps, restarts=restarts, stop=stop, draws=draws
    )


@register("apgd-t", norm="linf", access="gradients")
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
        model: Maps images (N, C, H, W) in [0, 1] to logits (N, K) of at least four classes; differentiable.
        x: Clean images, (N, C, H, W) in [0, 1].
        y: True classes, (N,) int64.
        eps: L-infinity budget in the units of `x`.
        steps: Number of steps towards one class, each one gradient.
        targets: Number of wrong classes, the likeliest on the clean image first; at most K - 1.
        stop: "never", "first" or "margin=K": when an image has been attacked enough and leaves the batch.
        draws: Random numbers of the starts, one a target.

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

    return _apgd(model, x, y, loss_of=towards, eps=eps, steps=steps, restarts=targets, stop=stop, draws=draws)


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
    model: LogitsFn,
    x: Tensor,
    y: Tensor,
    *,
    loss_of: Callable[[Batch], Loss],
    eps: float,
    steps: int,
    restarts: int,
    stop: str,
    draws: Draws | None,
) -> Tensor:
    check_positive(steps=steps, restarts=restarts)
    worst = Worst(x, y, direction="ascent", stop=stop)
    checks = checkpoints(steps)

    def look(batch: Adapting, step: int) -> ForwardPass:
        return value_and_grad(model, batch.x_adv, batch.y, loss=loss_of(batch))

    def move(batch: Adapting, seen: ForwardPass, step: int) -> Adapting:
        batch, grad = _remember(batch, seen), seen.grad
        if step in checks:
            batch, grad = _reconsider(batch, grad, interval=checks[step])
        return _step(batch, grad, eps=eps, first=step == 0)

    def attempt(batch: Batch) -> None:
        search(model, _adapting(batch, eps=eps), observe=look, move=move, steps=steps, worst=worst)

    start = partial(uniform_in_linf, eps=eps)
    restarted(x, y, attempt=attempt, start=start, restarts=restarts, worst=worst, draws=draws_of(draws, x))
    return worst.images


def _adapting(batch: Batch, *, eps: float) -> Adapting:
    column = batch.x.new_zeros(len(batch))
    return Adapting(
        **vars(batch),
        before=batch.x_adv,
        step_size=batch.x.new_full((len(batch), 1, 1, 1), 2 * eps),
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


def _step(batch: Adapting, grad: Tensor, *, eps: float, first: bool) -> Adapting:
    moved = linf_step(batch.x_adv, grad, batch.x, step_size=batch.step_size, eps=eps)
    if not first:
        blended = batch.x_adv + _MOMENTUM * (moved - batch.x_adv) + (1 - _MOMENTUM) * (batch.x_adv - batch.before)
        moved = linf_project(blended, batch.x, eps=eps)
    return dataclasses.replace(batch, x_adv=moved, before=batch.x_adv)

"""Universal perturbations: one for all images, or one per class, fitted on training images and added to others."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import Tensor

from edgeproof.attacks.base import Draws, check_positive, draws_of
from edgeproof.attacks.deepfool import likeliest_others, to_nearest_boundary
from edgeproof.attacks.fitting import Ascent, Batch, BatchSampler, FitCheckpoint, FitObjective, Move, fit, within
from edgeproof.attacks.objectives import (
    Balanced,
    Penalty,
    Reduction,
    Strength,
    clamped_cross_entropy,
    towards_class,
    uniform_histogram,
)
from edgeproof.attacks.options import Method, Per, UniversalOptions
from edgeproof.errors import ConfigError
from edgeproof.ops import l2_norm, universal_apply
from edgeproof.plugins.registry import register
from edgeproof.types import Direction, LogitsFn, Norm

LOG = logging.getLogger(__name__)

_STEP, _BALANCED_STEP = 0.8, 0.5  # of the budget: the first step, where none is given; 0.8 is that of SGD-UAP's code


@register("universal", norm="linf", access="data")
def universal(
    model: LogitsFn,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    method: Method = "sgd",
    per: Per = "data",
    steps: int = 200,
    fit_batch: int = 128,
    step_size: float | None = None,
    beta: float = 9.0,
    candidates: int = 10,
    direction: Direction = "ascent",
    label: str = "true",
    checkpoint: FitCheckpoint | None = None,
    draws: Draws | None = None,
) -> Tensor:
    """A universal perturbation under L-infinity, fitted on the training images: SGD-UAP or DeepFool-UAP.

    "sgd" takes sign steps along the clamped cross-entropy of batches (Shafahi et al., 2020, arXiv:1811.11304), with a step
    that falls to 0. "deepfool" moves towards the nearest boundaries of the images that still resist (Moosavi-Dezfooli et al.,
    2017, arXiv:1610.08401); differing from them, a batch is linearised once and moves the perturbation by the mean of its
    steps, at their mean length. With `per=class` every true class has its own perturbation (Benz et al., 2021,
    arXiv:2104.03000): an oracle, since an attacker would have to know the class.

    Args:
        steps: Number of batches.
        step_size: Length of the first step of "sgd" (default: 0.8 * eps).

    Returns:
        Perturbations (P, C, H, W) within `eps` of 0: one, or one per class.
    """
    options = UniversalOptions(
        eps, method, per, steps, fit_batch, step_size, beta, candidates, direction, label, checkpoint, draws
    )
    return _fit_plain(model, x, y, options, norm="linf")


@register("universal-l2", norm="l2", access="data")
def universal_l2(
    model: LogitsFn,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    method: Method = "sgd",
    per: Per = "data",
    steps: int = 200,
    fit_batch: int = 128,
    step_size: float | None = None,
    beta: float = 9.0,
    candidates: int = 10,
    direction: Direction = "ascent",
    label: str = "true",
    checkpoint: FitCheckpoint | None = None,
    draws: Draws | None = None,
) -> Tensor:
    """A universal perturbation under L2, fitted on the training images: SGD-UAP with normalised steps, or DeepFool-UAP.

    Args:
        steps: Number of batches.
        step_size: Length of the first step of "sgd" (default: 0.8 * eps).

    Returns:
        Perturbations (P, C, H, W) within `eps` of 0: one, or one per class.
    """
    options = UniversalOptions(
        eps, method, per, steps, fit_batch, step_size, beta, candidates, direction, label, checkpoint, draws
    )
    return _fit_plain(model, x, y, options, norm="l2")


@register("universal-balanced", norm="linf", access="data")
def universal_balanced(
    model: LogitsFn,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    strength: Strength = "margin",
    reduction: Reduction = "logsumexp",
    tau: float = 2.0,
    kappa: float = 1.0,
    beta: float = 9.0,
    decay: float = 0.95,
    penalty: Penalty = "entropy",
    lam: float = 0.0,
    gam: float = 0.0,
    slack: float = 0.5,
    steps: int = 200,
    fit_batch: int = 128,
    step_size: float | None = None,
    checkpoint: FitCheckpoint | None = None,
    draws: Draws | None = None,
) -> Tensor:
    """A class-balanced universal perturbation under L-infinity; a reconstruction from the abstract of Ma et al. (IJCNN 2023).

    A plain universal perturbation sends most images to one class. This one calibrates the logits by a running histogram of
    what is predicted, so that a class that is predicted too often gains nothing, and caps the margin, so that an image that is
    lost does not pull. The paper's formulas are not public: every choice is an option. `tau=0` is the capped margin alone,
    `strength=ce` the literal logit adjustment of the cross-entropy, `lam` and `gam` add the penalty regulariser.

    Args:
        strength: "margin" (calibrated wrong classes over the own one) or "ce" (cross-entropy of calibrated logits).
        reduction: How the wrong classes of the margin become one number: "logsumexp" or "max".
        tau: Weight of the calibration.
        kappa: Margin above which an image no longer pulls; chosen on validation images of ten classes
            (benchmarks/universal_kappa.py). A log-sum-exp adds up to log(K - 1) to the margin, so raise it with the classes.
        beta: Cross-entropy above which an image no longer pulls, with `strength=ce`.
        decay: Share of the histogram that stays at each batch.
        penalty: "entropy" of the mean prediction, or "histogram": squares of what is above a fair share.
        lam: Weight of the penalty between images.
        gam: Weight of the confidence within an image.
        slack: How far above its fair share a class may be, with `penalty=histogram`.
        steps: Number of batches.
        step_size: Length of the first step (default: eps / 2).

    Returns:
        One perturbation, (1, C, H, W) within `eps` of 0.
    """
    if not 0 <= decay < 1:
        raise ConfigError(f"decay = {decay:g} is no share that may stay; expected a number from 0 to below 1")
    check_positive(steps=steps, fit_batch=fit_batch, step_size=step_size, kappa=kappa, beta=beta)
    histogram = uniform_histogram(count=1, classes=class_count(model, x, y), like=x.new_empty(0, device=y.device))
    objective = Balanced(histogram, strength, reduction, tau, kappa, beta, decay, penalty, lam, gam, slack)
    move = Ascent(model, objective, "linf", eps, step_size or _BALANCED_STEP * eps, steps)
    sampler = BatchSampler(x, y, size=fit_batch, count=1, draws=draws_of(draws, x))
    found = fit(zeros(1, x, y), sampler, move, steps=steps, checkpoint=checkpoint, memory={"histogram": histogram})
    if not found.any():
        LOG.warning(
            f"edgeproof: universal-balanced changes nothing: the margin of every image is above kappa = {kappa:g} from the start, as on "
            "networks of little confidence; raise kappa, or take reduction = max"
        )
    return found


def _fit_plain(model: LogitsFn, x: Tensor, y: Tensor, options: UniversalOptions, *, norm: Norm) -> Tensor:
    one, eps, steps = options.per == "data", options.eps, options.steps
    sampler = BatchSampler(x, y, size=options.fit_batch, count=1 if one else None, draws=draws_of(options.draws, x))
    start = zeros(1 if one else class_count(model, x, y), x, y)
    move: Move = _DeepFool(model, norm, eps, options.candidates)
    if options.method == "sgd":
        ascent = options.direction == "ascent"
        objective: FitObjective = clamped_cross_entropy(options.beta) if ascent else towards_class
        move = Ascent(model, objective, norm, eps, options.step_size or _STEP * eps, steps, label=options.label)
    return fit(start, sampler, move, steps=steps, checkpoint=options.checkpoint)


@dataclass(frozen=True)
class _DeepFool:
    """A step to the nearest boundaries: the mean direction of the images that still resist, at their mean length."""

    model: LogitsFn
    norm: Norm
    eps: float
    candidates: int

    def __call__(self, delta: Tensor, batch: Batch, step: int) -> Tensor:
        images = universal_apply(batch.x, delta, batch.which)
        others = likeliest_others(self.model, images, batch.y, count=self.candidates - 1)
        wrong, moves = to_nearest_boundary(self.model, images, batch.y, others)
        moves = moves * ~wrong.view(-1, 1, 1, 1)
        total = torch.zeros_like(delta).index_add_(0, batch.which, moves)
        lengths = l2_norm(moves).flatten()
        resisting = torch.zeros(len(delta), dtype=delta.dtype, device=delta.device)
        mean = resisting.index_add(0, batch.which, lengths) / resisting.index_add(
            0, batch.which, (~wrong).to(delta.dtype)
        ).clamp_(min=1)
        along = total / l2_norm(total).clamp_(min=1e-30)
        return within(delta + mean.view(-1, 1, 1, 1) * along, norm=self.norm, eps=self.eps)


def class_count(model: LogitsFn, x: Tensor, y: Tensor) -> int:
    """Return K, as the model has it."""
    with torch.no_grad():
        return model(x[:1].to(y.device)).shape[1]


def zeros(count: int, x: Tensor, y: Tensor) -> Tensor:
    """Return `count` perturbations of 0 for images `x`, on the device of `y`."""
    return torch.zeros(count, *x.shape[1:], dtype=x.dtype, device=y.device)

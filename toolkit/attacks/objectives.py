"""What universal perturbations are fitted to: strength alone, or strength spread over the classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from edgeproof.attacks.fitting import FitObjective, mean_by_perturbation
from edgeproof.attacks.losses import cross_entropy

Strength: TypeAlias = Literal["margin", "ce"]
Reduction: TypeAlias = Literal["logsumexp", "max"]
Penalty: TypeAlias = Literal["entropy", "histogram"]

_SMOOTHING = 0.1  # added to K times a class's share, so that a class that is never predicted has a finite offset


def clamped_cross_entropy(beta: float) -> FitObjective:
    """Return min(cross-entropy, beta): an image that is lost already stops pulling (Shafahi et al., 2020, arXiv:1811.11304)."""
    return lambda logits, y, which: cross_entropy(logits, y).clamp(max=beta)


def towards_class(logits: Tensor, y: Tensor, which: Tensor) -> Tensor:
    """Return the negative cross-entropy: what descends towards class y."""
    return -cross_entropy(logits, y)


@dataclass(frozen=True)
class Balanced:
    """Strength against each image, in logits calibrated by what is predicted too often, and a penalty on the dispersion.

    Reconstructed from the abstract of Ma et al. (IJCNN 2023), whose formulas are not public. "Probability calibration" is read as
    the logit adjustment of Menon et al. (2021, arXiv:2007.07314) with a running histogram of predictions as prior, and the
    "penalty regulariser" as information maximisation: spread the labels over the images, keep each image's own label sure.

    Attributes:
        histogram: (P, K), the running shares of the predicted labels; starts uniform and is changed in place.
        strength: "margin" is min(calibrated wrong classes - own logit, kappa); "ce" is min(CE of calibrated logits, beta).
        reduction: How the wrong classes of the margin become one number: "logsumexp" or "max".
        tau: Weight of the calibration; 0 switches it off.
        kappa: Margin above which nothing is gained by fooling an image further.
        beta: The same for the cross-entropy.
        decay: How much of the histogram stays at each batch.
        penalty: "entropy": lam * H(mean p) - gam * mean H(p). "histogram": -lam * sum max(0, mean p - (1 + slack) / K)^2,
            - gam * mean H(p).
        lam: Weight of the dispersion over the images.
        gam: Weight of the confidence within an image.
        slack: How far above its fair share a class may be before the histogram penalty counts it.
    """

    histogram: Tensor
    strength: Strength = "margin"
    reduction: Reduction = "logsumexp"
    tau: float = 2.0
    kappa: float = 1.0
    beta: float = 9.0
    decay: float = 0.95
    penalty: Penalty = "entropy"
    lam: float = 0.0
    gam: float = 0.0
    slack: float = 0.5

    def __call__(self, logits: Tensor, y: Tensor, which: Tensor) -> Tensor:
        """Return the goal of each image, (N,): its strength, and the penalty of its perturbation."""
        self._note(logits.detach(), which)
        strength = self._strength(logits - self.offsets().to(logits.dtype)[which], logits, y)
        return strength + self._penalty(logits, which) if self.lam or self.gam else strength

    def offsets(self) -> Tensor:
        """Return what is taken from each logit, (P, K): tau * log(K * share + 0.1)."""
        return self.tau * torch.log(self.histogram.shape[1] * self.histogram + _SMOOTHING)

    def _note(self, logits: Tensor, which: Tensor) -> None:
        count, classes = self.histogram.shape
        predicted = functional.one_hot(logits.argmax(1), classes).to(self.histogram.dtype)
        shares = mean_by_perturbation(predicted, which, count=count)
        seen = shares.sum(1, keepdim=True) > 0
        self.histogram.copy_(torch.where(seen, self.histogram.lerp(shares, 1 - self.decay), self.histogram))

    def _strength(self, calibrated: Tensor, logits: Tensor, y: Tensor) -> Tensor:
        if self.strength == "ce":
            return cross_entropy(calibrated, y).clamp(max=self.beta)
        others = calibrated.scatter(1, y[:, None], -torch.inf)
        wrong = others.logsumexp(1) if self.reduction == "logsumexp" else others.amax(1)
        return (wrong - logits.gather(1, y[:, None]).squeeze(1)).clamp(max=self.kappa)

    def _penalty(self, logits: Tensor, which: Tensor) -> Tensor:
        p = logits.softmax(1)
        mean = mean_by_perturbation(p, which, count=len(self.histogram))
        if self.penalty == "entropy":
            spread = entropy(mean)
        else:
            spread = -(mean - (1 + self.slack) / p.shape[1]).clamp(min=0).square().sum(1)
        return self.lam * spread[which] - self.gam * entropy(p)


def entropy(p: Tensor) -> Tensor:
    """Return the entropy of each row of probabilities (N, K), in nats; differentiable where a probability is 0."""
    return -(p * p.clamp(min=1e-12).log()).sum(1)


def uniform_histogram(*, count: int, classes: int, like: Tensor) -> Tensor:
    """Return (count, classes) equal shares, where and in the type that `like` is."""
    return torch.full((count, classes), 1 / classes, dtype=like.dtype, device=like.device)

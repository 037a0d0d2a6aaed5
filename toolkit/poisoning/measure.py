"""Measure a victim of a poison on clean images, on poisoned ones, and on the noise alone."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from edgeproof.data.base import LabelledImages
from edgeproof.evaluation.metrics import Rate
from edgeproof.models.base import Classifier
from edgeproof.poisoning.networks import NoiseGenerator
from edgeproof.poisoning.state import TrialRecord
from edgeproof.training.state import HitsRecord
from edgeproof.types import Labels

_CHUNK = 512  # images at once


@torch.no_grad()
def poison_all(generator: NoiseGenerator, images: Tensor) -> Tensor:
    """Return clip(x + g(x)) of many images (N, C, H, W); the generator is in eval mode."""
    return torch.cat([generator.poison(chunk) for chunk in torch.split(images, _CHUNK)])


@torch.no_grad()
def noise_all(generator: NoiseGenerator, images: Tensor) -> Tensor:
    """Return g(x) alone, in [-eps, eps]; the generator is in eval mode."""
    return torch.cat([generator(chunk) for chunk in torch.split(images, _CHUNK)])


@torch.no_grad()
def predict(victim: Classifier, images: Tensor) -> Labels:
    """Return the predicted classes (N,) of images, or of noise alone, in eval mode."""
    training = victim.training
    victim.eval()
    found = torch.cat([victim(chunk).argmax(1) for chunk in torch.split(images, _CHUNK)])
    victim.train(training)
    classes: Labels = found.cpu().numpy()
    return classes


def measure(
    victim: Classifier, generator: NoiseGenerator, data: LabelledImages, *, wanted: Tensor | None, trial: int
) -> TrialRecord:
    """Measure a victim that was fitted to a generator's noise.

    Args:
        victim: The fitted victim.
        generator: The frozen generator.
        data: Clean images that neither has seen.
        wanted: (K,) class wanted for each class, or None.
        trial: Its number.
    """
    x = torch.from_numpy(data.images).to(next(victim.parameters()).device)
    clean, poisoned = predict(victim, x), predict(victim, poison_all(generator, x))
    goal = clean != data.labels if wanted is None else clean == wanted.cpu().numpy()[data.labels]
    return TrialRecord(
        trial=trial,
        clean=HitsRecord.of(Rate.of(clean == data.labels)),
        poisoned=HitsRecord.of(Rate.of(poisoned == data.labels)),
        reached=HitsRecord.of(Rate.of(goal)),
        top_class=HitsRecord.of(Rate.of(clean == np.bincount(clean).argmax())),
    )

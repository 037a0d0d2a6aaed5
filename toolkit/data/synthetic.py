"""Small made-up images with class structure, for tests and first steps: nothing is read, nothing is measured on them."""

from __future__ import annotations

import math

import numpy as np

from edgeproof.data.base import Dataset, LabelledImages
from edgeproof.errors import ConfigError
from edgeproof.plugins.registry import register

_MOST = 2**27  # numbers: 100,000 images of 3 x 20 x 20


@register("synthetic")
def synthetic(
    *,
    num_classes: int = 4,
    input_shape: tuple[int, int, int] = (1, 16, 16),
    train: int = 256,
    test: int = 64,
    noise: float = 0.1,
    seed: int = 0,
) -> Dataset:
    """Seeded coarse patterns, one a class, under Gaussian noise; for tests, not for results.

    Args:
        num_classes: K.
        input_shape: (C, H, W).
        train: Number of training images; classes take turns, so that sizes differ by one at most.
        test: Number of test images.
        noise: Standard deviation of the noise, in [0, 1] pixel units.
        seed: Seed of the patterns and the noise.

    Raises:
        ConfigError: When a number of classes or images is not positive, or they are too many.
    """
    if min(num_classes, train, test, *input_shape) < 1:
        raise ConfigError(
            f"synthetic: {num_classes} classes, {train} + {test} images of {input_shape}; expected 1 or more"
        )
    if (train + test) * math.prod(input_shape) > _MOST:
        raise ConfigError(
            f"synthetic: {train} + {test} images of {input_shape}; expected at most {_MOST} numbers in all"
        )
    random = np.random.default_rng([seed, 0])
    channels, height, width = input_shape
    coarse = random.uniform(0.2, 0.8, (num_classes, channels, -(-height // 4), -(-width // 4)))
    patterns = np.kron(coarse, np.ones((4, 4)))[..., :height, :width]

    def draw(count: int, split: str) -> LabelledImages:
        labels = np.arange(count) % num_classes
        pixels = patterns[labels] + random.normal(0, noise, (count, *input_shape))
        images = np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
        classes = tuple(f"class-{label}" for label in range(num_classes))
        return LabelledImages.from_arrays(images, labels, classes=classes, name="synthetic", split=split)

    drawn = draw(train, "train")
    return Dataset(draw(test, "test"), lambda: drawn)

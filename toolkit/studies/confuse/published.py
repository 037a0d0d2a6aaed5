"""The published numbers of the study `confuse`."""

from __future__ import annotations

from collections.abc import Mapping

#: Feng, Cai and Zhou (2019), clean-test accuracy in per cent: Table 1, Figures 4 to 7 (read off, +-1 and +-3), by data set.
PUBLISHED: Mapping[str, Mapping[str, str]] = {
    "mnist": {
        "clean": "99.32 ± 0.05", "poisoned": "0.25 ± 0.04", "noise train": "95.62", "noise test": "95.15", "wanted": "79.7 ± 0.38",
        "clean confuse-cnn-small": "99.15", "poisoned confuse-cnn-small": "0.29", "clean confuse-cnn-large": "99.17",
        "poisoned confuse-cnn-large": "0.20", "clean forest": "97.23", "poisoned forest": "1.80", "clean svm": "98.24",
        "poisoned svm": "0.52", "budget 0.1": "98", "budget 0.15": "97.5", "budget 0.2": "68", "budget 0.25": "5",
        "budget 0.3": "0.3", "poison 0.5": "98", "poison 0.6": "97", "poison 0.7": "94", "poison 0.8": "86", "poison 0.9": "68",
        "flip 0.5": "98", "flip 0.6": "97", "flip 0.7": "96", "flip 0.8": "94", "flip 0.9": "87", "flip 0.95": "75",
    },
    "cifar10": {
        "clean": "77.28 ± 0.17", "poisoned": "28.77 ± 2.80", "noise train": "78.57", "noise test": "72.98",
        "clean vgg16-bn": "92.6", "poisoned vgg16-bn": "22.8", "clean resnet-18": "93.0",
        "poisoned resnet-18": "16.3 (paper), 26.3 (poster)",
        "poisoned jpeg=10": "81.84 (ResNet-18, 8/255, Liu et al., 2023)", "poisoned grey": "93.07 (likewise)",
    },
}  # fmt: skip

"""The test images of the study of protected classes: more of the protected ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgeproof.data.arrays import write_npz
from edgeproof.data.base import load_dataset
from edgeproof.runs import Run


def choose_images(config: Mapping[str, Any], out: Run) -> None:
    """Write `images.npz`: drawn test images, more of the protected classes.

    Args:
        config: `data`, `protect` (numbers of classes), `protected_images` and `other_images` for each class, `seed`.
        out: The run.
    """
    test = load_dataset(config["data"]).test
    random = np.random.default_rng(config["seed"])
    sizes = dict.fromkeys(range(test.num_classes), config["other_images"])
    sizes |= dict.fromkeys(config["protect"], config["protected_images"])
    drawn = [random.permutation(np.flatnonzero(test.labels == label))[:size] for label, size in sizes.items()]
    rows = np.sort(np.concatenate(drawn))
    arrays = {"x_test": test.images[rows], "y_test": test.labels[rows], "classes": np.array(test.classes)}
    write_npz(out.path / "images.npz", arrays)

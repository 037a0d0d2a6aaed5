"""Poisoned training images as an artefact, tied to the data set image by image.

A poison that is keyed to the wrong index ruins training just as a good one does, so it looks like success. That is why every
reader compares each poisoned image with the clean one of the same index before it is trained on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from edgeproof.data.arrays import check_images, read_npz, to_float, to_storage, write_npz
from edgeproof.data.base import LabelledImages, Splits
from edgeproof.data.records import PoisonAbout
from edgeproof.errors import ConfigError, DataError
from edgeproof.runs import Run, write_json
from edgeproof.system.untrusted import read_record
from edgeproof.types import Array, Images, Labels

ARRAYS, ABOUT = "poison.npz", "poison.json"
_TOLERANCE = 1e-6  # rounding of float32 at 1, as for adversarial sets


@dataclass(frozen=True)
class PoisonedImages:
    """What stands in for the training images of a data set.

    Attributes:
        images: (N, C, H, W) float32 in [0, 1].
        labels: (N,) int64, what a victim is told; the true ones unless `flipped`.
        index: (N,) int64, ascending: the position in the published training split.
        poisoned: (N,) bool, which images were changed.
        data: The data set's name.
        classes: Its classes.
        eps: L-infinity budget in [0, 1] pixel units.
        method: What made it.
        target: The wanted class of each class, or None where any wrong one will do.
        flipped: Whether labels were changed instead of images: a control.
    """

    images: Images
    labels: Labels
    index: Labels
    poisoned: Array
    data: str
    classes: tuple[str, ...]
    eps: float
    method: str
    target: tuple[int, ...] | None = None
    flipped: bool = False

    def __post_init__(self) -> None:
        check_images(self.images, what=f"poison of {self.data}")
        kinds = self.labels.dtype.kind + self.index.dtype.kind + self.poisoned.dtype.kind
        if kinds != "iib" or {self.labels.ndim, self.index.ndim, self.poisoned.ndim} != {1}:
            raise DataError(
                f"poison of {self.data}: labels, index and mask are of the kinds {kinds!r}; expected one row each of "
                "integers, integers and truth values; make the poison again"
            )
        sizes = {len(self.images), len(self.labels), len(self.index), len(self.poisoned)}
        if len(sizes) > 1 or np.any(np.diff(self.index) <= 0):
            raise DataError(
                f"poison of {self.data}: images, labels, index and mask have lengths {sorted(sizes)}; expected one length "
                "and ascending indices; make the poison again"
            )

    def replace_in(self, part: LabelledImages) -> LabelledImages:
        """Return a part of the data set with its poisoned images, in its own order, after comparing each with the clean one.

        Args:
            part: Clean images of the training split.

        Raises:
            DataError: When the poison is of another data set, lacks an image, or an image or label of it is not a poisoned
                form of the clean one of the same index.
        """
        if part.name != self.data or part.classes != self.classes:
            raise DataError(f"the poison is of {self.data!r} and the images are of {part.name!r}; expected the same")
        if not len(part):
            return part
        rows = np.minimum(np.searchsorted(self.index, part.index), len(self.index) - 1)
        lacking = self.index[rows] != part.index
        if lacking.any():
            raise DataError(
                f"the poison lacks {int(lacking.sum())} of {len(part)} {part.split} images of {self.data}, the first of index "
                f"{part.index[lacking][0]}; give the data.* settings that the poison was made with"
            )
        self._compare(part, rows)
        return replace(part, images=self.images[rows], labels=self.labels[rows])

    def _compare(self, part: LabelledImages, rows: Array) -> None:
        moved = np.array([np.abs(self.images[row] - x).max() for row, x in zip(rows, part.images, strict=True)])
        allowed = np.where(self.poisoned[rows] & (not self.flipped), self.eps + _TOLERANCE, 0)
        relabelled = (self.labels[rows] != part.labels) & ~(self.poisoned[rows] & self.flipped)
        wrong = (moved > allowed) | relabelled
        if wrong.any():
            first = int(np.flatnonzero(wrong)[0])
            raise DataError(
                f"{int(wrong.sum())} of {len(part)} poisoned images are not those of their index: at {part.index[first]} "
                f"max |x_poisoned - x| = {moved[first]:.4f}, eps = {self.eps:.4f}, label {self.labels[rows[first]]} for "
                f"{part.labels[first]}; make the poison again on this data set"
            )


def choose_poisoned(labels: Labels, ratio: float, *, seed: int) -> Array:
    """Return which images are poisoned, (N,) bool: a share of each class; for one seed a smaller share is part of a larger.

    Raises:
        ConfigError: When the ratio is not in (0, 1].
    """
    if not 0 < ratio <= 1:
        raise ConfigError(f"ratio = {ratio:g}; expected a share above 0 and at most 1")
    mask = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        mine = np.random.default_rng([seed, 4, int(label)]).permutation(np.flatnonzero(labels == label))
        mask[mine[: round(ratio * len(mine))]] = True
    return mask


def poison_splits(splits: Splits, poison: PoisonedImages) -> Splits:
    """Put poisoned images in the place of all training images, held-out ones included: whoever trains has no others.

    Raises:
        DataError: When the poison is not of these images.
    """
    parts = {name: poison.replace_in(splits.part(name)) for name in ("train", "validation", "calibration")}
    return replace(splits, **parts)


def save_poison(run: Run, poison: PoisonedImages) -> None:
    """Write `poison.npz` and `poison.json` into a poison run that is being written."""
    arrays = {"x": to_storage(poison.images), "y": poison.labels, "index": poison.index, "poisoned": poison.poisoned}
    write_npz(run.path / ARRAYS, arrays)
    write_json(
        run.path / ABOUT,
        {
            "data": poison.data,
            "classes": poison.classes,
            "eps": poison.eps,
            "method": poison.method,
            "target": poison.target,
            "flipped": poison.flipped,
        },
    )


def load_poison(run: Run) -> PoisonedImages:
    """Read the poisoned images of a finished poison run; hashes are verified.

    Raises:
        RunError: For a changed or missing file.
        DataError: For arrays that do not fit together.
    """
    about = read_record(run.file(ABOUT), PoisonAbout)
    arrays = read_npz(run.file(ARRAYS), required=("x", "y", "index", "poisoned"))
    return PoisonedImages(
        images=to_float(arrays["x"], what=f"{run.path}/{ARRAYS}"),
        labels=arrays["y"],
        index=arrays["index"],
        poisoned=arrays["poisoned"],
        **about.model_dump(),
    )

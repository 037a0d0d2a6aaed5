"""A user's own images in folders, one a class."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from edgeproof.data.arrays import to_float
from edgeproof.data.base import Dataset, LabelledImages
from edgeproof.data.decode import decode_images
from edgeproof.data.sampling import held_out
from edgeproof.errors import ConfigError, DataError
from edgeproof.plugins.registry import register
from edgeproof.types import Array, Labels

_READ = (".png", ".jpg", ".jpeg")
_OTHER_IMAGES = (".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff", ".webp")


@register("folder", path=True)
def image_folder(path: Path, *, test_fraction: float = 0.2) -> Dataset:
    """PNG or JPEG images, a folder a class, under train/ and test/; with only test/, nothing can be trained.

    Without these two the class folders stand in PATH itself, and a fixed, stratified share is held out for testing.
    Classes are ordered by name, as torchvision's ImageFolder does, so that its checkpoints fit.

    Args:
        path: The folder.
        test_fraction: Share of each class held out, at least one image, where there is no test/.

    Raises:
        ConfigError: When the fraction is not between 0 and 1.
        DataError: For a missing or empty class, an image that cannot be read, or mixed sizes or channels.
    """
    if not 0 < test_fraction < 1:
        raise ConfigError(f"test_fraction = {test_fraction:g}; expected a number between 0 and 1, such as 0.2")
    if not path.is_dir():
        raise DataError(f"no folder at {path}; expected one with train/ and test/, or with a folder a class")
    train, test = _find_parts(path, test_fraction)
    return Dataset(test.read("test"), partial(train.read, "train") if train else None)


@dataclass(frozen=True)
class _ImageFiles:
    """Files with their labels; `index` is the position in the sorted list of all of them."""

    files: tuple[Path, ...]
    labels: Labels
    index: Labels
    classes: tuple[str, ...]
    name: str

    def take(self, rows: Array) -> _ImageFiles:
        files = tuple(self.files[row] for row in rows)
        return replace(self, files=files, labels=self.labels[rows], index=self.index[rows])

    def read(self, split: str) -> LabelledImages:
        pixels = decode_images(self.files, name=lambda row: str(self.files[row]))
        images = to_float(pixels, what=self.name)
        return LabelledImages(images, self.labels, self.index, self.classes, f"folder:{self.name}", split)


def _find_parts(path: Path, test_fraction: float) -> tuple[_ImageFiles | None, _ImageFiles]:
    """Return the training files, if any, and the test files."""
    has_train, has_test = (path / "train").is_dir(), (path / "test").is_dir()
    if has_train and not has_test:
        raise DataError(f"{path} has train/ and no test/; rename val/ to test/, or move the class folders of train/ up")
    if not has_test:
        return _hold_out(_list_images(path, name=path.name), test_fraction)
    test = _list_images(path / "test", name=path.name)
    if not has_train:
        return None, test
    train = _list_images(path / "train", name=path.name)
    if strangers := set(test.classes) ^ set(train.classes):
        raise DataError(
            f"{path}: class {min(strangers)!r} is only in one of train/ and test/; expected the same in both"
        )
    return train, test


def _list_images(folder: Path, *, name: str) -> _ImageFiles:
    classes = _class_names(folder)
    groups = [_image_files(folder / label) for label in classes]
    files = tuple(file for group in groups for file in group)
    labels = np.repeat(np.arange(len(classes)), [len(group) for group in groups])
    return _ImageFiles(files, labels, np.arange(len(files)), classes, name)


def _class_names(folder: Path) -> tuple[str, ...]:
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if len(names) < 2:
        raise DataError(f"{folder} has {len(names)} class folder(s); expected at least two, with images in them")
    return tuple(names)


def _image_files(folder: Path) -> list[Path]:
    visible = sorted(file for file in folder.iterdir() if not file.name.startswith("."))
    for file in visible:
        if file.is_dir():
            raise DataError(
                f"class folder {folder} holds the folder {file.name!r}; expected images: is PATH one too high?"
            )
        if file.suffix.lower() in _OTHER_IMAGES:
            raise DataError(f"{file} is neither PNG nor JPEG; convert it, or move it out of the folder")
    files = [file for file in visible if file.suffix.lower() in _READ]
    if pipe := next((file for file in files if not file.is_file()), None):  # to open a pipe is to wait for its writer
        raise DataError(f"{pipe} is no file; move it out of the folder")
    if not files:
        raise DataError(f"class folder {folder} holds no PNG or JPEG images; add some or remove the folder")
    return files


def _hold_out(whole: _ImageFiles, fraction: float) -> tuple[_ImageFiles, _ImageFiles]:
    """Share the files into training and test ones, by class and the same each time."""
    sizes = np.bincount(whole.labels)
    for label in np.flatnonzero(sizes < 2):
        raise DataError(
            f"folder {whole.name}: class {whole.classes[label]!r} has one image; expected one to train on and one to test"
        )
    random = np.random.default_rng(0)
    held = np.minimum(held_out(sizes, fraction), sizes - 1)
    test = [random.permutation(np.flatnonzero(whole.labels == label))[:count] for label, count in enumerate(held)]
    rows = np.sort(np.concatenate(test))
    return whole.take(np.setdiff1d(whole.index, rows)), whole.take(rows)

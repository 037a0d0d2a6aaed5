"""A user's own images in folders, one a class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from toolkit.data.base import Dataset, LabelledImages, held_out
from toolkit.data.decode import decode_images
from toolkit.errors import ConfigError, DataError
from toolkit.registry import register

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
    if not (path / "test").is_dir():
        return _split(_read(path, _class_names(path), name=path.name, split="train"), test_fraction)
    classes = _class_names(path / "test")
    test = _read(path / "test", classes, name=path.name, split="test")
    if not (path / "train").is_dir():
        return Dataset(train=None, test=test)
    if strangers := set(classes) ^ set(_class_names(path / "train")):
        raise DataError(
            f"{path}: class {min(strangers)!r} is only in one of train/ and test/; expected the same in both"
        )
    return Dataset(train=_read(path / "train", classes, name=path.name, split="train"), test=test)


def _class_names(folder: Path) -> tuple[str, ...]:
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if len(names) < 2:
        raise DataError(f"{folder} has {len(names)} class folder(s); expected at least two, with images in them")
    return tuple(names)


def _read(folder: Path, classes: Sequence[str], *, name: str, split: str) -> LabelledImages:
    files = [_image_files(folder / label) for label in classes]
    flat = [file for group in files for file in group]
    images = decode_images(flat, name=lambda position: str(flat[position]))
    labels = np.repeat(np.arange(len(classes)), [len(group) for group in files])
    return LabelledImages.from_arrays(images, labels, classes=tuple(classes), name=f"folder:{name}", split=split)


def _image_files(folder: Path) -> list[Path]:
    visible = sorted(file for file in folder.rglob("*") if file.is_file() and not file.name.startswith("."))
    for file in visible:
        if file.suffix.lower() in _OTHER_IMAGES:
            raise DataError(f"{file} is neither PNG nor JPEG; convert it, or move it out of the folder")
    files = [file for file in visible if file.suffix.lower() in _READ]
    if not files:
        raise DataError(f"class folder {folder} holds no PNG or JPEG images; add some or remove the folder")
    return files


def _split(whole: LabelledImages, fraction: float) -> Dataset:
    """Hold out a share of each class; `index` stays the position among all files."""
    sizes = np.bincount(whole.labels, minlength=whole.num_classes)
    for label in np.flatnonzero(sizes < 2):
        raise DataError(
            f"{whole.name}: class {whole.classes[label]!r} has one image; expected one to train on and one to test"
        )
    random = np.random.default_rng(0)
    held = np.minimum(held_out(sizes, fraction), sizes - 1)
    test = np.sort(
        np.concatenate(
            [random.permutation(np.flatnonzero(whole.labels == label))[:count] for label, count in enumerate(held)]
        )
    )
    return Dataset(train=whole.take(np.setdiff1d(whole.index, test)), test=whole.take(test, split="test"))

"""A user's own images in folders, one for each class."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from edgeproof.data.arrays import to_float
from edgeproof.data.base import Dataset, LabelledImages
from edgeproof.data.decode import ENDINGS, decode_images, holds_image
from edgeproof.data.sampling import held_out
from edgeproof.errors import ConfigError, DataError, one_line
from edgeproof.plugins.registry import register
from edgeproof.types import Array, Labels

LOG = logging.getLogger(__name__)
#: What file systems, cameras and annotation tools leave next to images.
_NOT_IMAGES = ("thumbs.db", "desktop.ini")


@register("folder", path=True)
def image_folder(path: Path, *, test_fraction: float = 0.2, split: Literal["auto", "all"] = "auto") -> Dataset:
    """Images, a folder for each class, under train/ and test/; with only test/, nothing can be trained.

    Without these two the class folders stand in PATH itself, and a fixed, stratified share is held out for testing.
    A file is read by its content, not by its ending; what is no image is left out and counted on stderr. Classes are ordered
    by name, and by number where every folder is named by one. An empty folder is a class without images.

    Args:
        path: The folder.
        test_fraction: Share of each class held out, at least one image, where there is no test/.
        split: "all": every image is a test image, where there is no test/.

    Raises:
        ConfigError: When the fraction is not between 0 and 1.
        DataError: For missing classes, an image that cannot be read, or mixed sizes or channels.
    """
    if not 0 < test_fraction < 1:
        raise ConfigError(f"test_fraction = {test_fraction:g}; expected a number between 0 and 1, such as 0.2")
    if not path.is_dir():
        raise DataError(f"no folder at {path}; expected one with train/ and test/, or with a folder for each class")
    train, test = _find_parts(path, test_fraction, split)
    if (as_text := sorted(test.classes)) != list(test.classes):
        LOG.info(
            one_line(
                f"edgeproof: {path}: class folders named by numbers are in the order of the numbers, not {', '.join(as_text[:4])}, "
                "..., in which torchvision's ImageFolder numbers them: for a network trained so, give that order (--classes-file)"
            )
        )
    return Dataset(test.read("all" if split == "all" else "test"), partial(train.read, "train") if train else None)


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


def _find_parts(path: Path, test_fraction: float, split: str) -> tuple[_ImageFiles | None, _ImageFiles]:
    """Return the training files, if any, and the test files."""
    has_train, has_test = (path / "train").is_dir(), (path / "test").is_dir()
    if has_train and not has_test:
        raise DataError(f"{path} has train/ and no test/; rename val/ to test/, or move the class folders of train/ up")
    if not has_test:
        whole = _list_images(path, name=path.name)
        if split == "all":
            return None, whole
        train, test = _hold_out(whole, test_fraction)
        LOG.info(
            one_line(
                f"edgeproof: {path} has no test/: {len(test.files)} of its {len(whole.files)} images are the test images and "
                f"{len(train.files)} are for training; attack and eval take all of them with --split all"
            )
        )
        return train, test
    if split == "all" and has_train:
        raise ConfigError(f"{path} has train/ and test/ of its own; leave out split = all")
    test = _list_images(path / "test", name=path.name)
    if not has_train:
        return None, test
    train = _list_images(path / "train", name=path.name)
    if unpaired := set(test.classes) ^ set(train.classes):
        raise DataError(
            f"{path}: class {min(unpaired)!r} is only in one of train/ and test/; expected the same in both, an empty folder "
            "where a class has no images"
        )
    return train, test


def _list_images(folder: Path, *, name: str) -> _ImageFiles:
    """List the images of a folder of class folders, and say what is left out."""
    found = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if len(found) < 2:
        raise DataError(f"{folder} has {len(found)} class folder(s); expected at least two, with images in them")
    left_out: list[Path] = []
    groups = {label: _image_files(folder / label, left_out) for label in found}
    if empty := [label for label in found if not groups[label]]:
        if len(empty) == len(found):
            raise DataError(f"{folder} holds no images in its {len(found)} class folders; add some{_counted(left_out)}")
        more = f" and {len(empty) - 1} more" if len(empty) > 1 else ""
        LOG.info(one_line(f"edgeproof: {folder}: class {empty[0]!r}{more} has no images, and is a class all the same"))
    if left_out:
        LOG.warning(
            one_line(f"edgeproof: {folder}: {len(left_out)} files are no images and are left out{_counted(left_out)}")
        )
    # Files stay in the order of the names, so that an image's index does not depend on the order of the classes.
    classes = sorted(found, key=int) if all(label.isdecimal() and len(label) < 10 for label in found) else found
    rank = {label: number for number, label in enumerate(classes)}
    files = tuple(file for label in found for file in groups[label])
    labels = np.repeat([rank[label] for label in found], [len(groups[label]) for label in found]).astype(np.int64)
    return _ImageFiles(files, labels, np.arange(len(files)), tuple(classes), name)


def _image_files(folder: Path, left_out: list[Path]) -> list[Path]:
    """Return the files of a class folder that hold images, whatever their names end in; note the others in `left_out`."""
    files: list[Path] = []
    for file in sorted(entry for entry in folder.iterdir() if not entry.name.startswith(".")):
        if file.is_dir():
            raise DataError(
                f"class folder {folder} holds the folder {file.name!r}; expected images: is PATH one too high?"
            )
        if not file.is_file():  # to open a pipe is to wait for its writer
            raise DataError(f"{file} is no file; move it out of the folder")
        if file.name.lower() in _NOT_IMAGES:
            continue
        (files if file.suffix.lower() in ENDINGS or holds_image(file) else left_out).append(file)
    return files


def _counted(files: list[Path]) -> str:
    """Say how many files of each ending there are, and name the first of each."""
    if not files:
        return ""
    endings = Counter(file.suffix.lower() or "without ending" for file in files)
    firsts = {file.suffix.lower() or "without ending": file for file in reversed(files)}
    named = [f"{count} {ending} such as {firsts[ending]}" for ending, count in endings.most_common(4)]
    return f": {', '.join(named)}; convert them to PNG or JPEG, or move them out"


def _hold_out(whole: _ImageFiles, fraction: float) -> tuple[_ImageFiles, _ImageFiles]:
    """Share the files into training and test ones, by class and the same each time."""
    sizes = np.bincount(whole.labels, minlength=len(whole.classes))
    for label in np.flatnonzero(sizes == 1):
        raise DataError(
            f"folder {whole.name}: class {whole.classes[label]!r} has one image; expected one to train on and one to test; "
            "attack and eval take all images with --split all"
        )
    random = np.random.default_rng(0)
    held = np.minimum(held_out(sizes, fraction), sizes - 1)
    # In the order of the files, so that the choice stays that of earlier versions where classes are ordered by number.
    present = list(dict.fromkeys(whole.labels.tolist()))
    test = [random.permutation(np.flatnonzero(whole.labels == label))[: held[label]] for label in present]
    rows = np.sort(np.concatenate(test))
    return whole.take(np.setdiff1d(whole.index, rows)), whole.take(rows)

"""Adversarial sets that other tools wrote: npz files, and torch files of plain tensors.

Without the clean images neither the budget nor the success of an attack can be computed, so they are required: from the
file itself, or from the data set that the attack began with.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeproof.data.arrays import read_npz, to_float
from edgeproof.data.base import AdversarialSet, LabelledImages
from edgeproof.data.npz import read_classes, to_nchw
from edgeproof.data.source import MAX_BYTES, parsing
from edgeproof.errors import DataError
from edgeproof.runs import sha256_file
from edgeproof.system.optional import require
from edgeproof.types import Array, Images, Norm

# The names that torchattacks, AutoAttack's scripts, foolbox users and we ourselves give, ours first.
_ADVERSARIES = ("x_adv", "adv_inputs", "adv_complete", "adv_images", "adversarial")
_LABELS = ("y", "labels", "y_true", "y_test")
_CLEAN = ("x", "clean_inputs", "x_clean", "clean", "x_test")
_TYPES = ("float16", "float32", "float64", "uint8", "int8", "int16", "int32", "int64", "bool")
_ROUNDING = 1e-6  # of other tools' float32 arithmetic, in [0, 1] pixel units


def load_foreign_set(
    path: Path, *, clean: LabelledImages | None = None, eps: float | None = None, norm: Norm = "linf"
) -> AdversarialSet:
    """Read adversarial images, and pair them with the clean images that they were made from.

    Args:
        path: An .npz, or a .pt or .pth that torch opens with `weights_only=True`, holding a dictionary of arrays:
            adversaries (x_adv, adv_inputs, adv_complete...), labels (y, labels...) and clean images (x, clean_inputs...).
        clean: The clean images where the file has none: its first N, in order. It also gives the class names.
        eps: The budget that the other tool was given, in [0, 1] pixel units; by default the largest distance measured.
        norm: The norm of that budget.

    Returns:
        The set; `params` says which file it was, and `indicators` the largest distances in both norms.

    Raises:
        DataError: When an array is missing or does not fit, labels differ from those of `clean`, or an image is further
            than `eps` from its clean image.
        UnavailableError: For a torch file without torch.
    """
    arrays = _read(path)
    adversaries = _images(path, arrays, _ADVERSARIES)
    if adversaries is None:
        raise DataError(
            f"{path} has no adversarial images; expected one of {', '.join(_ADVERSARIES)}; it has: {', '.join(arrays)}"
        )
    originals = _clean_images(path, arrays, clean, count=len(adversaries))
    if originals.images.shape != adversaries.shape:
        raise DataError(
            f"{path}: adversaries are {adversaries.shape} and clean images {originals.images.shape}; expected equal"
        )
    distances = _largest_distances(adversaries, originals.images)
    if eps is not None and distances[norm] > eps + _ROUNDING:
        raise DataError(
            f"{path}: an image is {distances[norm]:.6f} from its clean one in {norm}, more than eps = {eps:.6f}"
        )
    return AdversarialSet(
        name=path.stem,
        attack="foreign",
        norm=norm,
        eps=distances[norm] if eps is None else eps,
        images=adversaries,
        clean=originals,
        params={"file": path.name, "sha256": sha256_file(path)},
        indicators={f"largest_{name}": distance for name, distance in distances.items()},
    )


def _read(path: Path) -> dict[str, Array]:
    if path.suffix == ".npz":
        return read_npz(path)
    if path.suffix not in (".pt", ".pth"):
        raise DataError(f"{path} is neither .npz nor .pt; expected an adversarial set in one of these")
    torch = require("torch", extra="train", purpose=f"read {path.name}; an npz needs none")
    with parsing(str(path), kind="a torch file of plain tensors"):
        _check_size(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, Mapping):
        raise DataError(
            f"{path} holds a {type(content).__name__}; expected a dictionary of tensors such as x_adv and y"
        )
    tensors = {
        name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, torch.Tensor)
    }
    return {name: _to_numpy(tensor, what=f"{path}: {name}") for name, tensor in tensors.items()}


def _check_size(path: Path) -> None:
    """Refuse a torch file, which is a zip, that unpacks to more than memory."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > MAX_BYTES:
            raise DataError(f"{path} would unpack to {size} bytes; the limit is {MAX_BYTES}")


def _to_numpy(tensor: Any, *, what: str) -> Array:
    """Return a tensor's numbers, of which each has to stand in the file."""
    kind = str(tensor.dtype).removeprefix("torch.")
    if str(tensor.layout) != "torch.strided" or tensor.is_meta or kind not in _TYPES:
        raise DataError(
            f"{what} is {tensor.layout} of {kind} on {tensor.device}; expected a dense tensor of floats or integers"
        )
    claimed, held = tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()
    if claimed > held:
        raise DataError(
            f"{what} of shape {tuple(tensor.shape)} claims {claimed} bytes and holds {held}; save its clone()"
        )
    with parsing(what, kind="a tensor"):
        array: Array = tensor.detach().numpy()
    return array


def _find(arrays: Mapping[str, Array], names: Sequence[str]) -> Array | None:
    return next((arrays[name] for name in names if name in arrays), None)


def _images(path: Path, arrays: Mapping[str, Array], names: Sequence[str]) -> Images | None:
    found = _find(arrays, names)
    return None if found is None else to_float(to_nchw(found, what=str(path)), what=str(path))


def _clean_images(
    path: Path, arrays: Mapping[str, Array], clean: LabelledImages | None, *, count: int
) -> LabelledImages:
    """Return the clean images of the file, else the first ones of `clean`, with labels that agree."""
    images, labels = _images(path, arrays, _CLEAN), _find(arrays, _LABELS)
    if images is None and clean is None:
        raise DataError(
            f"{path} has no clean images ({', '.join(_CLEAN)}), without which neither budget nor success can be "
            "computed; save them beside the adversaries, or name the data set they come from"
        )
    if images is not None and labels is not None:
        names = {"classes": np.array(clean.classes)} if clean else arrays
        classes, counted_from = read_classes(names, labels=labels, what=str(path))
        return LabelledImages.from_arrays(images, labels - counted_from, classes=classes, name=path.name, split="test")
    if clean is None:
        raise DataError(f"{path} has no labels; expected one of {', '.join(_LABELS)}; it has: {', '.join(arrays)}")
    if count > len(clean):
        raise DataError(
            f"{path} has {count} adversaries and {clean.name}/{clean.split} only {len(clean)} images; expected its first N"
        )
    first = clean.take(np.arange(count))
    if labels is not None and not np.array_equal(labels.ravel(), first.labels):
        raise DataError(
            f"{path}: its labels are not those of the first {count} images of {clean.name}/{clean.split}; expected the same order"
        )
    if images is not None and not np.allclose(images, first.images, rtol=0, atol=_ROUNDING):
        raise DataError(
            f"{path}: its clean images are not the first {count} of {clean.name}/{clean.split}; expected the same order"
        )
    return first


def _largest_distances(adversaries: Images, originals: Images) -> dict[Norm, float]:
    difference = (adversaries - originals).reshape(len(adversaries), -1)
    return {
        "linf": float(np.abs(difference).max(initial=0)),
        "l2": float(np.linalg.norm(difference, axis=1).max(initial=0)),
    }

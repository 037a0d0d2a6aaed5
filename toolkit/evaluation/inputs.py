"""The inputs of an evaluation: adversarial sets that share one set of clean images."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgeproof.config import DataConfig
from edgeproof.data.arrays import to_storage
from edgeproof.data.base import AdversarialSet, LabelledImages, load_adversarial_set, load_part
from edgeproof.data.classes import relabelled
from edgeproof.data.foreign import load_foreign_set
from edgeproof.engines.specs import distinct_names
from edgeproof.errors import ConfigError, DataError
from edgeproof.evaluation.metrics import predictions
from edgeproof.evaluation.results import SetRecord
from edgeproof.evaluation.scoring import CLEAN
from edgeproof.runs import Run
from edgeproof.types import Array, Images, Labels, Logits


@dataclass(frozen=True)
class EvalInputs:
    """Clean images and the adversarial sets made from them, under distinct names."""

    clean: LabelledImages
    sets: tuple[AdversarialSet, ...]

    def images(self) -> dict[str, Images]:
        """Return the images of every set by its name, the clean ones first."""
        return {CLEAN: self.clean.images, **{set_.name: set_.images for set_ in self.sets}}

    def records(self) -> tuple[SetRecord, ...]:
        """Describe the clean set and the adversarial ones."""
        clean = SetRecord(
            name=CLEAN,
            kind="clean",
            attack=None,
            norm=None,
            eps=None,
            pixels="uint8" if to_storage(self.clean.images).dtype == np.uint8 else "float",
            params={},
            indicators={},
            count=len(self.clean),
            sha256=hash_images(self.clean.images),
        )
        return clean, *(
            SetRecord(**set_.fields(), kind="adversarial", count=len(set_.images), sha256=hash_images(set_.images))
            for set_ in self.sets
        )

    def take(self, rows: Array) -> EvalInputs:
        """Return these rows of the clean set and of every adversarial one."""
        clean, sets = self.clean.take(rows), []
        for set_ in self.sets:
            logits = [None if each is None else each[rows] for each in (set_.source_logits, set_.source_clean_logits)]
            part = replace(
                set_, images=set_.images[rows], clean=clean, source_logits=logits[0], source_clean_logits=logits[1]
            )
            sets.append(part)
        return EvalInputs(clean, tuple(sets))

    def of_classes(self, mapping: Array, classes: tuple[str, ...]) -> EvalInputs:
        """Return the same images labelled by other classes, of which a label's is `mapping[label]`.

        Raises:
            DataError: When a source model has a class that is none of these.
        """
        clean = relabelled(self.clean, mapping, classes)
        if clean is self.clean:
            return self

        def moved(logits: Logits | None, name: str) -> Logits | None:
            if logits is None:
                return None
            if mapping.min() < 0:
                missing = self.clean.classes[int(mapping.argmin())]
                raise DataError(
                    f"{name}: its source model has the class {missing!r}, which the engines do not; attack again"
                )
            columns = np.full((len(logits), len(classes)), -np.inf, logits.dtype)
            columns[:, mapping] = logits
            return columns

        sets = (
            replace(
                set_,
                clean=clean,
                source_logits=moved(set_.source_logits, set_.name),
                source_clean_logits=moved(set_.source_clean_logits, set_.name),
            )
            for set_ in self.sets
        )
        return EvalInputs(clean, tuple(sets))

    def source_predictions(self) -> dict[str, tuple[Labels, Labels]]:
        """Return the source model's predictions on clean and attacked images, for the sets that carry its logits."""
        return {
            set_.name: (predictions(set_.source_clean_logits), predictions(set_.source_logits))
            for set_ in self.sets
            if set_.source_logits is not None and set_.source_clean_logits is not None
        }


def load_inputs(runs: Sequence[str], *, data: str | None, split: str = "test") -> EvalInputs:
    """Open attack runs and adversarial sets of other tools, or a data set's test images when there are neither.

    Args:
        runs: Attack runs, and files that other tools wrote (npz or pt with adversarial images and labels).
        data: A data set: what is measured on when nothing else is given, and what a file without clean images was made from.
        split: Which part of it, as `load_part` takes it.

    Raises:
        ConfigError: When there is neither.
        DataError: When the sets were not made from the same clean images.
        RunError: For an unfinished or changed run.
    """
    if not runs and data is None:
        raise ConfigError(
            "nothing to evaluate on: give attack runs with --adversaries RUN, or clean images with --data NAME"
        )
    if not runs:
        return EvalInputs(load_part(DataConfig(name=data or ""), split), ())
    own = {path: load_adversarial_set(Run.open(path, kind="attack")) for path in runs if not Path(path).is_file()}
    clean = next((set_.clean for set_ in own.values()), None)
    if clean is None and data is not None:
        clean = load_part(DataConfig(name=data), split)

    return join_sets({path: own[path] if path in own else load_foreign_set(Path(path), clean=clean) for path in runs})


def join_sets(opened: Mapping[str, AdversarialSet]) -> EvalInputs:
    """Join adversarial sets, each under what messages call it, that were made from the same clean images.

    Raises:
        DataError: When they were not.
    """
    texts, found = list(opened), list(opened.values())
    clean = found[0].clean
    for text, set_ in zip(texts[1:], found[1:], strict=True):
        if hash_labelled(set_.clean) != hash_labelled(clean):
            raise DataError(
                f"{text} was made from other clean images than {texts[0]} ({len(set_.clean)} and {len(clean)} images of "
                f"{set_.clean.name}/{set_.clean.split} and {clean.name}/{clean.split}; their SHA-256 differ); "
                f"attack the same split with the same limit, or evaluate them apart"
            )
    sources: dict[str, set[str]] = {}
    for set_ in found:
        sources.setdefault(set_.name, set()).add(set_.source)
    # Where one attack was made on several sources, the source distinguishes its sets.
    apart = [
        f"{set_.name} on {set_.source}" if set_.source and len(sources[set_.name]) > 1 else set_.name for set_ in found
    ]
    names = distinct_names(apart, taken=(CLEAN,))
    sets = tuple(replace(set_, name=name, clean=clean) for set_, name in zip(found, names, strict=True))
    return EvalInputs(clean, sets)


def hash_images(images: Images) -> str:
    """Return the SHA-256 of images: their shape and their float32 bytes."""
    digest = hashlib.sha256(repr(images.shape).encode())
    digest.update(np.ascontiguousarray(images).data)
    return digest.hexdigest()


def hash_labelled(data: LabelledImages) -> str:
    """Return the SHA-256 of images with their labels and class names."""
    digest = hashlib.sha256(hash_images(data.images).encode())
    digest.update(np.ascontiguousarray(data.labels).data)
    digest.update(repr(data.classes).encode())
    return digest.hexdigest()


def hash_each(images: Images) -> Array:
    """Return (N,) uint64: the first 8 bytes, little-endian, of the SHA-256 of each image's float32 bytes."""
    digests = b"".join(hashlib.sha256(np.ascontiguousarray(image).data).digest()[:8] for image in images)
    return np.frombuffer(digests, "<u8").astype(np.uint64)

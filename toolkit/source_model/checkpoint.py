"""A torch network as the source of an attack: what is attacked is what runs."""

from __future__ import annotations

from pathlib import Path

from edgeproof.data.origin import data_of
from edgeproof.models.base import load_classifier
from edgeproof.runs import Run, sha256_file
from edgeproof.source_model.base import SourceModel


class Checkpoint(SourceModel):
    """A torch network in eval mode."""


def open_checkpoint(path: Path, *, device: str) -> Checkpoint:
    """Open a train run.

    Raises:
        RunError: For an unfinished run, or weights whose hash has changed.
        UnavailableError: When the device is not there.
    """
    run = Run.open(path, kind="train")
    weights = run.file("model.safetensors")
    model = load_classifier(weights, device=device)
    return Checkpoint(
        model,
        run.path.name,
        model.input_shape,
        model.num_classes,
        device,
        (sha256_file(weights),),
        data_of(run),
        classes=model.classes,
    )

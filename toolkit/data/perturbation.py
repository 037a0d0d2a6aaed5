"""Universal perturbations as files: `perturbation.npz` for machines and `perturbation.png` for people."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgeproof.data.arrays import read_npy, read_npz, write_npz
from edgeproof.errors import DataError
from edgeproof.runs import Run, atomic
from edgeproof.types import Array

PERTURBATION = "perturbation.npz"
_PICTURE = "perturbation.png"
_MODES = {1: "L", 3: "RGB"}  # channels that make a picture


def save_perturbation(folder: Path, delta: Array) -> None:
    """Write perturbations into a run that is being written.

    Args:
        folder: Of the run.
        delta: (P, C, H, W) float32: one, or one a class. In the picture they lie side by side, 0 is grey and the largest pixel
            of all is black or white; other than one or three channels make none.
    """
    write_npz(folder / PERTURBATION, {"delta": delta})
    mode = _MODES.get(delta.shape[1])
    if mode is None:
        return
    from PIL import Image

    shown = np.concatenate(list(delta), axis=-1) / max(float(np.abs(delta).max()), 1e-12)
    levels = np.rint(127.5 + 127.5 * shown).astype(np.uint8).transpose(1, 2, 0)
    with atomic(folder / _PICTURE) as temporary:
        Image.fromarray(levels[..., 0] if mode == "L" else levels, mode).save(temporary, format="PNG")


def load_perturbation(path: Path) -> Array:
    """Read perturbations, (P, C, H, W) float32, from an attack run, an npz with `delta`, or an npy of one or several.

    Raises:
        RunError: For an attack run without one, or whose file has changed.
        DataError: For a file that holds no finite float32 perturbation.
    """
    file = Run.open(path, kind="attack").file(PERTURBATION) if path.is_dir() else path
    if file.suffix == ".npz":
        delta = read_npz(file, required=("delta",))["delta"]
    else:
        delta = read_npy(file)
    if delta.ndim == 3:
        delta = delta[None]
    if delta.ndim != 4 or delta.dtype != np.float32 or not np.isfinite(delta).all():
        raise DataError(
            f"{file} holds {delta.dtype} of shape {delta.shape}; expected finite float32 (C, H, W) or (P, C, H, W) in [0, 1] pixel units"
        )
    return delta

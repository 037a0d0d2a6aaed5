"""The images themselves: clean, adversarial, and ten times their difference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeproof.evaluation.results import SetRecord
from edgeproof.reports.content import EvalRun, Gallery, clean_set
from edgeproof.reports.figures.svg import png_uri
from edgeproof.types import Array, Images

GAIN = 10
_MAX_SIDE = 128  # pixels; of larger images every second (third, ...) pixel is shown, values untouched


@dataclass(frozen=True)
class Picture:
    """One sample in one adversarial set: three PNG data URIs, and what the engines make of them."""

    clean: str
    adversarial: str
    difference: str
    index: int
    label: str
    before: str
    after: str


def pictures(run: EvalRun, set_: SetRecord) -> list[Picture]:
    """Return the gallery of one adversarial set, empty when no images of it were kept."""
    gallery = run.gallery
    if gallery is None or set_.name not in gallery.attacked:
        return []
    return [_picture(run, gallery, set_, place) for place in range(len(gallery.rows))]


def _picture(run: EvalRun, gallery: Gallery, set_: SetRecord, place: int) -> Picture:
    clean, attacked = gallery.clean[place], gallery.attacked[set_.name][place]
    row = int(gallery.rows[place])
    return Picture(
        clean=png_uri(_pixels(clean)),
        adversarial=png_uri(_pixels(attacked)),
        difference=png_uri(_pixels(0.5 + GAIN * (attacked - clean))),
        index=int(run.index[row]),
        label=run.results.classes[run.labels[row]],
        before=_verdicts(run, clean_set(run.results).name, row),
        after=_verdicts(run, set_.name, row),
    )


def _verdicts(run: EvalRun, set_: str, row: int) -> str:
    """Say which engines predict what, as `cat` when they agree, else `cat (torch-fp32), dog (ort-int8)`."""
    votes: dict[str, list[str]] = {}
    for engine in run.results.engines:
        label = int(run.predictions[engine.name, set_][row])
        predicted = run.results.classes[label] if label >= 0 else "no class"
        votes.setdefault(predicted, []).append(engine.name)
    if len(votes) == 1:
        return next(iter(votes))
    return ", ".join(f"{name} ({', '.join(engines)})" for name, engines in votes.items())


def _pixels(image: Images) -> Array:
    """Turn one image (C, H, W) into uint8 for a screen: grey or colour, the mean where there are other channels."""
    step = -(-max(image.shape[1:]) // _MAX_SIDE)
    shown = image[:, ::step, ::step]
    levels = np.rint(255 * np.clip(shown, 0, 1)).astype(np.uint8)
    if len(image) == 3:
        return np.ascontiguousarray(levels.transpose(1, 2, 0))
    grey: Array = np.rint(levels.mean(axis=0)).astype(np.uint8)
    return grey

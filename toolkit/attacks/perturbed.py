"""Universal perturbations in the attack stage: fitted on training images, kept in the run, added to the images to attack."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from edgeproof.attacks.base import Draws
from edgeproof.attacks.configured import Attack
from edgeproof.attacks.fitting import FitCheckpoint
from edgeproof.config import format_eps
from edgeproof.data.base import LabelledImages
from edgeproof.data.perturbation import save_perturbation
from edgeproof.errors import DataError
from edgeproof.source_model.base import SourceModel
from edgeproof.system.distributed import first, share_arrays

FIT = "fit.npz"  # where a fit stands, until it is finished


def fit_on_training(
    chosen: Attack, source: SourceModel, load_train: Callable[[], LabelledImages], folder: Path, *, seed: int
) -> Attack:
    """Return the attack with its perturbations fitted on the training split; one that needs no data comes back as it is.

    Of several processes the first fits and the others wait for it.

    Args:
        chosen: The attack.
        source: The model that is attacked.
        load_train: Reads the training images, which are fitted on.
        folder: Keeps the state of the fit and then the perturbations.
        seed: Of the batches' order.

    Raises:
        DataError: When there are no training images.
    """
    if chosen.spec.access != "data":
        return chosen
    found = {}
    if first():
        train = load_train()
        if not len(train):
            raise DataError(
                f"{train.name} has no training images, and a universal perturbation is fitted on them; attack a model with --data "
                "that has some"
            )
        delta = chosen.fit(
            source.follow,
            torch.from_numpy(train.images),
            torch.from_numpy(train.labels).to(source.device),
            draws=Draws(seed=seed, index=train.index),
            checkpoint=FitCheckpoint(folder / FIT, title=f"fit {chosen.spec.name} {format_eps(chosen.eps)}"),
        )
        found = {"delta": delta.cpu().numpy()}
        save_perturbation(folder, found["delta"])
        chosen = replace(
            chosen, params={**chosen.params, "fitted_on": f"{train.name}/{train.split}, {len(train)} images"}
        )
    return replace(chosen, perturbation=torch.from_numpy(share_arrays(found)["delta"]).to(source.device))

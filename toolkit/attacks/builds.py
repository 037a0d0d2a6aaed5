"""Several builds of one network as one source: combined for the attack, and in the end each asked, image by image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeproof.attacks.gradients import Builds
from edgeproof.attacks.twin import Origin, confirm, real_logits
from edgeproof.data.arrays import write_npz
from edgeproof.data.base import AdversarialSet
from edgeproof.engines.specs import distinct_names
from edgeproof.errors import DataError
from edgeproof.evaluation.metrics import predictions

if TYPE_CHECKING:
    from edgeproof.types import LogitsFn

BUILDS = "builds.npz"


def combine(models: Sequence[LogitsFn]) -> LogitsFn:
    """Return one model as it is, several as one whose losses are averaged."""
    return models[0] if len(models) == 1 else Builds(models)


def confirm_on_each(
    adversaries: AdversarialSet,
    origins: Sequence[Origin],
    *,
    checked: Sequence[Mapping[str, float]],
    batch_size: int,
    folder: Path,
) -> AdversarialSet:
    """Ask every build that was attacked, image by image, in the form that runs: a graph by its engine.

    With several builds `builds.npz` holds the classes that each gives, `pred/<build>` (N,) in the order of the images.

    Args:
        adversaries: As the attack has made them.
        origins: What was attacked; the first one is the source whose logits the set carries.
        checked: What `check_twin` has measured of each.
        batch_size: Images a call.
        folder: Where `builds.npz` goes.

    Returns:
        The set with the first build's own logits and the indicator `confirmed`: of the adversaries that fool the source as it
        was attacked, the share that fool every build; and for several builds `confirmed_by <build>` for each.
    """
    if len(origins) == 1 or adversaries.source_logits is None:
        return confirm(adversaries, origins[0], checked=checked[0], batch_size=batch_size)
    labels, names = adversaries.clean.labels, distinct_names([origin.name for origin in origins], taken=())
    logits = [real_logits(origin, adversaries.images, batch_size=batch_size) for origin in origins]
    found = {name: predictions(each) for name, each in zip(names, logits, strict=True)}
    write_npz(folder / BUILDS, {f"pred/{name}": classes for name, classes in found.items()})
    fooled = predictions(adversaries.source_logits) != labels
    hits = np.stack([classes != labels for classes in found.values()])[:, fooled]
    shares = {
        "confirmed": hits.all(axis=0),
        **{f"confirmed_by {name}": row for name, row in zip(names, hits, strict=True)},
    }
    worst = {key: max(each.get(key, 0.0) for each in checked) for each in checked for key in each}
    measured = {name: float(share.mean()) for name, share in shares.items()} if fooled.any() else {}
    return replace(
        adversaries,
        source_logits=logits[0],
        source_clean_logits=real_logits(origins[0], adversaries.clean.images, batch_size=batch_size),
        indicators={**adversaries.indicators, **worst, **measured},
    )


def compare_builds(adversaries: AdversarialSet, deployed: Origin, *, batch_size: int) -> AdversarialSet:
    """Count, in the forms that run, what one build gets right and the deployed one wrong.

    Args:
        adversaries: With the first build's own logits.
        deployed: The second build.
        batch_size: Images a call.

    Returns:
        The set with the finding `builds`, all counts of images: `right_before` in both builds when clean; of these `found`
        (still right in the first, wrong in the deployed one) and `not_found`; over all images `source_right` and
        `deployed_right` after the attack, and `missed`, right in the first and wrong in the deployed one: what a sign-off of
        the first build alone does not see.

    Raises:
        DataError: For a set without its source's logits.
    """
    labels = adversaries.clean.labels
    if adversaries.source_logits is None or adversaries.source_clean_logits is None:
        raise DataError(f"{adversaries.name} carries no logits of its source; craft it with `attack`")
    source = predictions(adversaries.source_logits) == labels
    source_clean = predictions(adversaries.source_clean_logits) == labels
    second, second_clean = (
        predictions(real_logits(deployed, images, batch_size=batch_size)) == labels
        for images in (adversaries.images, adversaries.clean.images)
    )
    before = source_clean & second_clean
    masks = {
        "right_before": before,
        "found": before & source & ~second,
        "not_found": before & ~(source & ~second),
        "source_right": source,
        "deployed_right": second,
        "missed": source & ~second,
    }
    counts = {"images": len(labels), **{name: int(mask.sum()) for name, mask in masks.items()}}
    about = {"deployed": deployed.name, "deployed_sha256": deployed.sha256, **counts}
    return replace(adversaries, findings={**adversaries.findings, "builds": about})

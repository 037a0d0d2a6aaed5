"""What becomes of adversaries in the forms that run: a graph by its engine, several builds each for itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgeproof.data.arrays import write_npz
from edgeproof.data.base import AdversarialSet
from edgeproof.errors import DataError
from edgeproof.evaluation.metrics import predictions
from edgeproof.source_model.base import SourceModel

BUILDS = "builds.npz"


def confirm(
    adversaries: AdversarialSet, source: SourceModel, *, checked: Mapping[str, float], batch_size: int, folder: Path
) -> AdversarialSet:
    """Ask what runs, build by build and image by image.

    With several builds `builds.npz` holds the classes that each gives, `pred/<build>` (N,) in the order of the images.

    Args:
        adversaries: As the attack has made them.
        source: What was attacked.
        checked: What its `self_check` has measured.
        batch_size: Images a call.
        folder: Where `builds.npz` goes.

    Returns:
        For a source that runs as it was attacked (a checkpoint, an engine) the set as it is. Else the set with the first build's
        own logits and the indicator `confirmed`: of the adversaries that fool the source as it was attacked, the share that fool
        every build; for several builds also `confirmed_by <build>` for each.
    """
    builds = source.builds
    if not builds or adversaries.source_logits is None:
        return adversaries
    labels = adversaries.clean.labels
    fooled = predictions(adversaries.source_logits) != labels
    logits = [build.served_logits(adversaries.images, batch_size=batch_size) for build in builds.values()]
    found = {name: predictions(each) for name, each in zip(builds, logits, strict=True)}
    hits = {name: (classes != labels)[fooled] for name, classes in found.items()}
    shares = {"confirmed": np.all(list(hits.values()), axis=0)}
    if len(builds) > 1:
        write_npz(folder / BUILDS, {f"pred/{name}": classes for name, classes in found.items()})
        shares |= {f"confirmed_by {name}": hit for name, hit in hits.items()}
    measured = {name: float(share.mean()) for name, share in shares.items()} if fooled.any() else {}
    return replace(
        adversaries,
        source_logits=logits[0],
        source_clean_logits=next(iter(builds.values())).served_logits(adversaries.clean.images, batch_size=batch_size),
        indicators={**adversaries.indicators, **checked, **measured},
    )


def compare_builds(adversaries: AdversarialSet, deployed: SourceModel, *, batch_size: int) -> AdversarialSet:
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
        predictions(deployed.served_logits(images, batch_size=batch_size)) == labels
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
    about = {"deployed": deployed.name, "deployed_sha256": next(iter(deployed.sha256), ""), **counts}
    return replace(adversaries, findings={**adversaries.findings, "builds": about})

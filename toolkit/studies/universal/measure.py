"""One trained network: perturbations fitted to it on its training images, and what it and other forms then predict."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from edgeproof.data.arrays import write_npz
from edgeproof.data.base import load_splits
from edgeproof.data.origin import data_of
from edgeproof.engines.base import predict_all
from edgeproof.evaluation.metrics import predictions
from edgeproof.runs import Run
from edgeproof.studies.measuring import WEIGHTS, attacked, configured, deployed_graphs, open_engines, open_source
from edgeproof.types import Array, Images

PREDICTIONS = "predictions.npz"
CLEAN, CHECKPOINT = "clean", "checkpoint"


def measure(config: Mapping[str, Any], out: Run) -> None:
    """Attack a network and keep every predicted class.

    Writes `predictions.npz`: `labels` (N,), and (N,) predicted classes as `clean/<form>` and `<attack>@<scale>/<form>`. The
    form `checkpoint` is the network itself, which all attacks are made on; a universal perturbation is fitted on its
    training split and added to the test images, as it is and made smaller by each of the scales.

    Args:
        config: `model` (train run), `forms` (name to another train run, or to an export run for its graphs), `attacks`
            (name to `attack`, `eps`, `params` and optionally `scales`), `limit`, `batch_size`, `seed`, `device`.
        out: The run.
    """
    import torch

    from edgeproof.attacks.base import Draws

    seed, batch_size, device = config["seed"], config["batch_size"], config["device"]
    run = Run.open(config["model"], kind="train")
    splits = load_splits(data_of(run))
    test, train = splits.test.head(config["limit"]), splits.train
    source = open_source(run.file(WEIGHTS), test.images, device=device)
    files = {CHECKPOINT: run.file(WEIGHTS)}
    for name, path in config["forms"].items():
        other = Run.open(path)
        files |= deployed_graphs(other) or {name: other.file(WEIGHTS)}
    found: dict[str, Array] = {"labels": test.labels}
    with ExitStack() as stack:
        forms = open_engines(files, device=device, stack=stack)

        def keep(name: str, images: Images) -> None:
            for form, engine in forms.items():
                found[f"{name}/{form}"] = predictions(predict_all(engine, images, batch_size=batch_size))

        keep(CLEAN, test.images)
        for name, asked in config["attacks"].items():
            attack = configured(asked)
            if attack.spec.access == "data":
                images, labels = torch.from_numpy(train.images), torch.from_numpy(train.labels).to(device)
                fitted = attack.fit(source, images, labels, draws=Draws(seed=seed, index=train.index))
            for scale in asked.get("scales", (1.0,)):
                if attack.spec.access == "data":
                    attack = replace(attack, perturbation=fitted * scale)
                made = attacked(attack, source, test, seed=seed, batch_size=batch_size, device=device)
                keep(f"{name}@{scale:g}", made)
    write_npz(out.path / PREDICTIONS, found)

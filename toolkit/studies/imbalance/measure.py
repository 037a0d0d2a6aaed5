"""One target class at one seed: every network attacked, and every deployed form asked. What is kept are logits."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np

from edgeproof.data.arrays import write_npz
from edgeproof.data.base import load_dataset
from edgeproof.data.classes import class_index
from edgeproof.engines.base import predict_all
from edgeproof.runs import Run
from edgeproof.studies.imbalance.published import BALANCED
from edgeproof.studies.measuring import WEIGHTS, attacked, configured, deployed_graphs, open_engines, open_source
from edgeproof.types import Array

LOGITS = "logits.npz"


def measure(config: Mapping[str, Any], out: Run) -> None:
    """Attack the test images of one class and keep the logits of every network.

    Writes `logits.npz`: `labels` (N,), `rows` of the target class (M,), `clean/<network>/<form>`, (N, K) of the checkpoint
    and (M, K) of the other forms, and `<attack>/<source>/<network>/<form>` (M, K), where the source is the network itself
    or the balanced one.

    Args:
        config: `data`, `target`, `networks` (name to train run), `graphs` (name to export run), `attacks` (name to
            `attack`, `eps` and `params`), `batch_size`, `device` and `seed`.
        out: The run.
    """
    batch_size, device = config["batch_size"], config["device"]
    test = load_dataset(config["data"]).test
    rows = np.flatnonzero(test.labels == class_index(str(config["target"]), test.classes))
    mine = test.take(rows)
    found: dict[str, Array] = {"labels": test.labels, "rows": rows}
    checkpoints = {name: Run.open(run, kind="train").file(WEIGHTS) for name, run in config["networks"].items()}
    with ExitStack() as stack:
        networks = {}
        for name, checkpoint in checkpoints.items():
            graphs = deployed_graphs(Run.open(config["graphs"][name])) if name in config["graphs"] else {}
            files = {"fp32": checkpoint, **{form.split("-")[0]: graph for form, graph in graphs.items()}}
            networks[name] = open_engines(files, device=device, stack=stack)
        for name, forms in networks.items():
            for form, engine in forms.items():
                images = test.images if form == "fp32" else mine.images
                found[f"clean/{name}/{form}"] = predict_all(engine, images, batch_size=batch_size)
        for source, checkpoint in checkpoints.items():
            followed = open_source(checkpoint, mine.images, device=device)
            for attack, asked in config["attacks"].items():
                # The paper's attack does not clip, and an engine takes what it is given.
                images = attacked(
                    configured(asked), followed, mine, seed=config["seed"], batch_size=batch_size, device=device
                )
                for name, forms in networks.items():
                    if source in (name, BALANCED):
                        for form, engine in forms.items():
                            logits = predict_all(engine, images, batch_size=batch_size)
                            found[f"{attack}/{source}/{name}/{form}"] = logits
    write_npz(out.path / LOGITS, found)

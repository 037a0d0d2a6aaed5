"""One target class at one seed: every network attacked, and every deployed form asked. What is kept are logits."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeproof.data.arrays import write_npz
from edgeproof.data.base import LabelledImages, load_dataset
from edgeproof.data.imbalance import class_index
from edgeproof.engines.base import Engine, EngineOptions, open_engine, predict_all
from edgeproof.runs import Run
from edgeproof.types import Array, Images, Logits

if TYPE_CHECKING:
    from edgeproof.models.base import Classifier

LOGITS = "logits.npz"
BALANCED = "balanced"
NETWORKS = (BALANCED, "under", "over")  # those of the paper; others are remedies


def measure_name(target: str, seed: int) -> str:
    """Name the job of a target class at a seed."""
    return f"measure-{word(target)}-{seed}"


def word(name: str) -> str:
    """Make a class's name a part of a job's."""
    return re.sub(r"[^A-Za-z0-9.-]", "_", name)


@dataclass(frozen=True)
class _Asked:
    """A network in all its forms: `fp32` is the checkpoint."""

    name: str
    forms: Mapping[str, Engine]


def measure(config: Mapping[str, Any], out: Run) -> None:
    """Attack the test images of one class and keep every network's logits.

    Writes `logits.npz`: `labels` (N,), `rows` of the target class (M,), `clean/<network>/<form>`, (N, K) of the checkpoint
    and (M, K) of the other forms, and `<attack>/<source>/<network>/<form>` (M, K), where the source is the network itself
    or the balanced one.

    Args:
        config: `data`, `target`, `networks` (name to train run), `graphs` (name to export run), `attacks` (name to
            `attack`, `eps` and `params`), `batch_size`, `device` and `seed`.
        out: The run.
    """
    test = load_dataset(config["data"]).test
    rows = np.flatnonzero(test.labels == class_index(test, config["target"]))
    mine = test.take(rows)
    found: dict[str, Array] = {"labels": test.labels, "rows": rows}
    with ExitStack() as stack:
        asked = [
            _open(name, run, config["graphs"].get(name), config["device"], stack)
            for name, run in config["networks"].items()
        ]
        for network in asked:
            for form, engine in network.forms.items():
                images = test.images if form == "fp32" else mine.images
                found[f"clean/{network.name}/{form}"] = _predict(engine, images, config)
        for attack, source, images in _attacked(config, mine):
            for network in asked:
                if source in (network.name, BALANCED):
                    for form, engine in network.forms.items():
                        found[f"{attack}/{source}/{network.name}/{form}"] = _predict(engine, images, config)
    write_npz(out.path / LOGITS, found)


def _open(name: str, run: str, graphs: str | None, device: str, stack: ExitStack) -> _Asked:
    import torch

    options = EngineOptions(threads=torch.get_num_threads())
    files = {"fp32": Run.open(run, kind="train").file("model.safetensors")}
    if graphs:
        exported = Run.open(graphs, kind="export")
        names = [file for file in exported.outputs() if file.endswith(".onnx") and "fp32" not in file]
        files |= {file.split(".")[1].split("-")[0]: exported.file(file) for file in names}
    forms = {
        form: stack.enter_context(open_engine(path, device=device if form == "fp32" else "cpu", options=options))
        for form, path in files.items()
    }
    return _Asked(name, forms)


def _predict(engine: Engine, images: Images, config: Mapping[str, Any]) -> Logits:
    # The paper's attack does not clip, and an engine takes what it is given.
    return predict_all(engine, images, batch_size=config["batch_size"])


def _attacked(config: Mapping[str, Any], data: LabelledImages) -> Iterator[tuple[str, str, Images]]:
    """Go through attacks and source networks, with the images made."""
    from edgeproof.models.base import load_classifier

    for source, run in config["networks"].items():
        model = load_classifier(Path(run) / "model.safetensors", device=config["device"])
        for name, about in config["attacks"].items():
            yield name, source, _craft(model, data, about, config)


def _craft(model: Classifier, data: LabelledImages, about: Mapping[str, Any], config: Mapping[str, Any]) -> Images:
    """Attack images batch by batch; each batch is held to the attack's contract."""
    import torch

    from edgeproof.attacks.base import Draws, find_attack
    from edgeproof.attacks.configured import choose_attack
    from edgeproof.source_model.folding import fast_form

    chosen = choose_attack(find_attack(about["attack"]), eps=about["eps"], params=about["params"])
    few = torch.from_numpy(data.images[:8]).to(config["device"])
    follow = fast_form(model, few, mode="fast")
    made = []
    for start in range(0, len(data), config["batch_size"]):
        batch = data.take(np.arange(start, min(start + config["batch_size"], len(data))))
        x = torch.from_numpy(batch.images).to(config["device"])
        y = torch.from_numpy(batch.labels).to(config["device"])
        draws = Draws(seed=config["seed"], index=batch.index)
        made.append(chosen.run(follow, x, y, draws=draws).cpu().numpy())
    images: Images = np.concatenate(made)
    return images

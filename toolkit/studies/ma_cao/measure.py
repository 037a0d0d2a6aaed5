"""One trained network: perturbations fitted to it on its training images, and what it and other forms then predict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeproof.data.arrays import write_npz
from edgeproof.data.base import LabelledImages, load_splits
from edgeproof.data.origin import data_of
from edgeproof.engines.base import Engine, EngineOptions, open_engine, predict_all
from edgeproof.evaluation.metrics import predictions
from edgeproof.runs import Run
from edgeproof.types import Array, Images

if TYPE_CHECKING:
    from torch import Tensor

    from edgeproof.attacks.configured import Attack
    from edgeproof.types import LogitsFn

PREDICTIONS = "predictions.npz"
CLEAN, CHECKPOINT = "clean", "checkpoint"


def measure(config: Mapping[str, Any], out: Run) -> None:
    """Attack a network and keep every predicted class.

    Writes `predictions.npz`: `labels` (N,), and (N,) predicted classes as `clean/<form>` and `<attack>@<scale>/<form>`. The
    form `checkpoint` is the network itself, which all attacks are made on; a universal perturbation is fitted on its
    training split and added to the test images, as it is and made smaller by each of the scales.

    Args:
        config: `model` (train run), `forms` (name to another train run, or to an export run for its graphs), `attacks`
            (name to `attack`, `eps`, `params` and optionally `scales`), `limit`, `batch_size`, `seed`.
        out: The run.
    """
    from edgeproof.models.base import load_classifier
    from edgeproof.source_model.folding import fast_form

    run = Run.open(config["model"], kind="train")
    splits = load_splits(data_of(run))
    test = splits.test.head(config["limit"])
    model = load_classifier(run.file("model.safetensors"), device=config["device"])
    source = fast_form(model, _tensor(test.images[:8], config), mode="fast")
    found: dict[str, Array] = {"labels": test.labels}
    with ExitStack() as stack:
        forms = _open_forms(run, config, stack)
        for form, engine in forms.items():
            found[f"{CLEAN}/{form}"] = _predict(engine, test.images, config)
        for name, images in _attacked(config, source, splits.train, test):
            for form, engine in forms.items():
                found[f"{name}/{form}"] = _predict(engine, images, config)
    write_npz(out.path / PREDICTIONS, found)


def _open_forms(run: Run, config: Mapping[str, Any], stack: ExitStack) -> dict[str, Engine]:
    import torch

    files = {CHECKPOINT: run.file("model.safetensors")}
    for name, path in config["forms"].items():
        other = Run.open(path)
        graphs = [file for file in other.outputs() if file.endswith(".onnx") and "fp32" not in file]
        files |= {file.split(".")[1]: other.file(file) for file in graphs} or {name: other.file("model.safetensors")}
    options = EngineOptions(threads=torch.get_num_threads())
    return {
        form: stack.enter_context(
            open_engine(file, device=config["device"] if file.suffix == ".safetensors" else "cpu", options=options)
        )
        for form, file in files.items()
    }


def _predict(engine: Engine, images: Images, config: Mapping[str, Any]) -> Array:
    return predictions(predict_all(engine, images, batch_size=config["batch_size"]))


def _attacked(
    config: Mapping[str, Any], source: LogitsFn, train: LabelledImages, test: LabelledImages
) -> Iterator[tuple[str, Images]]:
    """Go through the attacks and their scales, with the images made."""
    from edgeproof.attacks.base import Draws, find_attack
    from edgeproof.attacks.configured import choose_attack

    for name, about in config["attacks"].items():
        chosen = choose_attack(find_attack(about["attack"]), eps=about["eps"], params=about["params"])
        if chosen.spec.access == "data":
            draws = Draws(seed=config["seed"], index=train.index)
            found = chosen.fit(source, _host(train.images), _tensor(train.labels, config), draws=draws)
            chosen = replace(chosen, perturbation=found)
        for scale in about.get("scales", (1.0,)):
            yield f"{name}@{scale:g}", _craft(chosen, source, test, config, scale=scale)


def _craft(
    chosen: Attack, source: LogitsFn, test: LabelledImages, config: Mapping[str, Any], *, scale: float
) -> Images:
    from edgeproof.attacks.base import Draws

    if chosen.perturbation is not None:
        chosen = replace(chosen, perturbation=chosen.perturbation * scale)
    made = []
    for start in range(0, len(test), config["batch_size"]):
        part = test.take(np.arange(start, min(start + config["batch_size"], len(test))))
        draws = Draws(seed=config["seed"], index=part.index)
        x_adv = chosen.run(source, _tensor(part.images, config), _tensor(part.labels, config), draws=draws)
        made.append(x_adv.cpu().numpy())
    return np.concatenate(made)


def _host(array: Array) -> Tensor:
    import torch

    return torch.from_numpy(array)


def _tensor(array: Array, config: Mapping[str, Any]) -> Tensor:
    return _host(array).to(config["device"])


def measured_by(training: str, seed: int) -> str:
    """Name the job that measures a training."""
    return f"measure-{training}-{seed}"

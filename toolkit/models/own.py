"""The import stage: a network and weights of the user's own become a train run, which every later stage takes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from edgeproof.config import ImportConfig
from edgeproof.data.base import LabelledImages, load_part
from edgeproof.data.classes import fit_classes, read_class_file
from edgeproof.errors import ConfigError, ModelError
from edgeproof.models.base import Classifier, build_classifier, load_weights, save_classifier
from edgeproof.models.weights import fit_names, read_weights
from edgeproof.models.wrapped import per_channel
from edgeproof.runs import Run, write_json

LOG = logging.getLogger(__name__)

_CHECKED = 1000  # test images on which an imported network is tried
_BATCH = 128


def own_classifier(
    name: str,
    weights: Path,
    *,
    input_shape: tuple[int, int, int],
    classes: Sequence[str],
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    weights_key: str | None = None,
) -> Classifier:
    """Build a classifier around weights that other code has trained.

    Args:
        name: `module:factory` of the user's own code, `timm:NAME`, or a built-in network.
        weights: A safetensors file, or a torch file of tensors; entries such as `state_dict` and prefixes such as `module.` are understood.
        input_shape: (C, H, W).
        classes: The name of each class.
        mean: What the network's training subtracted from each channel, in [0, 1] pixel units (default: 0);
            a single number stands for every channel.
        std: What it then divided by (default: 1), likewise.
        weights_key: Which state dict of the file, as `read_weights` takes it.

    Returns:
        In eval mode, without gradients of the weights.

    Raises:
        ConfigError: For an unknown name.
        ModelError: When the network or its weights cannot be used.
    """
    channels = input_shape[0]
    with torch.random.fork_rng(devices=[]):
        model = build_classifier(
            name,
            input_shape=input_shape,
            classes=classes,
            mean=per_channel(mean or [0.0], channels),
            std=per_channel(std or [1.0], channels),
        )
    network = model.network.state_dict()
    found = fit_names(read_weights(weights, key=weights_key), network, source=str(weights))
    for key, value in found.items():
        mine = network[key].shape if key in network else value.shape
        if value.shape[:1] != mine[:1] == (model.num_classes,) and value.shape[1:] == mine[1:]:
            raise ModelError(
                f"{weights}: {key} is of {len(value)} classes, and {model.num_classes} are known ({', '.join(classes[:3])}, ...); "
                f"name all {len(value)} in the network's order, with --classes-file FILE or --classes"
            )
    load_weights(model.network, found, source=str(weights))
    return model.eval().requires_grad_(False)


def import_model(config: ImportConfig, out: Run) -> None:
    """Write a train run around the user's own network, after trying it on test images.

    The accuracy is said on stderr and kept in `history.json`: wrong mean and std, or classes in another order, show there.

    Raises:
        ConfigError: For an unknown name.
        DataError: When the data set cannot be loaded.
        ModelError: When the network, its weights and the images do not fit together.
    """
    test = load_part(config.data, "test")
    if config.input_shape and config.input_shape != test.input_shape:
        raise ModelError(
            f"input_shape = {config.input_shape}, but the images of {test.name} are {test.input_shape}; expected the same"
        )
    if config.classes and config.classes_file:
        raise ConfigError("classes and classes_file both name the network's classes; give one of them")
    names = read_class_file(Path(config.classes_file)) if config.classes_file else config.classes
    if names:
        test = fit_classes(test, names, count=len(names), model=config.model)
    model = own_classifier(
        config.model,
        Path(config.weights),
        input_shape=test.input_shape,
        classes=test.classes,
        mean=config.mean or None,
        std=config.std or None,
        weights_key=config.weights_key,
    )
    hits, total = _try_out(model, test.head(_CHECKED))
    LOG.info(
        f"edgeproof: {config.model} classifies {hits} of {total} test images correctly; "
        "if that is less than it should be, check mean, std and the order of the classes (--classes-file)"
    )
    save_classifier(out.path / "model.safetensors", model)
    tried = {"split": "test", "hits": hits, "total": total}
    write_json(out.path / "history.json", {"classes": list(model.classes), "epochs": [], "imported": tried})


def _try_out(model: Classifier, data: LabelledImages) -> tuple[int, int]:
    hits = 0
    with torch.no_grad():
        for start in range(0, len(data), _BATCH):
            logits = model(torch.from_numpy(data.images[start : start + _BATCH]))
            hits += int(np.count_nonzero(logits.argmax(1).numpy() == data.labels[start : start + _BATCH]))
    return hits, len(data)

"""The poison stage: a data set and a configuration in, poisoned training images out, compared image by image."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from edgeproof.config import PoisonConfig
from edgeproof.data.base import LabelledImages, Splits, load_splits
from edgeproof.data.classes import class_index
from edgeproof.data.poison import ABOUT, PoisonedImages, choose_poisoned, poison_splits, save_poison
from edgeproof.data.records import PoisonAbout
from edgeproof.errors import ConfigError, DataError
from edgeproof.models.base import torch_device
from edgeproof.ops import linf_project, to_grid
from edgeproof.poisoning.deep_confuse import train_generator
from edgeproof.poisoning.error_minimising import error_minimising
from edgeproof.poisoning.networks import NoiseGenerator, load_generator, save_generator
from edgeproof.runs import Run, write_json
from edgeproof.system.untrusted import read_index, read_record
from edgeproof.training.loop import torch_settings
from edgeproof.training.state import STATE
from edgeproof.types import Array, Images

LOG = logging.getLogger(__name__)

GENERATOR, TRIALS = "generator.safetensors", "trials.json"
_CHUNK = 512  # images at once


def poison(config: PoisonConfig, out: Run) -> None:
    """Poison the training images of a data set, held-out ones included, and finish the run.

    Writes `poison.npz` and `poison.json`, and for learned noise `generator.safetensors`, with `trials.json` where the
    generator was trained here.

    Raises:
        ConfigError: For settings that contradict each other.
        DataError: When there are no training images, or no level of the 8-bit grid is inside the budget of a pixel.
        ModelError: When a generator or a victim cannot be used, or a loss is no longer a number.
    """
    splits = load_splits(config.data)
    if not len(splits.train):
        raise DataError(f"data set {config.data.name!r} has no training images to poison; choose another --data")
    clean = _training_images(splits)
    _check(config)
    target = (
        read_target(config.target, data=clean) if config.reuse is None else _reused_target(config.reuse, data=clean)
    )
    chosen = choose_poisoned(clean.labels, config.ratio, seed=config.seed)
    if not chosen.any():
        raise ConfigError(f"ratio = {config.ratio:g} of each class is no image of {len(clean.labels)}; raise it")
    poisoned = PoisonedImages(
        images=clean.images,
        labels=clean.labels,
        index=clean.index,
        poisoned=chosen,
        data=clean.name,
        classes=clean.classes,
        eps=config.eps,
        method=config.method,
        target=target,
        flipped=config.method == "label-flip",
    )
    with torch_settings(config.threads, torch_device(config.device)):
        finished = _poisoned(config, splits, poisoned, out)
    poison_splits(splits, finished)
    save_poison(out, finished)
    out.intermediate(STATE)


def _check(config: PoisonConfig) -> None:
    """Refuse what contradicts itself, before anything is trained."""
    for name, value in (("target", config.target), ("reuse", config.reuse)):
        if value is not None and config.method != "deep-confuse":
            raise ConfigError(f"{name} = {value!r} is for deep-confuse; the method is {config.method!r}")
    if config.reuse is not None and config.target is not None:
        raise ConfigError(
            f"target = {config.target!r} and a generator that is reused, which has its own; leave target out"
        )
    if config.pixels == "uint8" and config.eps < 1 / 255 and config.method != "label-flip":
        raise ConfigError(
            f"eps = {config.eps:g} is less than one grey level, so that no image could change; raise it to 1/255 or give "
            "--pixels float"
        )


def _reused_target(path: str, *, data: LabelledImages) -> tuple[int, ...] | None:
    """Return the wanted classes of another run's generator."""
    target = read_record(Run.open(path, kind="poison").file(ABOUT), PoisonAbout).target
    if target is not None and len(target) != data.num_classes:
        raise ConfigError(f"the generator of {path} wants {len(target)} classes and {data.name} has {data.num_classes}")
    return target


def read_target(text: str | None, *, data: LabelledImages) -> tuple[int, ...] | None:
    """Return the wanted class of each class.

    Args:
        text: None for no wish, "next" for (y + 1) mod K, "to=CLASS" for one class of all, or K indices such as "1,2,0".
        data: For the names and the number of classes.

    Raises:
        ConfigError: For another text, or an unknown class.
    """
    if text is None:
        return None
    count = data.num_classes
    if text == "next":
        return tuple((label + 1) % count for label in range(count))
    if text.startswith("to="):
        return (class_index(text.removeprefix("to="), data.classes, context=f"{data.name}: "),) * count
    words = text.split(",")
    numbers = [number for word in words if (number := read_index(word.strip())) is not None and number < count]
    if len(words) != count or len(numbers) != count:
        raise ConfigError(f"target = {text!r}; expected next, to=CLASS or {count} class indices from 0 to {count - 1}")
    return tuple(numbers)


def _training_images(splits: Splits) -> LabelledImages:
    """Join the parts of the training split, in the order that they were published in."""
    parts = [splits.part(name) for name in ("train", "validation", "calibration")]
    images, labels, index = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("images", "labels", "index")
    )
    order = np.argsort(index)
    return replace(splits.train, images=images[order], labels=labels[order], index=index[order])


def _poisoned(config: PoisonConfig, splits: Splits, clean: PoisonedImages, out: Run) -> PoisonedImages:
    """Return the images with their chosen ones poisoned by the configured method."""
    if config.method == "label-flip":
        # Drawn from all classes: one in K stays correct by chance.
        drawn = np.random.default_rng([config.seed, 6]).integers(0, len(clean.classes), len(clean.labels))
        return replace(clean, labels=np.where(clean.poisoned, drawn, clean.labels))
    if config.method == "class-patterns":
        patterns = class_patterns(splits.train.input_shape, len(clean.classes), eps=config.eps, seed=config.seed)
        return replace(
            clean, images=_publish(clean, lambda rows, x: patterns[torch.from_numpy(clean.labels[rows])], config)
        )
    if config.method == "error-minimising":
        moved = error_minimising(config, splits, clean, out)
        return replace(clean, images=_publish(clean, lambda rows, x: moved[rows] - x, config))
    generator = _generator(config, splits, clean, out).to(config.device)
    return replace(clean, images=_publish(clean, lambda rows, x: generator(x.to(config.device)).cpu(), config))


def _generator(config: PoisonConfig, splits: Splits, clean: PoisonedImages, out: Run) -> NoiseGenerator:
    """Return the generator of another run, or train one; either way it becomes a file of this run."""
    if config.reuse is not None:
        generator = load_generator(Run.open(config.reuse, kind="poison").file(GENERATOR), eps=config.eps)
        channels = splits.train.input_shape[0]
        if generator.header.channels != channels:
            raise ConfigError(
                f"the generator of {config.reuse} is for images of {generator.header.channels} channels and {clean.data} has "
                f"{channels}; poison without --reuse"
            )
    else:
        state = train_generator(config, splits, out, target=clean.target)
        generator = state.frozen
        generator.load_state_dict(state.best)
        if not state.best_trial.trial:
            LOG.warning(
                "warning: no trial has misled a victim more than the untrained generator, which is kept; raise --trials"
            )
        trials = [trial.model_dump() for trial in state.trials]
        write_json(out.path / TRIALS, {"kept_trial": state.best_trial.trial, "trials": trials})
    save_generator(out.path / GENERATOR, generator)
    return generator


def class_patterns(shape: tuple[int, int, int], count: int, *, eps: float, seed: int) -> Tensor:
    """Return one pattern of random signs for each class, (K, C, H, W) in {-eps, eps}: the class-wise baseline.

    Later work found such noise to confuse as learned noise does, where it stays in place (Yu et al., 2022, arXiv:2111.00898).
    """
    signs = np.random.default_rng([seed, 5]).integers(0, 2, (count, *shape), dtype=np.int8)
    return torch.from_numpy(eps * (2.0 * signs - 1.0)).float()


@torch.no_grad()
def _publish(clean: PoisonedImages, noise: Callable[[Array, Tensor], Tensor], config: PoisonConfig) -> Images:
    """Return the images, the chosen ones with noise, inside the budget and where asked for on the 8-bit grid."""
    images = clean.images.copy()
    chosen = np.flatnonzero(clean.poisoned)
    for rows in np.array_split(chosen, -(-len(chosen) // _CHUNK)):
        x = torch.from_numpy(clean.images[rows])
        moved = linf_project(x + noise(rows, x), x, eps=config.eps)
        images[rows] = (to_grid(moved, x, eps=config.eps) if config.pixels == "uint8" else moved).numpy()
    return images

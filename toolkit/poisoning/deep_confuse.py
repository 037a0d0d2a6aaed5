"""Training-time adversarial data from an auto-encoder (Feng, Cai and Zhou, 2019, arXiv:1905.09027), Algorithm 2.

A generator g adds noise to training images so that a classifier that is fitted to them is wrong on clean images. Each trial
fits a fresh victim to the noise of the frozen g, while a copy of g learns through one virtual step of that victim; the
copy replaces g when the trial ends. Nothing is unrolled, so memory does not grow with the victim's steps.

Two things differ from the authors' code. The generator that is kept is chosen on a held-out part of the training images,
where they chose on the test images. And the frozen generator normalises by its running statistics, so that an image's noise
does not depend on its batch, in the trials as in the images that are published.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call, grad
from torch.nn import functional

from edgeproof.config import PoisonConfig
from edgeproof.data.base import LabelledImages, Splits
from edgeproof.errors import ConfigError, ModelError
from edgeproof.models.base import Classifier, build_classifier
from edgeproof.poisoning.measure import measure, poison_all
from edgeproof.poisoning.networks import NoiseGenerator, build_generator
from edgeproof.poisoning.state import PoisonState, load_state, save_state
from edgeproof.runs import Run
from edgeproof.system.progress import Advance, progress
from edgeproof.training.loop import normalization
from edgeproof.training.state import STATE

_LOSS_EVERY = 10  # steps between two checks of the loss: each waits for the device


@dataclass(frozen=True)
class Material:
    """Images that a generator learns from.

    Attributes:
        images: Clean training images, (N, C, H, W) in [0, 1], on the device.
        labels: (N,) int64.
        wanted: (K,) int64, the class as which clean images of each class are to be classified, or None where any wrong one will do.
        held_out: Training images on which the victims are measured.
        mean: Of each channel, for the victims' normalisation.
        std: Likewise.
    """

    images: Tensor
    labels: Tensor
    wanted: Tensor | None
    held_out: LabelledImages
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def device(self) -> torch.device:
        """The device of the images."""
        return self.images.device


def virtual_step(victim: Classifier, x: Tensor, y: Tensor, *, lr: float) -> dict[str, Tensor]:
    """Return the victim's weights after one step of plain SGD, differentiable in the images; the victim stays as it is.

    Args:
        victim: In training mode: it normalises by the batch. Its running statistics are neither used nor changed.
        x: Poisoned images, (N, C, H, W).
        y: Their labels, (N,) int64.
        lr: The step's learning rate.
    """
    weights = dict(victim.named_parameters())
    gradient = grad(lambda given: functional.cross_entropy(_virtual_logits(victim, given, x), y))(weights)
    return {name: weight - lr * gradient[name] for name, weight in weights.items()}


def confusion_loss(
    victim: Classifier, generator: NoiseGenerator, x: Tensor, y: Tensor, *, lr: float, wanted: Tensor | None = None
) -> Tensor:
    """Return the loss of a generator: how well the victim does on clean images after a step on poisoned ones.

    Args:
        victim: In training mode.
        generator: The one that learns.
        x: Clean images, (N, C, H, W) in [0, 1].
        y: Their labels, (N,) int64.
        lr: The victim's learning rate.
        wanted: (K,) class wanted for each class. Then it is the loss towards those; else minus the loss of the true ones.
    """
    stepped = virtual_step(victim, generator.poison(x), y, lr=lr)
    logits = _virtual_logits(victim, stepped, x)
    if wanted is None:
        return -functional.cross_entropy(logits, y)
    return functional.cross_entropy(logits, wanted[y])


def _virtual_logits(victim: Classifier, weights: dict[str, Tensor], x: Tensor) -> Tensor:
    statistics = {name: buffer.clone() for name, buffer in victim.named_buffers()}
    logits: Tensor = functional_call(victim, {**weights, **statistics}, (x,))
    return logits


def train_generator(config: PoisonConfig, splits: Splits, out: Run, *, target: tuple[int, ...] | None) -> PoisonState:
    """Train a noise generator; an unfinished run is continued after its last finished trial, to the same bytes.

    Raises:
        ConfigError: For an unknown victim, or when no images are held out.
        ModelError: When the victim cannot take the images, or a loss is no longer a number.
    """
    if not len(splits.validation):
        raise ConfigError("the generator is chosen on held-out training images; set data.validation above 0")
    material = prepare(config, splits, target)
    state = new_state(config, channels=splits.train.input_shape[0], device=material.device)
    saved = out.path / STATE / "trial.safetensors"
    if saved.exists():
        load_state(saved, state)
    steps = config.victim_epochs * _steps(config, material)
    with progress(
        f"poison {splits.train.name}", (config.trials + 1) * steps, done=len(state.trials) * steps
    ) as advance:
        while len(state.trials) <= config.trials:
            run_trial(state, material, config, advance=advance)
            save_state(saved, state)
    return state


def new_state(config: PoisonConfig, *, channels: int, device: torch.device) -> PoisonState:
    """Return a fresh generator and its copy, of equal weights, with the copy's optimiser."""
    torch.manual_seed(config.seed)
    frozen = build_generator(config.generator, channels=channels, eps=config.eps, width=config.generator_width).to(
        device
    )
    learner = copy.deepcopy(frozen)
    frozen.eval().requires_grad_(False)
    return PoisonState(frozen, learner, torch.optim.Adam(learner.parameters(), lr=config.generator_lr))


def prepare(config: PoisonConfig, splits: Splits, target: tuple[int, ...] | None) -> Material:
    """Put what the generator learns from on its device."""
    mean, std = normalization(config.victim, splits.train)
    return Material(
        images=torch.from_numpy(splits.train.images).to(config.device),
        labels=torch.from_numpy(splits.train.labels).to(config.device),
        wanted=None if target is None else torch.tensor(target, device=config.device),
        held_out=splits.validation,
        mean=tuple(mean),
        std=tuple(std),
    )


def _steps(config: PoisonConfig, material: Material) -> int:
    return max(len(material.labels) // config.batch_size, 1)


def run_trial(state: PoisonState, material: Material, config: PoisonConfig, *, advance: Advance) -> None:
    """Fit one fresh victim to the frozen generator's noise, measure it, and let the generator's copy take its place.

    The trial after the last one only measures: nothing would be measured on what the copy learned in it.
    """
    number = len(state.trials)
    seed = int(np.random.SeedSequence([config.seed, number]).generate_state(1, np.uint64)[0])
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    data = material.held_out
    made = build_classifier(
        config.victim, input_shape=data.input_shape, classes=data.classes, mean=material.mean, std=material.std
    )
    victim = made.to(material.device).train()
    poisoned = poison_all(state.frozen, material.images)
    state.learner.train()
    for _ in range(config.victim_epochs):
        order = torch.randperm(len(material.labels), generator=generator).to(material.device)
        _run_epoch(state, victim, material, poisoned, config, order=order, advance=advance)
    state.record(measure(victim, state.frozen, material.held_out, wanted=material.wanted, trial=number))
    state.replace()


def _run_epoch(
    state: PoisonState,
    victim: Classifier,
    material: Material,
    poisoned: Tensor,
    config: PoisonConfig,
    *,
    order: Tensor,
    advance: Advance,
) -> None:
    steps = _steps(config, material)
    learns = len(state.trials) < config.trials
    for step, chosen in enumerate(torch.split(order[: steps * config.batch_size], config.batch_size), start=1):
        x, y = material.images[chosen], material.labels[chosen]
        if learns:
            with _precision(config, material):
                lesson = confusion_loss(victim, state.learner, x, y, lr=config.victim_lr, wanted=material.wanted)
            weights = list(state.learner.parameters())
            for weight, gradient in zip(weights, torch.autograd.grad(lesson, weights), strict=True):
                weight.grad = gradient
            state.optimizer.step()
        with _precision(config, material):
            loss = functional.cross_entropy(victim(poisoned[chosen]), y)
        weights = list(victim.parameters())
        gradients = torch.autograd.grad(loss, weights)
        with torch.no_grad():  # plain SGD, without momentum, as the virtual step
            for weight, gradient in zip(weights, gradients, strict=True):
                weight.sub_(gradient, alpha=config.victim_lr)
        if (step % _LOSS_EVERY == 0 or step == steps) and not bool(torch.isfinite(loss)):
            raise ModelError(
                f"the victim's loss is {loss.item()} in trial {len(state.trials)} by step {step}; lower victim_lr or "
                "generator_lr, or leave amp out"
            )
        advance(note=state.note)


def _precision(config: PoisonConfig, material: Material) -> torch.autocast:
    return torch.autocast(material.device.type, dtype=torch.bfloat16, enabled=config.amp)

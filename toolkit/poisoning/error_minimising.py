"""Error-minimising noise (Huang et al., 2021, arXiv:2101.04898): images that a network has nothing left to learn from.

A network and the noise of each image are fitted in turns to the same end, a small loss on image and noise together, until the
network classifies nearly all of them correctly. The noise then carries the classes, and another network that is fitted to these
images finds it first. No generator is learned, so new images get none.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from edgeproof.attacks.options import IterativeOptions
from edgeproof.attacks.pgd import pgd
from edgeproof.config import PoisonConfig, Strict
from edgeproof.data.base import Splits
from edgeproof.data.poison import PoisonedImages
from edgeproof.errors import ModelError
from edgeproof.models.base import Classifier, build_classifier
from edgeproof.poisoning.measure import predict
from edgeproof.runs import Run
from edgeproof.system.progress import progress
from edgeproof.training.loop import normalization
from edgeproof.training.objectives.base import attacking
from edgeproof.training.state import STATE, part_of, prefixed, read_state, write_state

_VICTIM_STEPS = 10  # of SGD in a round, and of the noise, both as in the paper
_NOISE_STEPS = 20
_MOMENTUM = 0.9
_ENOUGH = 0.99  # accuracy on image and noise at which the paper stops
_CHUNK = 512  # images at once


@dataclass
class _State:
    """Everything that the next round depends on: images with noise, the network, SGD's momentum, the accuracy after each round."""

    images: Tensor
    victim: Classifier
    momenta: dict[str, Tensor]
    history: list[float]


def error_minimising(config: PoisonConfig, splits: Splits, clean: PoisonedImages, out: Run) -> Tensor:
    """Return the images with their noise, (N, C, H, W); an unfinished run continues after its last round.

    Args:
        config: Budget, network, its learning rate, most rounds (`trials`) and the seed.
        splits: For the normalisation of the network.
        clean: The images, and which of them get noise.
        out: The run, for the state between rounds.

    Raises:
        ModelError: When the network cannot take the images, or its loss is no longer a number.
    """
    x = torch.from_numpy(clean.images).to(config.device)
    y = torch.from_numpy(clean.labels).to(config.device)
    torch.manual_seed(config.seed)
    mean, std = normalization(config.victim, splits.train)
    made = build_classifier(
        config.victim, input_shape=splits.train.input_shape, classes=splits.train.classes, mean=mean, std=std
    )
    victim = made.to(config.device).train()
    momenta = {name: torch.zeros_like(weight) for name, weight in victim.named_parameters()}
    state = _State(x.clone(), victim, momenta, [])
    path = out.path / STATE / "round.safetensors"
    if path.exists():
        _load(path, state)
    path.parent.mkdir(exist_ok=True)
    with progress(f"poison {clean.data}", config.trials, done=len(state.history)) as advance:
        while len(state.history) < config.trials and (not state.history or state.history[-1] < _ENOUGH):
            _fit_victim(state, y, config)
            _fit_noise(state, x, y, torch.from_numpy(clean.poisoned), config)
            state.history.append(float(np.mean(predict(state.victim, state.images) == clean.labels)))
            _save(path, state)
            advance(note=f"correct on {100 * state.history[-1]:.1f} %")
    return state.images.cpu()


def _fit_victim(state: _State, y: Tensor, config: PoisonConfig) -> None:
    """Take the round's steps of SGD on images with their noise."""
    seed = int(np.random.SeedSequence([config.seed, 8, len(state.history)]).generate_state(1, np.uint64)[0])
    torch.manual_seed(seed)  # dropout draws from the default generator
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed)).repeat(
        -(-_VICTIM_STEPS * config.batch_size // len(y))
    )
    for rows in torch.split(order[: _VICTIM_STEPS * config.batch_size].to(y.device), config.batch_size):
        loss = functional.cross_entropy(state.victim(state.images[rows]), y[rows])
        if not bool(torch.isfinite(loss)):
            raise ModelError(f"the network's loss is {loss.item()} in round {len(state.history) + 1}; lower victim_lr")
        gradients = torch.autograd.grad(loss, list(state.victim.parameters()))
        with torch.no_grad():
            for (name, weight), gradient in zip(state.victim.named_parameters(), gradients, strict=True):
                state.momenta[name].mul_(_MOMENTUM).add_(gradient)
                weight.sub_(state.momenta[name], alpha=config.victim_lr)


def _fit_noise(state: _State, x: Tensor, y: Tensor, chosen: Tensor, config: PoisonConfig) -> None:
    """Move the noise of the chosen images down the network's loss, inside the budget."""
    with attacking(state.victim):
        for rows in torch.split(torch.nonzero(chosen).flatten().to(x.device), _CHUNK):
            state.images[rows] = pgd(
                state.victim,
                x[rows],
                y[rows],
                IterativeOptions(config.eps, _NOISE_STEPS, config.eps / 10, direction="descent", keep="last"),
                start=lambda x, draws, at=rows: state.images[at],
            )


def _save(path: Path, state: _State) -> None:
    tensors = {
        "images": state.images,
        "history": torch.tensor(state.history, dtype=torch.float64),
        **prefixed("victim", state.victim.state_dict()),
        **prefixed("momentum", state.momenta),
    }
    write_state(path, tensors)


def _load(path: Path, state: _State) -> None:
    with read_state(path, Strict, device=str(state.images.device)) as (tensors, _):
        state.victim.load_state_dict(part_of("victim", tensors))
        state.momenta = part_of("momentum", tensors)
        if tensors["images"].shape != state.images.shape:
            raise KeyError(f"images of shape {tuple(tensors['images'].shape)}")
        state.images, state.history = tensors["images"], tensors["history"].tolist()

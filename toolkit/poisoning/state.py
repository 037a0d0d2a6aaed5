"""The state of a generator's training between trials, and its one file on disk."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from edgeproof.config import Strict
from edgeproof.poisoning.networks import NoiseGenerator
from edgeproof.training.state import (
    HitsRecord,
    copies,
    load_optimizer,
    optimizer_tensors,
    part_of,
    prefixed,
    read_state,
    write_state,
)


class TrialRecord(Strict):
    """A victim fitted to the noise of one generator, measured on held-out training images.

    Attributes:
        trial: How many trials the generator had learned from; 0 for the untrained one.
        clean: Accuracy on the clean images.
        poisoned: Accuracy on the same images with the noise: near 1 where the victim has learned the poisoned images.
        reached: Clean images that are classified as the poison wants: anywhere wrong, or as the wanted class.
        top_class: Clean images that the victim puts into its most frequent class; all of them for a stuck victim.
    """

    trial: int
    clean: HitsRecord
    poisoned: HitsRecord
    reached: HitsRecord
    top_class: HitsRecord

    @property
    def score(self) -> float:
        """By which a generator is chosen: learned and misled, so that a victim that has learned nothing does not count."""
        return (self.poisoned.hits / self.poisoned.total) * (self.reached.hits / self.reached.total)


class _Rest(Strict):
    trials: tuple[TrialRecord, ...]


@dataclass
class PoisonState:
    """Everything that the next trial depends on. Between trials the two generators are equal.

    Attributes:
        frozen: The generator whose noise the victim of this trial is given; eval mode, no gradients.
        learner: Its copy, which learns.
        optimizer: Over the learner.
        trials: The finished ones.
        best: The generator's tensors of the best trial.
    """

    frozen: NoiseGenerator
    learner: NoiseGenerator
    optimizer: torch.optim.Optimizer
    trials: list[TrialRecord] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)

    @property
    def best_trial(self) -> TrialRecord:
        """The trial of the highest score, the first of equals."""
        return max(self.trials, key=lambda trial: trial.score)

    @property
    def note(self) -> str:
        """The last victim's accuracy on clean images, for the progress bar."""
        if not self.trials:
            return ""
        last = self.trials[-1]
        clean, poisoned = (100 * rate.hits / rate.total for rate in (last.clean, last.poisoned))
        return f"victim {len(self.trials) - 1}: clean {clean:.1f} %, poisoned {poisoned:.1f} %"

    def record(self, trial: TrialRecord) -> None:
        """Add a finished trial, and keep the frozen generator when it is the best."""
        self.trials.append(trial)
        if self.best_trial is trial:
            self.best = copies(self.frozen.state_dict())

    def replace(self) -> None:
        """Put what the learner has learned into the frozen generator."""
        self.frozen.load_state_dict(self.learner.state_dict())


def save_state(path: Path, state: PoisonState) -> None:
    """Write the state atomically."""
    tensors = {
        **prefixed("generator", state.frozen.state_dict()),
        **prefixed("best", state.best),
        **prefixed("optimizer", optimizer_tensors(state.optimizer)),
    }
    write_state(path, tensors, _Rest(trials=tuple(state.trials)))


def load_state(path: Path, state: PoisonState) -> None:
    """Continue from a written state.

    Raises:
        ModelError: When it cannot be read or is of another generator.
    """
    with read_state(path, _Rest) as (tensors, rest):
        for generator in (state.frozen, state.learner):
            generator.load_state_dict(part_of("generator", tensors))
        load_optimizer(state.optimizer, part_of("optimizer", tensors))
    state.trials = list(rest.trials)
    state.best = part_of("best", tensors)

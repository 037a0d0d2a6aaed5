"""The state of a training between epochs, and its one file on disk: safetensors whose metadata is the rest as JSON."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from edgeproof.config import Strict, TrainConfig
from edgeproof.errors import ModelError, one_line
from edgeproof.evaluation.metrics import Rate
from edgeproof.evaluation.weights import LayerRecord
from edgeproof.models.base import Classifier
from edgeproof.runs import atomic
from edgeproof.training.objectives.base import Objective

STATE = "state"  #: folder of an unfinished run
_METADATA = "edgeproof"

R = TypeVar("R", bound=Strict)


class HitsRecord(Strict):
    """Images that were correctly classified, among how many."""

    hits: int
    total: int

    @classmethod
    def of(cls, rate: Rate) -> HitsRecord:
        """Return the counts of a rate."""
        return cls(hits=rate.hits, total=rate.total)


class EpochRecord(Strict):
    """One epoch in `history.json`; the figures of the validation split are null or empty when there is none.

    Attributes:
        epoch: Counted from 1.
        lr: Learning rate of its last step.
        train_loss: Mean of the objective over its steps, while the weights moved.
        validation_loss: Mean cross-entropy.
        validation: Accuracy.
        per_class: Accuracy per class, in the order of `classes`.
        layers: Distribution of the weights, layer by layer.
    """

    epoch: int
    lr: float
    train_loss: float
    validation_loss: float | None
    validation: HitsRecord | None
    per_class: tuple[HitsRecord, ...]
    layers: tuple[LayerRecord, ...] = ()


class _Rest(Strict):
    history: tuple[EpochRecord, ...]
    best_epoch: int
    best_loss: float | None


@dataclass
class TrainingState:
    """Everything that the next epoch depends on.

    Attributes:
        model: With the weights of the last finished epoch.
        optimizer: Over its parameters.
        objective: With what it remembers.
        history: The finished epochs.
        best_epoch: Epoch of the lowest validation loss; 0 before the first.
        best_loss: That loss.
        best_weights: The network's tensors of that epoch, kept when training may stop early.
    """

    model: Classifier
    optimizer: torch.optim.Optimizer
    objective: Objective
    history: list[EpochRecord] = field(default_factory=list)
    best_epoch: int = 0
    best_loss: float = math.inf
    best_weights: dict[str, Tensor] = field(default_factory=dict)

    def record(self, epoch: EpochRecord, *, config: TrainConfig) -> None:
        """Add a finished epoch; with `patience` set, keep its weights when it is the best one."""
        self.history.append(epoch)
        loss = epoch.validation_loss
        if loss is not None and loss < self.best_loss - config.min_delta:
            self.best_epoch, self.best_loss = epoch.epoch, loss
            if config.patience is not None:
                self.best_weights = copies(self.model.network.state_dict())

    def finished(self, config: TrainConfig) -> bool:
        """Return whether the last epoch has been run, or patience is at its end."""
        done = len(self.history)
        return done >= config.epochs or (config.patience is not None and done - self.best_epoch >= config.patience)


def build_optimizer(model: Classifier, config: TrainConfig) -> torch.optim.Optimizer:
    """Return the update rule. RMSprop has the constants of Keras (rho 0.9, epsilon 1e-7); SGD has Nesterov's momentum."""
    weights, lr, decay = list(model.parameters()), config.lr, config.weight_decay
    if config.optimizer == "sgd":
        nesterov = config.momentum > 0
        return torch.optim.SGD(weights, lr=lr, momentum=config.momentum, weight_decay=decay, nesterov=nesterov)
    if config.optimizer == "adam":
        return torch.optim.Adam(weights, lr=lr, weight_decay=decay)
    return torch.optim.RMSprop(weights, lr=lr, alpha=0.9, eps=1e-7, weight_decay=decay)


def save_state(path: Path, state: TrainingState) -> None:
    """Write the state atomically."""
    tensors = {
        **prefixed("network", state.model.network.state_dict()),
        **prefixed("objective", state.objective.state_dict()),
        **prefixed("best", state.best_weights),
        **prefixed("optimizer", optimizer_tensors(state.optimizer)),
    }
    best_loss = state.best_loss if state.best_epoch else None
    write_state(path, tensors, _Rest(history=tuple(state.history), best_epoch=state.best_epoch, best_loss=best_loss))


def load_state(path: Path, state: TrainingState) -> None:
    """Continue from a written state.

    Raises:
        ModelError: When it cannot be read or is of another network.
    """
    with read_state(path, _Rest) as (tensors, rest):
        state.model.network.load_state_dict(part_of("network", tensors))
        state.objective.load_state_dict(part_of("objective", tensors))
        load_optimizer(state.optimizer, part_of("optimizer", tensors))
    state.history = list(rest.history)
    state.best_epoch = rest.best_epoch
    state.best_loss = math.inf if rest.best_loss is None else rest.best_loss
    state.best_weights = part_of("best", tensors)


def write_state(path: Path, tensors: Mapping[str, Tensor], rest: Strict | None = None) -> None:
    """Write tensors, and the rest of a state as JSON in the metadata, atomically."""
    with atomic(path) as temporary:
        save_file(copies(tensors), temporary, metadata={_METADATA: (rest or Strict()).model_dump_json()})


@contextlib.contextmanager
def read_state(path: Path, kind: type[R], *, device: str = "cpu") -> Iterator[tuple[dict[str, Tensor], R]]:
    """Read what `write_state` has written, for a block that puts it in place.

    Raises:
        ModelError: When it cannot be read, or does not fit in the block.
    """
    try:
        with safe_open(path, framework="pt", device=device) as file:
            rest = kind.model_validate_json((file.metadata() or {}).get(_METADATA, "{}"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (it is no mapping)
        yield tensors, rest
    except (SafetensorError, ValidationError, RuntimeError, KeyError, OSError) as error:
        raise ModelError(
            f"{path} cannot be continued from ({one_line(' '.join(str(error).split()))}); start again with --fresh"
        ) from error


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the slots of an optimizer, `number of the parameter.name of the slot` to tensor."""
    slots = optimizer.state_dict()["state"]
    return {
        f"{number}.{name}": value if isinstance(value, Tensor) else torch.tensor(value)
        for number, slot in slots.items()
        for name, value in slot.items()
        if value is not None
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give an optimizer back what `optimizer_tensors` took from one like it.

    Raises:
        KeyError: For a tensor of a parameter that the optimizer does not have.
    """
    groups: Any = optimizer.state_dict()["param_groups"]
    numbers = {str(number): number for group in groups for number in group["params"]}
    slots: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, _, name = key.partition(".")
        if number not in numbers:
            raise KeyError(f"optimizer.{key} is of no parameter")
        slots.setdefault(numbers[number], {})[name] = value
    optimizer.load_state_dict({"state": slots, "param_groups": groups})


def copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies on the processor, each in its own dense memory, as safetensors wants them."""
    return {key: value.detach().cpu().clone(memory_format=torch.contiguous_format) for key, value in tensors.items()}


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under names that begin with `prefix.`, for one file with several parts."""
    return {f"{prefix}.{key}": value for key, value in tensors.items()}


def part_of(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the part that `prefixed` has put under this prefix."""
    return {key.removeprefix(f"{prefix}."): value for key, value in tensors.items() if key.startswith(f"{prefix}.")}

"""The train stage: a data set and a configuration in, a checkpoint and its history out.

Everything random is drawn from (seed, epoch), so that a run that is killed and continued ends in the same bytes as one that
was not, given the same device and number of threads.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeproof.attacks.base import Draws
from edgeproof.config import TrainConfig
from edgeproof.data.arrays import write_npz
from edgeproof.data.base import PARTS, LabelledImages, Splits, load_splits
from edgeproof.data.classes import fit_classes
from edgeproof.data.poison import load_poison, poison_splits
from edgeproof.data.squeeze import squeeze
from edgeproof.errors import ConfigError, DataError, ModelError
from edgeproof.evaluation.metrics import Rate, per_class_accuracy
from edgeproof.evaluation.weights import measure_layers
from edgeproof.models.base import Classifier, build_classifier, load_classifier, save_classifier, torch_device
from edgeproof.plugins.registry import entries
from edgeproof.runs import Run, write_json
from edgeproof.system.distributed import first, share_bytes, world_size
from edgeproof.system.progress import Advance, progress
from edgeproof.training.augment import augment
from edgeproof.training.global_batch import average_gradients, spread
from edgeproof.training.objectives.base import Task, build_objective
from edgeproof.training.schedule import learning_rate
from edgeproof.training.state import (
    STATE,
    EpochRecord,
    HitsRecord,
    TrainingState,
    build_optimizer,
    load_state,
    save_state,
)

CHECKPOINT = "model.safetensors"
HISTORY = "history.json"
_LOSS_EVERY = 10  # steps between two checks of the loss: each waits for the device
_VALIDATION_BATCH = 256


@dataclass(frozen=True)
class _Material:
    """The tensors that are trained on, and the images that are classified after each epoch."""

    images: Tensor
    labels: Tensor
    validation: LabelledImages
    device: torch.device


def train(config: TrainConfig, out: Run) -> None:
    """Train a classifier; an unfinished run is continued after its last finished epoch.

    Writes `model.safetensors`, `history.json` and `splits.npz` (which images of the data set each part holds).

    Raises:
        ConfigError: For an unknown name, or settings that contradict each other.
        DataError: When the data set has no training images or cannot be split.
        ModelError: When the network does not fit the images, or the loss is no longer a number.
        UnavailableError: When the device is not there.
    """
    splits = _load_splits(config)
    device = torch_device(config.device)
    with torch_settings(config.threads, device):
        state, material = _start(config, splits, device=device)
        saved = out.path / STATE / "epoch.safetensors"
        _continue_from(saved, state)
        total, done = config.epochs * _steps(config, material), len(state.history) * _steps(config, material)
        with progress(f"train {config.model}", total, done=done) as advance:
            while not state.finished(config):
                state.record(_run_epoch(state, material, config, advance=advance), config=config)
                if first():
                    save_state(saved, state)
    if first():
        _write(config, splits, state, out)


def _continue_from(saved: Path, state: TrainingState) -> None:
    """Load the state that the first process finds in its run folder, if there is one."""
    found = first() and saved.exists()
    if found:
        load_state(saved, state)
    content = share_bytes(saved.read_bytes() if found else b"")
    if content and not first():
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / saved.name
            copy.write_bytes(content)
            load_state(copy, state)


def _load_splits(config: TrainConfig) -> Splits:
    splits = load_splits(config.data)
    if not len(splits.train):
        raise DataError(f"data set {config.data.name!r} has no training images; it can be attacked and evaluated only")
    if (
        config.start_from is not None
    ):  # its order of the classes may be another, as of folders that are named by numbers
        names = load_classifier(Run.open(config.start_from, kind="train").file(CHECKPOINT)).classes
        if sorted(names) == sorted(splits.train.classes):
            parts = {
                part: fit_classes(splits.part(part), names, count=len(names), model=config.start_from) for part in PARTS
            }
            splits = Splits(**parts)
    if config.poison is not None:
        splits = poison_splits(splits, load_poison(Run.open(config.poison, kind="poison")))
    if config.squeeze is not None:
        splits = replace(splits, train=squeeze(splits.train, how=config.squeeze))
    if config.patience is not None and not len(splits.validation):
        raise ConfigError("patience needs validation images to watch; set data.validation above 0, or drop patience")
    return splits


def _start(config: TrainConfig, splits: Splits, *, device: torch.device) -> tuple[TrainingState, _Material]:
    train = splits.train
    torch.manual_seed(config.seed)
    if config.start_from is None:
        mean, std = normalization(config.model, train)
        model = build_classifier(config.model, input_shape=train.input_shape, classes=train.classes, mean=mean, std=std)
    else:
        model = _continued(config, train)
    model = model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    material = _Material(
        images=torch.from_numpy(train.images).to(device),
        labels=torch.from_numpy(train.labels).to(device),
        validation=splits.validation,
        device=device,
    )
    task = Task(
        images=material.images,
        labels=material.labels,
        num_classes=train.num_classes,
        classes=train.classes,
        batch_size=config.batch_size,
        epochs=config.epochs,
        seed=config.seed,
    )
    objective = build_objective(config.objective, config.objective_params, task=task).to(device)
    if world_size() > 1:
        spread(model)
    return TrainingState(model, build_optimizer(model, config), objective), material


def _continued(config: TrainConfig, train: LabelledImages) -> Classifier:
    """Take network and normalisation from another run, which must be of the same network, images and classes."""
    run = Run.open(str(config.start_from), kind="train")
    model = load_classifier(run.file(CHECKPOINT)).requires_grad_(True).train()
    theirs, mine = (model.name, model.input_shape, model.classes), (config.model, train.input_shape, train.classes)
    if theirs != mine:
        said = [
            f"{name} for images {shape} of {', '.join(classes[:3])}, ..." for name, shape, classes in (theirs, mine)
        ]
        raise ModelError(f"{run.path} holds {said[0]}; expected {said[1]}; start from a run like this one")
    return model


def normalization(model: str, train: LabelledImages) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of each channel of the training images, or 0 and 1 where the network has none."""
    channels = train.input_shape[0]
    entry = entries("model").get(model)
    if entry is not None and not entry.options.get("normalize", True):
        return [0.0] * channels, [1.0] * channels
    planes = [train.images[:, channel] for channel in range(channels)]
    mean = [float(plane.mean(dtype=np.float64)) for plane in planes]
    spread = [
        float(np.square(plane - center).mean(dtype=np.float64)) ** 0.5
        for plane, center in zip(planes, mean, strict=True)
    ]
    return mean, [value if value > 1e-6 else 1.0 for value in spread]  # a constant channel is only shifted


@contextlib.contextmanager
def torch_settings(count: int | None, device: torch.device) -> Iterator[None]:
    """Set threads (None: as they are), determinism and the default generator, and put them back."""
    threads = torch.get_num_threads()
    cuda = [device] if device.type == "cuda" else []
    with (
        torch.random.fork_rng(devices=cuda),
        torch.backends.cudnn.flags(enabled=True, deterministic=True, benchmark=False),
    ):
        torch.set_num_threads(count or threads)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def _steps(config: TrainConfig, material: _Material) -> int:
    return max(len(material.labels) // config.batch_size, 1)


def _run_epoch(state: TrainingState, material: _Material, config: TrainConfig, *, advance: Advance) -> EpochRecord:
    """Train one epoch and measure it; images that do not fill the last batch wait for another epoch's order."""
    epoch = len(state.history) + 1
    seed = int(np.random.SeedSequence([config.seed, epoch]).generate_state(1, np.uint64)[0])
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)  # dropout draws from the default generator
    state.objective.begin_epoch(state.model.train(), epoch=epoch)
    steps = _steps(config, material)
    order = torch.randperm(len(material.labels), generator=generator)[: steps * config.batch_size]
    total = torch.zeros((), device=material.device)
    note = _note(state)
    lr = config.lr
    for step in range(1, steps + 1):
        positions = order[(step - 1) * config.batch_size : step * config.batch_size]
        lr = learning_rate(config, step=(epoch - 1) * steps + step - 1, total=config.epochs * steps)
        draws = Draws(seed=seed, index=positions.numpy())
        x = augment(material.images[positions.to(material.device)], how=config.augment, generator=generator)
        total += _step(state, x, material.labels[positions.to(material.device)], draws=draws, lr=lr, amp=config.amp)
        if step % _LOSS_EVERY == 0 or step == steps:
            _check_loss(float(total), epoch=epoch, step=step, lr=lr)
            note = f"loss {float(total) / step:.3f}{_note(state)}"
        advance(note=note)
    loss, validation, per_class = _validate(state.model, material)
    _check_loss(0.0 if loss is None else loss, epoch=epoch, step=steps, lr=lr)
    layers = {
        f"{name}.weight": module.weight.detach().cpu().numpy()
        for name, module in state.model.network.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear))
    }
    return EpochRecord(
        epoch=epoch,
        lr=lr,
        train_loss=float(total) / steps,
        validation_loss=loss,
        validation=validation,
        per_class=per_class,
        layers=measure_layers(layers),
    )


def _step(state: TrainingState, x: Tensor, y: Tensor, *, draws: Draws, lr: float, amp: bool) -> Tensor:
    for group in state.optimizer.param_groups:
        group["lr"] = lr
    x = x.contiguous(memory_format=torch.channels_last)
    with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=amp):
        loss: Tensor = state.objective(state.model, x, y, draws=draws)
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    average_gradients(state.model.parameters())
    state.optimizer.step()
    return loss.detach().float()


def _check_loss(loss: float, *, epoch: int, step: int, lr: float) -> None:
    if not np.isfinite(loss):
        raise ModelError(
            f"the loss is {loss} in epoch {epoch} by step {step}, at a learning rate of {lr:g}; lower lr, or choose another schedule"
        )


def _validate(model: Classifier, material: _Material) -> tuple[float | None, HitsRecord | None, tuple[HitsRecord, ...]]:
    """Return mean cross-entropy, accuracy and accuracy per class on the validation split."""
    split = material.validation
    if not len(split):
        return None, None, ()
    logits = []
    with torch.no_grad():
        model.eval()
        for start in range(0, len(split), _VALIDATION_BATCH):
            x = torch.from_numpy(split.images[start : start + _VALIDATION_BATCH]).to(material.device)
            logits.append(model(x.contiguous(memory_format=torch.channels_last)).float().cpu())
        model.train()
    scores = torch.cat(logits)
    loss = float(functional.cross_entropy(scores, torch.from_numpy(split.labels)))
    predicted = scores.argmax(1).numpy()
    per_class = per_class_accuracy(predicted, split.labels, num_classes=split.num_classes)
    return loss, HitsRecord.of(Rate.of(predicted == split.labels)), tuple(map(HitsRecord.of, per_class))


def _note(state: TrainingState) -> str:
    last = state.history[-1].validation if state.history else None
    return f"  validation {100 * last.hits / last.total:.1f} %" if last else ""


def _write(config: TrainConfig, splits: Splits, state: TrainingState, out: Run) -> None:
    if config.patience is not None:
        state.model.network.load_state_dict(state.best_weights)
    save_classifier(out.path / CHECKPOINT, state.model)
    parts = ("train", "validation", "calibration", "test")
    write_npz(out.path / "splits.npz", {part: splits.part(part).index for part in parts})
    history = {
        "classes": list(splits.train.classes),
        "images": {part: len(splits.part(part)) for part in parts},
        "kept_epoch": state.best_epoch if config.patience is not None else len(state.history),
        "epochs": [epoch.model_dump() for epoch in state.history],
    }
    write_json(out.path / HISTORY, history)
    out.intermediate(STATE)

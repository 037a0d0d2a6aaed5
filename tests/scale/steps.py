"""What the tests do in one process and, as a program under torchrun, in two: steps of objectives, a training, an attack."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edgeproof.attacks.base import Draws
from edgeproof.commands import cli
from edgeproof.models.base import Classifier
from edgeproof.system.distributed import first, joined, world_size
from edgeproof.training.global_batch import average_gradients, spread
from edgeproof.training.objectives.base import Task, build_objective
from edgeproof.types import Array

CLASSES, BATCH = 3, 7  # shares of two processes: 4 and 3 images; of four: 2, 2, 2 and 1
OBJECTIVES: dict[str, dict[str, Any]] = {
    "standard": {},
    "adversarial": {"eps": 0.1, "steps": 2, "clean": 0.25},
    "trades": {"eps": 0.1, "steps": 2},
    "universal": {"eps": 0.1, "per": "class", "clean": 0.4},
    "shared": {"eps": 0.1, "images": 2, "steps": 2},
    "free": {"eps": 0.1, "replays": 2},
    "class-wise": {"eps": 0.1, "steps": 2},
    "universal-two-stage": {"eps": 0.1, "pool": 2, "added": 1, "fit_steps": 2, "fit_batch": 4, "warm_up": 0},
    "mixup": {},
    "min-max": {"conv1": 0.1, "protect": "1"},
}


def network() -> Classifier:
    """A small one with all that looks at more than an image, or draws."""
    torch.manual_seed(5)
    layers = [
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout(0.3), nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5, momentum=None),
        nn.Flatten(), nn.Dropout(0.2), nn.Linear(5 * 4 * 4, 6), nn.BatchNorm1d(6, affine=False), nn.Linear(6, CLASSES),
    ]  # fmt: skip
    classes = [str(number) for number in range(CLASSES)]
    return Classifier(
        nn.Sequential(*layers), name="small", input_shape=(1, 8, 8), classes=classes, mean=[0.4], std=[0.3]
    )


def steps(name: str, params: dict[str, Any]) -> dict[str, Array]:
    """Return losses, weights, logits and what the objective remembers after two epochs of two steps, in float64."""
    rng = np.random.default_rng(1)
    x = torch.from_numpy(rng.random((3 * BATCH, 1, 8, 8))).contiguous(memory_format=torch.channels_last)
    y = torch.from_numpy(rng.integers(0, CLASSES, 3 * BATCH))
    task = Task(x, y, CLASSES, batch_size=BATCH, epochs=2, seed=0, classes=tuple("012"))
    model = network().double().to(memory_format=torch.channels_last)
    objective = build_objective(name, params, task=task)
    if name != "class-wise":  # which counts in float32
        objective.double()
    if world_size() > 1:
        spread(model)
    found = {}
    for epoch in (1, 2):
        torch.manual_seed(epoch)
        objective.begin_epoch(model.train(), epoch=epoch)
        for step in (1, 2):
            rows = np.arange(BATCH) + BATCH * (step - 1)
            model.zero_grad()
            loss = objective(model, x[rows], y[rows], draws=Draws(seed=epoch, index=rows))
            loss.backward()
            average_gradients(model.parameters())
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter -= 0.1 * parameter.grad
            found[f"loss {epoch}.{step}"] = loss.detach().numpy()
    model.eval()
    with torch.no_grad():
        found["logits"] = model(x).numpy()
    weights = {key: value.numpy() for key, value in model.network.state_dict().items()}
    memory = {key: value.numpy() for key, value in objective.state_dict().items()}
    return {**found, **weights, **memory}


def train() -> None:
    """Train a little, in the folder that the configuration names; the last batch of shares is uneven."""
    options = "--data synthetic --set data.limit_train=100 --model lenet --lr 0.02 --augment flip-crop"
    command(f"train {options} --epochs 2 --batch-size 31")


def attack(model: Path, out: Path) -> None:
    """Craft 50 images in batches of 8, of which the last has 2."""
    command(f"attack pgd-linf --model {model} --eps 0.1 --steps 2 --limit 50 --batch-size 8 --out {out}")


def command(line: str) -> None:
    """Carry out a command of the toolkit in this process."""
    cli.main(shlex.split(line), standalone_mode=False)


def main() -> None:
    """Do all of it, and leave it in the folder that is named."""
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    with joined():
        for name, params in OBJECTIVES.items():
            found = steps(name, params)
            if first():
                np.savez(folder / f"{name}.npz", **dict[str, Any](found))
        train()
        attack(next((folder / "runs").glob("train-*")), folder / "set")


if __name__ == "__main__":
    main()

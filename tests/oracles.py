"""What results are compared with: closed forms, small networks, and independent attack libraries."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgeproof.attacks.base import Draws
from edgeproof.data.base import LabelledImages
from edgeproof.source_model.base import SourceModel

SHAPE = (3, 8, 8)


class Linear(nn.Module):
    """Logits W x + b: of two classes, the loss grows fastest along the sign of the difference of the rows of W."""

    def __init__(self, *, shape: tuple[int, int, int] = SHAPE, classes: int = 2, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        size = int(np.prod(shape))
        self.weight = nn.Parameter(torch.randn(classes, size, generator=generator, dtype=torch.float64) / size**0.5)
        self.bias = nn.Parameter(torch.randn(classes, generator=generator, dtype=torch.float64) * 0.1)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x.flatten(1), self.weight, self.bias)


def small_network(*, shape: tuple[int, int, int] = SHAPE, classes: int = 5, seed: int = 0) -> nn.Sequential:
    """Return a convolutional network with random weights, in float64 and eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.Sequential(
            nn.Conv2d(shape[0], 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(8 * (shape[1] // 2) * (shape[2] // 2), classes),
        ).double()
        network[1].running_mean.uniform_(-0.5, 0.5)
        network[1].running_var.uniform_(0.5, 2)
        network[-1].weight.data.mul_(4)
    return network.eval()


def images(count: int = 16, *, shape: tuple[int, int, int] = SHAPE, seed: int = 0) -> Tensor:
    """Return random images (N, C, H, W) float64 in [0, 1] that float32 holds exactly, some pixels at 0 and at 1."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(count, *shape, generator=generator) * 1.2 - 0.1).clamp(0, 1).double()


def labelled_images(count: int = 20, *, classes: int = 5, levels: bool = True, seed: int = 0) -> LabelledImages:
    """Return random 8-bit (or float) images with balanced labels; `index` is not the position."""
    x = images(count, seed=seed).float().numpy()
    return LabelledImages(
        images=np.rint(x * 255).astype(np.float32) / np.float32(255) if levels else x,
        labels=np.arange(count, dtype=np.int64) % classes,
        index=np.arange(count, dtype=np.int64) * 3 + 7,
        classes=tuple(f"class {k}" for k in range(classes)),
        name="random",
        split="test",
    )


class Function(SourceModel):
    """Any function as the source of an attack, asked as it is."""

    def prepared(self, x: Tensor, *, mode: str) -> Function:
        return self


def source_of(model: Callable[[Tensor], Tensor], data: LabelledImages, *, name: str = "network") -> Function:
    """Return a function as the source of an attack on these images."""
    return Function(model, name, data.input_shape, data.num_classes)


def draws(count: int, *, seed: int = 0) -> Draws:
    """Return draws whose sample indices are the positions."""
    return Draws(seed=seed, index=np.arange(count))


@dataclass(frozen=True)
class Given(Draws):
    """Draws whose numbers a test has chosen, (N, ...) in [0, 1)."""

    numbers: Tensor = field(default_factory=lambda: torch.empty(0))

    def uniform(self, stream: int, shape: tuple[int, ...]) -> Tensor:
        return self.numbers

    def take(self, positions: Tensor) -> Given:
        return replace(self, numbers=self.numbers[positions])


def random_start(x: Tensor, *, eps: float, seed: int) -> tuple[Tensor, Given]:
    """Return the start that torchattacks draws after `torch.manual_seed(seed)`, and the draws that give us the same."""
    torch.manual_seed(seed)
    noise = torch.empty_like(x).uniform_(-eps, eps)
    numbers = (noise / eps + 1) / 2
    return (x + noise).clamp(0, 1), Given(seed=0, index=np.arange(len(x)), numbers=numbers)


def foolbox_pgd(
    model: nn.Module, origin: Tensor, y: Tensor, *, start: Tensor, eps: float, step_size: float, steps: int, norm: str
) -> Tensor:
    """Return the images of foolbox's projected gradient descent from a given start."""
    foolbox = _import("foolbox")
    base = {
        "linf": foolbox.attacks.LinfProjectedGradientDescentAttack,
        "l2": foolbox.attacks.L2ProjectedGradientDescentAttack,
    }[norm]

    class FromStart(base):  # type: ignore[misc]
        def get_random_start(self, x0: Any, epsilon: float) -> Any:
            return type(x0)(start)

    attack = FromStart(abs_stepsize=step_size, steps=steps, random_start=True)
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1))
    images: Tensor = attack.run(wrapped, origin, foolbox.criteria.Misclassification(y), epsilon=eps)
    return images


def torchattacks_pgd(
    model: nn.Module, origin: Tensor, y: Tensor, *, seed: int, eps: float, step_size: float, steps: int
) -> Tensor:
    """Return the images of torchattacks' PGD, whose random start follows the seed."""
    attack = _import("torchattacks").PGD(model, eps=eps, alpha=step_size, steps=steps, random_start=True)
    torch.manual_seed(seed)
    images: Tensor = attack(origin, y)
    return images


def torchattacks_attack(name: str, model: nn.Module, origin: Tensor, y: Tensor, **options: Any) -> Tensor:
    """Return the images of one of torchattacks' attacks."""
    images: Tensor = getattr(_import("torchattacks"), name)(model, **options)(origin, y)
    return images


def torchattacks_apgd(model: nn.Module, origin: Tensor, y: Tensor, *, eps: float, steps: int, loss: str) -> Tensor:
    """Return the images of torchattacks' APGD."""
    with torch.random.fork_rng(devices=[]):  # it seeds torch's generator
        return torchattacks_attack("APGD", model, origin, y, eps=eps, steps=steps, loss=loss)


def foolbox_minimum(name: str, model: nn.Module, origin: Tensor, y: Tensor, **options: Any) -> Tensor:
    """Return the images of one of foolbox's minimum-norm attacks."""
    foolbox = _import("foolbox")
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1))
    images: Tensor = getattr(foolbox.attacks, name)(**options).run(
        wrapped, origin, foolbox.criteria.Misclassification(y)
    )
    return images


def _import(name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # foolbox imports a deprecated name of SciPy
        return importlib.import_module(name)

"""The gradient that a generator learns from, against finite differences and an unrolled training step."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeproof.config import PoisonConfig
from edgeproof.models.base import Classifier
from edgeproof.poisoning.deep_confuse import confusion_loss, virtual_step
from edgeproof.poisoning.networks import NoiseGenerator, build_generator

LR = 0.3


def victim(*, batch_norm: bool = True) -> Classifier:
    """Return a smooth little classifier in float64 and training mode."""
    torch.manual_seed(1)
    normalized = (nn.BatchNorm2d(4),) if batch_norm else ()
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1), *normalized, nn.Tanh(), nn.Flatten(), nn.Linear(256, 3)
    )
    model = Classifier(network, name="test", input_shape=(1, 16, 16), classes="abc", mean=[0.4], std=[0.3])
    return model.double().train()


def generator() -> NoiseGenerator:
    torch.manual_seed(2)
    made = build_generator("encoder-decoder", channels=1, eps=0.2, width=2).double().train()
    for module in made.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    return made


def batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(3)
    return torch.rand(6, 1, 16, 16, dtype=torch.float64) * 0.5 + 0.25, torch.tensor([0, 1, 2, 0, 1, 2])


def unrolled(model: Classifier, noise: NoiseGenerator, x: Tensor, y: Tensor, *, wanted: Tensor | None) -> Tensor:
    """Build the stepped victim as a module of its own, weight by weight, and ask it: the definition, spelled out."""
    weights = dict(model.named_parameters())
    loss = functional.cross_entropy(model((x + noise(x)).clamp(0, 1)), y)
    gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
    stepped = copy.deepcopy(model)
    for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
        owner, _, leaf = name.rpartition(".")
        module = stepped.get_submodule(owner)
        del module._parameters[leaf]
        setattr(module, leaf, weight - LR * gradient)
    logits = stepped(x)
    return -functional.cross_entropy(logits, y) if wanted is None else functional.cross_entropy(logits, wanted[y])


@pytest.mark.parametrize("wanted", [None, torch.tensor([1, 2, 0])], ids=["any wrong class", "a wanted class"])
@pytest.mark.parametrize("batch_norm", [True, False])
def test_the_gradient_through_the_virtual_step_is_that_of_an_unrolled_step(
    batch_norm: bool, wanted: Tensor | None
) -> None:
    model, noise, (x, y) = victim(batch_norm=batch_norm), generator(), batch()
    weights = list(noise.parameters())
    loss = confusion_loss(model, noise, x, y, lr=LR, wanted=wanted)
    expected = unrolled(model, noise, x, y, wanted=wanted)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(torch.autograd.grad(loss, weights), torch.autograd.grad(expected, weights), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_the_gradient_through_the_virtual_step_is_that_of_finite_differences() -> None:
    model, noise, (x, y) = victim(), generator(), batch()
    last = list(noise.parameters())[-2]
    gradient = torch.autograd.grad(confusion_loss(model, noise, x, y, lr=LR), last)[0]
    direction = torch.sign(gradient)
    height = 1e-5
    sides = []
    with torch.no_grad():
        for sign in (1, -1):
            last.add_(direction, alpha=sign * height)
            sides.append(float(confusion_loss(model, noise, x, y, lr=LR)))
            last.sub_(direction, alpha=sign * height)
    slope = (sides[0] - sides[1]) / (2 * height)
    assert slope == pytest.approx(float((gradient * direction).sum()), rel=1e-4)
    assert slope != pytest.approx(0, abs=1e-6)


def test_the_virtual_step_is_one_step_of_plain_sgd_and_leaves_the_victim_alone() -> None:
    model, (x, y) = victim(), batch()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    stepped = virtual_step(model, x, y, lr=LR)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    functional.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    for name, weight in model.named_parameters():
        torch.testing.assert_close(stepped[name], weight.data, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", PoisonConfig.model_fields["generator"].annotation.__args__)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 17, 21)])
def test_no_weight_lets_the_noise_out_of_its_budget(name: str, shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    made = build_generator(name, channels=shape[0], eps=0.1, width=4)
    with torch.no_grad():
        for weight in made.parameters():
            weight.mul_(1e3)
    x = torch.rand(4, *shape)
    noise = made(x).detach()
    assert noise.shape == x.shape
    assert float(noise.abs().max()) <= 0.1 + 1e-8
    poisoned = made.poison(x).detach()
    assert float(poisoned.min()) >= 0
    assert float(poisoned.max()) <= 1

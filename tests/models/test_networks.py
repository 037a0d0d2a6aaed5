"""What every registered network promises; a new file in `toolkit/models` is tested here without a new test."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgeproof.models.base import Classifier, build_classifier
from edgeproof.plugins.registry import entries
from tests.closeness import assert_near

NETWORKS = [name for name, entry in entries("model").items() if not entry.options.get("family")]


def build(name: str, *, input_shape: tuple[int, int, int], count: int) -> Classifier:
    channels = input_shape[0]
    return build_classifier(
        name,
        input_shape=input_shape,
        classes=[f"c{k}" for k in range(count)],
        mean=[0.5] * channels,
        std=[0.2] * channels,
    )


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("input_shape", "count"), [((1, 28, 28), 10), ((3, 16, 24), 43), ((4, 17, 33), 2)])
def test_a_network_takes_any_channels_sizes_from_its_smallest_on_and_class_counts(
    name: str, input_shape: tuple[int, int, int], count: int
) -> None:
    smallest = int(entries("model")[name].options["min_size"])
    assert smallest <= 16
    model = build(name, input_shape=input_shape, count=count)
    logits = model(torch.rand(2, *input_shape))
    assert logits.shape == (2, count)
    assert bool(torch.isfinite(logits).all())


@pytest.mark.parametrize("name", NETWORKS)
def test_every_weight_and_the_image_get_a_gradient(name: str) -> None:
    torch.manual_seed(0)
    model = build(name, input_shape=(3, 16, 16), count=5)
    x = torch.rand(4, 3, 16, 16, requires_grad=True)
    nn.functional.cross_entropy(model(x), torch.tensor([0, 1, 2, 3])).backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert x.grad is not None
    assert float(x.grad.abs().max()) > 0


@pytest.mark.parametrize("name", NETWORKS)
def test_in_eval_mode_an_image_is_judged_alone(name: str) -> None:
    model = build(name, input_shape=(1, 16, 16), count=3).eval()
    x = torch.rand(5, 1, 16, 16)
    assert_near(model(x)[3:4].detach(), model(x[3:4]).detach(), within=1e-4)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("possas-vgg", 1_525_738),
        ("lenet", 83_126),
        ("resnet-18", 11_173_962),
        ("resnet-20", 272_474),
        ("mobilenet-v2", 2_236_682),
    ],
)
def test_networks_have_the_published_number_of_parameters(name: str, count: int) -> None:
    # mobilenet-v2: 3,504,872 for 1,000 classes, less 990 rows of 1,281; lenet: 456 + 2,416 + 69,240 + 10,164 + 850
    assert parameters(build(name, input_shape=(3, 32, 32), count=10)) == count


def test_possas_vgg_takes_pixels_as_they_are() -> None:
    assert entries("model")["possas-vgg"].options["normalize"] is False

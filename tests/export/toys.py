"""Small networks with what deployed ones are made of, with random weights and batch norms that are not the identity."""

from __future__ import annotations

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeproof.export.graph import PREFIX

SHAPE = (3, 16, 16)
CLASSES = 5


def conv_bn(in_channels: int, out_channels: int, *, stride: int = 1, groups: int = 1, kernel: int = 3) -> nn.Sequential:
    convolution = nn.Conv2d(
        in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False
    )
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels))


class Normalized(nn.Module):
    """Mean and deviation inside the model, as in every classifier here."""

    mean: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.45, 0.5, 0.55]).view(1, 3, 1, 1))
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network((x - self.mean) / 0.25)
        return logits


class Residual(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, *, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(conv_bn(in_channels, out_channels, stride=stride), nn.ReLU())
        self.second = conv_bn(out_channels, out_channels)
        same = stride == 1 and in_channels == out_channels
        self.shortcut = nn.Identity() if same else conv_bn(in_channels, out_channels, stride=stride, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.second(self.first(x)) + self.shortcut(x))


class InvertedResidual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = 3 * channels
        self.layers = nn.Sequential(
            conv_bn(channels, hidden, kernel=1), nn.ReLU6(),
            conv_bn(hidden, hidden, groups=hidden), nn.ReLU6(),
            conv_bn(hidden, channels, kernel=1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        shifted: Tensor = x + self.layers(x)
        return shifted


def _head(channels: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES)]


def toy_vgg() -> nn.Module:
    features = [conv_bn(3, 8), nn.ReLU(), nn.MaxPool2d(2), conv_bn(8, 16), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
    return nn.Sequential(*features, nn.Linear(256, 32), nn.ReLU(), nn.Dropout(), nn.Linear(32, CLASSES))


def toy_resnet() -> nn.Module:
    blocks = [Residual(8, 8, stride=1), Residual(8, 16, stride=2)]
    return nn.Sequential(conv_bn(3, 8), nn.ReLU(), *blocks, *_head(16))


def toy_mobilenet() -> nn.Module:
    return nn.Sequential(conv_bn(3, 8), nn.ReLU6(), InvertedResidual(8), InvertedResidual(8), *_head(8))


TOYS = {"vgg": toy_vgg, "resnet": toy_resnet, "mobilenet": toy_mobilenet}


def build_toy(name: str) -> nn.Module:
    """Return a toy in evaluation mode; the same weights every time."""
    with torch.random.fork_rng():
        torch.manual_seed(len(name))
        model = Normalized(TOYS[name]())
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                nn.init.uniform_(layer.weight, 0.5, 1.5)
                nn.init.normal_(layer.bias, std=0.3)
                nn.init.normal_(layer.running_mean, std=0.1)
                nn.init.uniform_(layer.running_var, 0.5, 1.5)
    return model.eval().requires_grad_(False)


def smooth_images(count: int, *, seed: int = 0) -> NDArray[np.float32]:
    """Return images (N, 3, 16, 16) in [0, 1] with large patches, so that activations spread."""
    coarse = np.random.default_rng(seed).random((count, 3, 4, 4), dtype=np.float32)
    return np.ascontiguousarray(np.kron(coarse, np.ones((1, 1, 4, 4), np.float32)))


def torch_logits(model: nn.Module, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what the module itself says."""
    with torch.inference_mode():
        logits: NDArray[np.float32] = model(torch.from_numpy(images)).numpy()
    return logits


def read_metadata(model: onnx.ModelProto) -> dict[str, str]:
    """Return what our exporters have noted in a graph, without the prefix of the keys."""
    return {p.key.removeprefix(PREFIX): p.value for p in model.metadata_props if p.key.startswith(PREFIX)}

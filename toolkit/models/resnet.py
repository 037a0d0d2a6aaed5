"""Residual networks for small images (He et al., 2016, arXiv:1512.03385)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from edgeproof.plugins.registry import register


@register("resnet-20", min_size=16)
def resnet20(*, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """ResNet-20 of the CIFAR experiments: three stages of three blocks, 16, 32 and 64 channels.

    Where the shape changes, the shortcut is a 1x1 convolution (option B); the paper pads with zeros.

    Args:
        input_shape: (C, H, W), any C, H and W at least 16.
        num_classes: K.
    """
    return _resnet(input_shape[0], num_classes, widths=(16, 32, 64), depth=3)


@register("resnet-18", min_size=16)
def resnet18(*, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """ResNet-18 for small images: a 3x3 stem of stride 1 and no max-pool, as is usual on CIFAR.

    Args:
        input_shape: (C, H, W), any C, H and W at least 16.
        num_classes: K.
    """
    return _resnet(input_shape[0], num_classes, widths=(64, 128, 256, 512), depth=2)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut around them."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            projection = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return features (N, out_channels, H / stride, W / stride)."""
        out = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        return functional.relu(self.bn2(self.conv2(out)) + self.shortcut(x), inplace=True)


def _resnet(channels: int, num_classes: int, *, widths: Sequence[int], depth: int) -> nn.Module:
    stem = nn.Conv2d(channels, widths[0], 3, padding=1, bias=False)
    layers: list[nn.Module] = [stem, nn.BatchNorm2d(widths[0]), nn.ReLU(inplace=True)]
    channels = widths[0]
    for stage, width in enumerate(widths):
        for block in range(depth):
            layers.append(BasicBlock(channels, width, stride=2 if stage and not block else 1))
            channels = width
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes))
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return network

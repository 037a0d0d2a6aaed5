"""MobileNetV2 for small images: depthwise layers, which suffer most from INT8."""

from __future__ import annotations

from torch import Tensor, nn

from edgeproof.plugins.registry import register

# expansion, channels, blocks, stride of the first: the paper's table 2, where the stem and the second row have stride 2
_STAGES = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


@register("mobilenet-v2", min_size=16)
def mobilenet_v2(*, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """MobileNetV2 (Sandler et al., 2018, arXiv:1801.04381) with stride 1 in the stem and the second stage.

    Args:
        input_shape: (C, H, W), any C, H and W at least 16.
        num_classes: K.
    """
    channels = 32
    layers: list[nn.Module] = _conv(input_shape[0], channels, kernel=3)
    for expansion, width, blocks, stride in _STAGES:
        for block in range(blocks):
            layers.append(InvertedResidual(channels, width, expansion=expansion, stride=1 if block else stride))
            channels = width
    layers += [*_conv(channels, 1280, kernel=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2)]
    network = nn.Sequential(*layers, nn.Linear(1280, num_classes))
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out")
    return network


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project; a shortcut where the shape stays."""

    def __init__(self, in_channels: int, out_channels: int, *, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        expand = _conv(in_channels, hidden, kernel=1) if expansion != 1 else []
        project = [nn.Conv2d(hidden, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)]
        self.layers = nn.Sequential(*expand, *_conv(hidden, hidden, kernel=3, stride=stride, groups=hidden), *project)
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Return features (N, out_channels, H / stride, W / stride)."""
        out: Tensor = self.layers(x)
        return x + out if self.residual else out


def _conv(in_channels: int, out_channels: int, *, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(
        in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False
    )
    return [convolution, nn.BatchNorm2d(out_channels), nn.ReLU6(inplace=True)]

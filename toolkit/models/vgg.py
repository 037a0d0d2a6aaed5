"""Plain stacks of 3x3 convolutions."""

from __future__ import annotations

from torch import Tensor, nn

from edgeproof.plugins.registry import register


@register("possas-vgg", min_size=16, normalize=False)
def possas_vgg(*, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """Three-block VGG of Possas & Zhou (ICONIP 2017): 1,525,738 parameters for 3x32x32 and 10 classes.

    Widths, dropout and the Glorot start come from the first author's thesis and Keras code. It takes pixels as they are,
    without mean and std. Every convolution has its ReLU; the released code leaves some of them out in blocks 2 and 3.

    Args:
        input_shape: (C, H, W), any C, H and W at least 16.
        num_classes: K.
    """
    blocks = ((32, 2), (64, 3), (128, 3))
    return _three_blocks(blocks, input_shape, hidden=512, num_classes=num_classes, dropout=(0.25, 0.5))


@register("possas-vgg-small", min_size=16, normalize=False)
def possas_vgg_small(*, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """The shape of `possas-vgg` with half the width, two convolutions a block and no dropout: 204,570 parameters, for small runs.

    Args:
        input_shape: (C, H, W), any C, H and W at least 16.
        num_classes: K.
    """
    blocks = ((16, 2), (32, 2), (64, 2))
    return _three_blocks(blocks, input_shape, hidden=128, num_classes=num_classes, dropout=None)


def _three_blocks(
    blocks: tuple[tuple[int, int], ...],
    input_shape: tuple[int, int, int],
    *,
    hidden: int,
    num_classes: int,
    dropout: tuple[float, float] | None,
) -> nn.Module:
    """Return blocks of (width, depth), then two linear layers; dropout is that after a block and before the last layer."""
    channels, height, width = input_shape
    layers: list[nn.Module] = []
    for out_channels, depth in blocks:
        for _ in range(depth):
            layers += [nn.Conv2d(channels, out_channels, 3, padding=1), nn.ReLU(inplace=True)]
            channels = out_channels
        layers += [nn.MaxPool2d(2), *([nn.Dropout(dropout[0])] if dropout else [])]
    features = channels * (height // 8) * (width // 8)
    layers += [nn.Flatten(), nn.Linear(features, hidden), nn.ReLU(inplace=True)]
    layers += [nn.Dropout(dropout[1])] if dropout else []
    network = nn.Sequential(*layers, nn.Linear(hidden, num_classes))
    for layer in network:
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.xavier_uniform_(layer.weight)
            _zero(layer.bias)
    return network


@register("vgg16-bn", min_size=16)
def vgg16_bn(*, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """VGG-16 with batch normalisation for small images (Simonyan & Zisserman, 2015, arXiv:1409.1556).

    The fifth max-pool is a global average, so that 16 pixels suffice, and one linear layer follows it instead of three.

    Args:
        input_shape: (C, H, W), any C, H and W at least 16.
        num_classes: K.
    """
    channels = input_shape[0]
    layers: list[nn.Module] = []
    for block, (out_channels, depth) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))):
        layers += [nn.MaxPool2d(2)] if block else []
        for _ in range(depth):
            layers += [nn.Conv2d(channels, out_channels, 3, padding=1, bias=False), nn.BatchNorm2d(out_channels)]
            layers += [nn.ReLU(inplace=True)]
            channels = out_channels
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes))


def _zero(bias: Tensor | None) -> None:
    if bias is not None:
        nn.init.zeros_(bias)

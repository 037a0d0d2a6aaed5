"""The victims of "Learning to Confuse" (Feng, Cai and Zhou, 2019, arXiv:1905.09027)."""

from __future__ import annotations

from torch import nn

from edgeproof.plugins.registry import register


@register("confuse-cnn-small", min_size=16)
def confuse_cnn_small(*, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """The MNIST victim at half its widths: 10, 25 and 250.

    Args:
        input_shape: (C, H, W), any C, H and W at least 16.
        num_classes: K.
    """
    return _mnist_victim(input_shape, num_classes, widths=(10, 25, 250))


@register("confuse-cnn", min_size=16)
def confuse_cnn(*, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """The MNIST victim: two 5x5 convolutions with average pooling, 20 and 50, and two linear layers, 500 and K.

    Batch normalisation follows every layer, the last one too, as in the authors' code; the paper does not mention it.

    Args:
        input_shape: (C, H, W), any C, H and W at least 16.
        num_classes: K.
    """
    return _mnist_victim(input_shape, num_classes, widths=(20, 50, 500))


@register("confuse-cnn-large", min_size=16)
def confuse_cnn_large(*, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """The MNIST victim at twice its widths: 40, 100 and 1,000.

    Args:
        input_shape: (C, H, W), any C, H and W at least 16.
        num_classes: K.
    """
    return _mnist_victim(input_shape, num_classes, widths=(40, 100, 1000))


@register("confuse-conv5", min_size=16)
def confuse_conv5(*, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """The victim for colour images: 3x3 convolutions 32-64-128-128-128 with max-pooling, average pooling, one linear layer.

    On images under 32 pixels the last pooling is left out, since one pixel is left before it.

    Args:
        input_shape: (C, H, W), any C, H and W at least 16.
        num_classes: K.
    """
    channels, side = input_shape[0], min(input_shape[1:])
    layers: list[nn.Module] = []
    for width in (32, 64, 128, 128, 128):
        layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        layers += [nn.MaxPool2d(2)] if side > 1 else []
        channels, side = width, side // 2
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes))


def _mnist_victim(
    input_shape: tuple[int, int, int], num_classes: int, *, widths: tuple[int, int, int]
) -> nn.Sequential:
    channels, height, width = input_shape
    first, second, hidden = widths
    features = second * _after(height) * _after(width)
    return nn.Sequential(
        nn.Conv2d(channels, first, 5, bias=False), nn.BatchNorm2d(first), nn.ReLU(inplace=True), nn.AvgPool2d(2),
        nn.Conv2d(first, second, 5, bias=False), nn.BatchNorm2d(second), nn.ReLU(inplace=True), nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(features, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True),
        nn.Linear(hidden, num_classes, bias=False), nn.BatchNorm1d(num_classes),
    )  # fmt: skip


def _after(side: int) -> int:
    """Return what two unpadded 5x5 convolutions with pooling leave of a side."""
    return ((side - 4) // 2 - 4) // 2

"""Small networks that train in seconds."""

from __future__ import annotations

from torch import nn

from edgeproof.plugins.registry import register


@register("small-cnn", min_size=16)
def small_cnn(*, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """Three convolutions with batch normalisation and max-pooling, 32-64-128, and two linear layers: the demo's network.

    A linear layer that sees every position, not a global average, is what noise does not sway: on enlarged digits the
    average lost 30 points to random signs of 0.1, this network none.

    Args:
        input_shape: (C, H, W), any C, H and W at least 16.
        num_classes: K.
    """
    return _three_convolutions((32, 64, 128), input_shape, num_classes=num_classes)


@register("small-cnn-half", min_size=16)
def small_cnn_half(*, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """`small-cnn` with half the channels, 16-32-64, for studies of many trainings.

    Args:
        input_shape: (C, H, W), any C, H and W at least 16.
        num_classes: K.
    """
    return _three_convolutions((16, 32, 64), input_shape, num_classes=num_classes)


def _three_convolutions(
    widths: tuple[int, int, int], input_shape: tuple[int, int, int], *, num_classes: int
) -> nn.Module:
    channels, height, width = input_shape
    layers: list[nn.Module] = []
    for out_channels in widths:
        layers += [nn.Conv2d(channels, out_channels, 3, padding=1, bias=False), nn.BatchNorm2d(out_channels)]
        layers += [nn.ReLU(inplace=True), nn.MaxPool2d(2)]
        channels = out_channels
    features = channels * (height // 8) * (width // 8)
    layers += [nn.Flatten(), nn.Linear(features, 128), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Linear(128, num_classes))


@register("lenet", min_size=16)
def lenet(*, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """LeNet-5 (LeCun et al., 1998) with ReLU and max-pooling: 6-16-120-84.

    The first convolution pads by 2, as is usual on 28x28 images.

    Args:
        input_shape: (C, H, W), any C, H and W at least 16.
        num_classes: K.
    """
    channels, height, width = input_shape
    features = 16 * ((height // 2 - 4) // 2) * ((width // 2 - 4) // 2)
    return nn.Sequential(
        nn.Conv2d(channels, 6, 5, padding=2), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(features, 120), nn.ReLU(inplace=True),
        nn.Linear(120, 84), nn.ReLU(inplace=True),
        nn.Linear(84, num_classes),
    )  # fmt: skip

"""Small networks that train in seconds."""

from __future__ import annotations

from torch import nn

from toolkit.registry import register


@register("small-cnn", min_size=16)
def small_cnn(*, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """Five convolutions with batch normalisation: the network of the demo.

    Args:
        input_shape: (C, H, W), any C, H and W at least 16.
        num_classes: K.
    """
    channels = input_shape[0]
    layers: list[nn.Module] = []
    for out_channels, stride in ((32, 1), (32, 2), (64, 1), (64, 2), (128, 1)):
        layers += [nn.Conv2d(channels, out_channels, 3, stride=stride, padding=1, bias=False)]
        layers += [nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]
        channels = out_channels
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes))


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

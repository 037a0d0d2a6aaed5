"""Noise generators: networks from an image to a perturbation of its shape inside the budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path

import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from edgeproof.config import Strict
from edgeproof.errors import ConfigError, ModelError, nearest
from edgeproof.models.base import check_weights
from edgeproof.runs import atomic

_METADATA = "edgeproof"
_WIDEST = 2**16  # channels
_STRIDE = 16  # four halvings: images are padded to a multiple of it


class GeneratorHeader(Strict):
    """The description of a generator, as JSON in the metadata of its file.

    Attributes:
        name: "encoder-decoder" or "unet".
        channels: C.
        eps: L-infinity budget in [0, 1] pixel units.
        width: Channels of the first stage.
    """

    name: str
    channels: int = Field(ge=1, le=_WIDEST)
    eps: float
    width: int = Field(ge=1, le=_WIDEST)


class NoiseGenerator(nn.Module):
    """g(x) = eps * tanh(U(x)), so that no weight can leave the budget.

    Attributes:
        body: U, from (N, C, H, W) to (N, C, H, W), both sides a multiple of 16.
        header: What it was built from.
    """

    def __init__(self, body: nn.Module, header: GeneratorHeader) -> None:
        super().__init__()
        self.body = body
        self.header = header

    def forward(self, x: Tensor) -> Tensor:
        """Return the noise of images (N, C, H, W) in [0, 1], of the same shape."""
        height, width = x.shape[2:]
        bottom, right = -height % _STRIDE, -width % _STRIDE
        padded = functional.pad(x, (right // 2, right - right // 2, bottom // 2, bottom - bottom // 2))
        whole: Tensor = self.body(padded)
        rows, columns = slice(bottom // 2, bottom // 2 + height), slice(right // 2, right // 2 + width)
        return self.header.eps * torch.tanh(whole[:, :, rows, columns])

    def poison(self, x: Tensor) -> Tensor:
        """Return clip(x + g(x)), the images that a victim is given."""
        noise: Tensor = self(x)
        return (x + noise).clamp(0, 1)


def build_generator(name: str, *, channels: int, eps: float, width: int | None = None) -> NoiseGenerator:
    """Build a generator with fresh weights from torch's default generator.

    Args:
        name: "encoder-decoder" or "unet".
        channels: C of the images.
        eps: Budget.
        width: Channels of the first stage (default: 16 and 64, as published).

    Raises:
        ConfigError: For an unknown name.
    """
    if name not in _BODIES:
        raise ConfigError(f"unknown generator {name!r}{nearest(name, _BODIES)}; known: {', '.join(_BODIES)}")
    body, published = _BODIES[name]
    header = GeneratorHeader(name=name, channels=channels, eps=eps, width=width or published)
    return NoiseGenerator(body(channels, width=header.width), header)


def save_generator(path: Path, generator: NoiseGenerator) -> None:
    """Write a generator atomically: its tensors, and what it is in the metadata."""
    weights = {key: value.detach().cpu().clone().contiguous() for key, value in generator.state_dict().items()}
    with atomic(path) as temporary:
        save_file(weights, temporary, metadata={_METADATA: generator.header.model_dump_json()})


def load_generator(path: Path, *, eps: float | None = None) -> NoiseGenerator:
    """Read a generator: in eval mode, weights checked and without gradients.

    Args:
        path: What `save_generator` has written.
        eps: Another budget than its own, to which the same noise is scaled.

    Raises:
        ModelError: When the file cannot be read, is not ours or does not fit its network.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = GeneratorHeader.model_validate_json((file.metadata() or {})[_METADATA])
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (it is no mapping)
    except (SafetensorError, OSError, KeyError, ValidationError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"{path} cannot be read as a noise generator ({reason}); poison again") from error
    with torch.device("meta"):  # no memory before the weights are found to fit, and none of the caller's draws
        generator = build_generator(
            header.name, channels=header.channels, eps=header.eps if eps is None else eps, width=header.width
        )
    check_weights(generator, weights, source=str(path))
    generator.to_empty(device="cpu").load_state_dict(weights)
    return generator.eval().requires_grad_(False)


class EncoderDecoder(nn.Sequential):
    """Four 4x4 convolutions of stride 2 and their mirror image, 16-32-64-128: the paper's network for MNIST and ImageNet.

    The authors' code for MNIST has another one, of odd strides that fit 28 pixels only.
    """

    def __init__(self, channels: int, *, width: int) -> None:
        widths = [channels, width, 2 * width, 4 * width, 8 * width]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 4, stride=2, padding=1, bias=False), *_normalized(after)]
        for before, after in zip(widths[:1:-1], widths[-2:0:-1], strict=True):
            layers += [nn.ConvTranspose2d(before, after, 4, stride=2, padding=1, bias=False), *_normalized(after)]
        super().__init__(*layers, nn.ConvTranspose2d(width, channels, 4, stride=2, padding=1))


class UNet(nn.Module):
    """U-Net 64-128-256-512 with average pooling and bilinear upsampling (Ronneberger et al., 2015): the code's for CIFAR-10.

    On a GPU the gradient of the upsampling is summed in no fixed order, so that two equal runs end in slightly other bytes.
    """

    def __init__(self, channels: int, *, width: int) -> None:
        super().__init__()
        widths = [width, 2 * width, 4 * width, 8 * width]
        self.down = nn.ModuleList(map(_two_convolutions, [channels, *widths[:3]], widths))
        self.up = nn.ModuleList(_two_convolutions(3 * after, after) for after in widths[2::-1])
        self.last = nn.Sequential(nn.Conv2d(width, channels, 1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return U(x)."""
        passed: list[Tensor] = []
        for stage in self.down:
            x = stage(functional.avg_pool2d(x, 2) if passed else x)
            passed.append(x)
        for stage, skip in zip(self.up, passed[-2::-1], strict=True):
            x = functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = stage(torch.cat([x, skip], dim=1))
        noise: Tensor = self.last(x)
        return noise


def _two_convolutions(before: int, after: int) -> nn.Sequential:
    first = nn.Conv2d(before, after, 3, padding=1, bias=False)
    second = nn.Conv2d(after, after, 3, padding=1, bias=False)
    return nn.Sequential(first, *_normalized(after), second, *_normalized(after))


def _normalized(width: int) -> tuple[nn.Module, nn.Module]:
    return nn.BatchNorm2d(width), nn.ReLU(inplace=True)


_BODIES: Mapping[str, tuple[Callable[..., nn.Module], int]] = {
    "encoder-decoder": (EncoderDecoder, 16),
    "unet": (UNet, 64),
}

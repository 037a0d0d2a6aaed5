"""Random flips, crops and cut-outs of a whole batch at once, on images in [0, 1]."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_PADDING = 8  # a crop moves by up to an eighth of the side: 4 pixels of 32


def augment(x: Tensor, *, how: str, generator: torch.Generator) -> Tensor:
    """Return images (N, C, H, W), each with its own flip, crop and cut-out.

    Args:
        x: Images.
        how: "none", or any of "flip", "crop" and "cutout", joined by hyphens.
        generator: On the processor, so that the draws do not depend on the device.
    """
    parts = how.split("-")
    if "flip" in parts:
        x = random_flip(x, generator=generator)
    if "crop" in parts:
        x = random_crop(x, generator=generator)
    return random_cutout(x, generator=generator) if "cutout" in parts else x


def random_flip(x: Tensor, *, generator: torch.Generator) -> Tensor:
    """Mirror each image left to right with probability one half."""
    mirrored = torch.rand(len(x), generator=generator) < 0.5
    return torch.where(mirrored.to(x.device)[:, None, None, None], x.flip(3), x)


def random_crop(x: Tensor, *, generator: torch.Generator) -> Tensor:
    """Move each image by up to an eighth of its side in each direction; black comes in at the borders."""
    height, width = x.shape[2:]
    rows = _moved(len(x), height, generator=generator).to(x.device)
    columns = _moved(len(x), width, generator=generator).to(x.device)
    vertical, horizontal = height // _PADDING, width // _PADDING
    padded = functional.pad(x, (horizontal, horizontal, vertical, vertical))
    images = torch.arange(len(x), device=x.device)[:, None, None]
    # Channels come last out of this gather, as the network wants them in memory.
    return padded.permute(0, 2, 3, 1)[images, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def random_cutout(x: Tensor, *, generator: torch.Generator) -> Tensor:
    """Blacken a rectangle of half the sides of each image (DeVries and Taylor, 2017, arXiv:1708.04552).

    Its centre is any pixel, so that a part of it may lie outside. The authors fill it with the mean colour; this is black.
    """
    height, width = x.shape[2:]
    rows = _covered(len(x), height, generator=generator).to(x.device)
    columns = _covered(len(x), width, generator=generator).to(x.device)
    return torch.where((rows[:, :, None] & columns[:, None, :])[:, None], 0.0, x)


def _covered(count: int, side: int, *, generator: torch.Generator) -> Tensor:
    """Return, for each image, which rows a cut-out covers: (count, side) bool."""
    start = torch.randint(0, side, (count, 1), generator=generator) - side // 4
    place = torch.arange(side)
    return (place >= start) & (place < start + side // 2)


def _moved(count: int, side: int, *, generator: torch.Generator) -> Tensor:
    """Return, for each image, which rows of the padded image it takes: (count, side)."""
    start = torch.randint(0, 2 * (side // _PADDING) + 1, (count, 1), generator=generator)
    return start + torch.arange(side)

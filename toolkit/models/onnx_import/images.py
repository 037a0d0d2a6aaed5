"""How a graph wants its images: described by the user where the file cannot say it, and applied before every call."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from edgeproof.errors import ModelError
from edgeproof.models.base import check_normalization
from edgeproof.models.onnx_import.elementwise import substitute
from edgeproof.models.onnx_import.shapes import MAX_ELEMENTS
from edgeproof.onnx_files.summary import GraphSummary, Layout, Shape
from edgeproof.types import Array, Images

_DTYPES = ("float32", "uint8", "float16")


@dataclass(frozen=True)
class GraphInput:
    """How a graph wants its images.

    Attributes:
        layout: "nchw", "nhwc" or "flat" (N, C * H * W).
        input_range: What 1.0 becomes: 1, or 255 for graphs made for bytes.
        mean: Subtracted from each channel, after the scaling to `input_range`; empty when the graph does it itself.
        std: What each channel is then divided by; empty likewise.
        dtype: "float32", "float16" or "uint8": the type of the graph's input.
        batch: The batch size that the graph is fixed to, or None when it takes any. It is 1 for dynamically quantised
            graphs, in which each image would otherwise change the ranges of the others.
    """

    layout: Layout = "nchw"
    input_range: float = 1.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    dtype: str = "float32"
    batch: int | None = None

    def prepare(self, x: Tensor) -> Tensor:
        """Return what the graph is given for images (N, C, H, W) in [0, 1], in the type of `x` and differentiable."""
        x = x if self.input_range == 1.0 else x * self.input_range
        if self.mean:
            mean, std = (x.new_tensor(values).view(1, -1, 1, 1) for values in (self.mean, self.std))
            x = (x - mean) / std
        if self.dtype != "float32":
            x = substitute(x.half().to(x.dtype) if self.dtype == "float16" else torch.round(x), x)
        if self.layout == "flat":
            return x.flatten(1)
        return x.permute(0, 2, 3, 1) if self.layout == "nhwc" else x

    def feed(self, images: Images) -> Array:
        """Return what an engine that runs the file is given for images (N, C, H, W) in [0, 1]."""
        with torch.no_grad():
            return np.ascontiguousarray(self.prepare(torch.from_numpy(images)).numpy(), dtype=self.dtype)


def describe_input(
    summary: GraphSummary,
    path: Path,
    *,
    layout: Layout | None,
    input_range: float,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    input_shape: Shape | None,
) -> tuple[GraphInput, Shape]:
    """Return the description of the graph's input and the images' (C, H, W).

    Raises:
        ModelError: When the graph does not take images, or not as they are described.
    """
    value = summary.only_input(path)
    if value.dtype not in _DTYPES:
        raise ModelError(f"{path} takes {value}; expected {', '.join(_DTYPES)}")
    shape = summary.image_shape(path, layout=layout, input_shape=input_shape)
    batch = (value.shape or ("?",))[0]
    if math.prod(shape) * (batch if isinstance(batch, int) else 1) > MAX_ELEMENTS:
        raise ModelError(f"{path} takes {value}; images of shape {shape} cannot be meant")
    try:
        means, stds = _normalization(mean, std, channels=shape[0])
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    fixed = batch if isinstance(batch, int) else None
    return GraphInput(layout or "nchw", input_range, means, stds, value.dtype, fixed), shape


def _normalization(
    mean: Sequence[float] | None, std: Sequence[float] | None, *, channels: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if mean is None and std is None:
        return (), ()
    means, stds = tuple(mean or (0.0,) * channels), tuple(std or (1.0,) * channels)
    check_normalization(means, stds, channels=channels)
    return means, stds

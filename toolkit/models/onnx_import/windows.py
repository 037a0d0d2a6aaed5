"""Convolutions and pools: everything that slides a window, with ONNX's padding rules."""

from __future__ import annotations

import math
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeproof.models.onnx_import.table import operator

_MAX_POOL = {3: F.max_pool1d, 4: F.max_pool2d, 5: F.max_pool3d}
_AVG_POOL = {3: F.avg_pool1d, 4: F.avg_pool2d, 5: F.avg_pool3d}

Sizes: TypeAlias = list[int] | tuple[int, ...]


def pads_of(
    size: Sizes, *, window: Sizes, strides: Sizes, pads: Sizes | None, auto_pad: str
) -> tuple[list[int], list[int]]:
    """Return the padding before and after each spatial axis.

    Args:
        size: Spatial size of the input.
        window: Size of the window with its dilation.
        strides: Steps of the window.
        pads: ONNX's attribute: all beginnings, then all ends.
        auto_pad: NOTSET, VALID, SAME_UPPER or SAME_LOWER.
    """
    if not auto_pad.startswith("SAME"):
        given = list(pads or ()) if auto_pad == "NOTSET" else []
        given = given or [0] * (2 * len(size))
        return given[: len(size)], given[len(size) :]
    total = [max((math.ceil(n / step) - 1) * step + k - n, 0) for n, k, step in zip(size, window, strides, strict=True)]
    small, large = [n // 2 for n in total], [n - n // 2 for n in total]
    return (small, large) if auto_pad == "SAME_UPPER" else (large, small)


def pad_spatial(x: Tensor, begin: Sizes, end: Sizes, *, value: float = 0.0) -> Tensor:
    """Pad (or, with negative numbers, crop) the spatial axes of (N, C, ...)."""
    pairs = [n for pair in zip(reversed(begin), reversed(end), strict=True) for n in pair]
    return F.pad(x, pairs, value=value) if any(pairs) else x


@operator("Conv")
def conv(
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sizes | None = None,
    group: int = 1,
    kernel_shape: Sizes | None = None,  # repeats the shape of `w`
    pads: Sizes | None = None,
    strides: Sizes | None = None,
) -> Tensor:
    """Convolve (N, C, ...) with (M, C / group, ...)."""
    ones = [1] * (x.dim() - 2)
    strides, dilations = strides or ones, dilations or ones
    window = _dilated(w.shape[2:], dilations)
    begin, end = pads_of(x.shape[2:], window=window, strides=strides, pads=pads, auto_pad=auto_pad)
    if begin != end:
        x, begin = pad_spatial(x, begin, end), [0] * len(ones)
    return torch.convolution(x, w, b, strides, begin, dilations, False, [0] * len(ones), group)


@operator("MaxPool")
def max_pool(
    x: Tensor,
    *,
    kernel_shape: Sizes,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Sizes | None = None,
    pads: Sizes | None = None,
    storage_order: int = 0,  # concerns the indices only, which are not covered
    strides: Sizes | None = None,
) -> Tensor:
    """Take the largest value of each window."""
    ones = [1] * len(kernel_shape)
    strides, dilations = strides or ones, dilations or ones
    window = _dilated(kernel_shape, dilations)
    begin, end = pads_of(x.shape[2:], window=window, strides=strides, pads=pads, auto_pad=auto_pad)
    if ceil_mode or begin != end or any(2 * n > k for n, k in zip(begin, kernel_shape, strict=True)):
        end = _exact_end(x.shape[2:], begin, end, window=window, strides=strides, ceil=bool(ceil_mode))
        x, begin = pad_spatial(x, begin, end, value=-torch.inf), [0] * len(ones)
    pooled: Tensor = _MAX_POOL[x.dim()](x, kernel_shape, strides, begin, dilations)
    return pooled


@operator("AveragePool")
def average_pool(
    x: Tensor,
    *,
    kernel_shape: Sizes,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: Sizes | None = None,
    pads: Sizes | None = None,
    strides: Sizes | None = None,
) -> Tensor:
    """Average each window, over the cells inside the image or over all of them."""
    if any(n != 1 for n in dilations or ()):
        raise NotImplementedError("dilations")
    strides = strides or [1] * len(kernel_shape)
    begin, end = pads_of(x.shape[2:], window=kernel_shape, strides=strides, pads=pads, auto_pad=auto_pad)
    pool = _AVG_POOL[x.dim()]
    if not ceil_mode and not any(begin) and not any(end):
        return pool(x, kernel_shape, strides)
    exact = _exact_end(x.shape[2:], begin, end, window=kernel_shape, strides=strides, ceil=bool(ceil_mode))
    beyond = [n - m for n, m in zip(exact, end, strict=True)]  # what rounding up adds counts in no case
    ones = pad_spatial(x.new_ones((1, 1, *x.shape[2:])), begin, end, value=float(count_include_pad))
    share = pool(pad_spatial(ones, [0] * len(end), beyond), kernel_shape, strides)
    return pool(pad_spatial(x, begin, exact), kernel_shape, strides) / share


@operator("GlobalAveragePool")
def global_average_pool(x: Tensor) -> Tensor:
    """Average over all spatial axes, which stay with length 1."""
    return x.mean(dim=tuple(range(2, x.dim())), keepdim=True)


@operator("GlobalMaxPool")
def global_max_pool(x: Tensor) -> Tensor:
    """Take the largest value over all spatial axes, which stay with length 1."""
    return x.amax(dim=tuple(range(2, x.dim())), keepdim=True)


def _dilated(kernel: Sizes, dilations: Sizes) -> list[int]:
    return [(k - 1) * dilation + 1 for k, dilation in zip(kernel, dilations, strict=True)]


def _exact_end(size: Sizes, begin: Sizes, end: Sizes, *, window: Sizes, strides: Sizes, ceil: bool) -> list[int]:
    """Return the padding after each axis with which the windows fill the axis exactly.

    Rounding up, a window that would start in the padding behind the image is left out.
    """
    exact = []
    for n, before, after, k, step in zip(size, begin, end, window, strides, strict=True):
        room = n + before + after - k
        count = (-(-room // step) if ceil else room // step) + 1
        count -= ceil and (count - 1) * step >= n + before
        exact.append((count - 1) * step + k - n - before)
    return exact

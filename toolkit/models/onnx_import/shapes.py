"""Operators that move, cut, join, index and reduce. Integers (shapes, axes, indices) live on the CPU."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from edgeproof.models.onnx_import.table import integers, operator

Sizes = Sequence[int]

#: Elements of a tensor that a graph may ask for out of nothing; a file of a few bytes must not fill the memory.
MAX_ELEMENTS = 2**28


def _limited(shape: Sizes) -> list[int]:
    if math.prod(shape) > MAX_ELEMENTS:
        raise NotImplementedError(f"a tensor of shape {list(shape)}, over {MAX_ELEMENTS} elements")
    return list(shape)


@operator("Shape")
def shape(x: Tensor, *, start: int = 0, end: int | None = None) -> Tensor:
    """Return the shape, or a part of it, as int64."""
    return torch.tensor(x.shape[start:end], dtype=torch.int64)


@operator("Size")
def size(x: Tensor) -> Tensor:
    """Return the number of elements as int64."""
    return torch.tensor(x.numel(), dtype=torch.int64)


@operator("Reshape", static=("shape",))
def reshape(x: Tensor, shape: Any, *, allowzero: int = 0) -> Tensor:
    """Reshape; 0 keeps an axis, -1 takes what is left."""
    wanted = integers(shape)
    return x.reshape([x.shape[axis] if n == 0 and not allowzero else n for axis, n in enumerate(wanted)])


@operator("Flatten")
def flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    """Return a matrix: the axes before `axis` against the others."""
    axis = axis + x.dim() if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), -1)


@operator("Transpose")
def transpose(x: Tensor, *, perm: Sizes | None = None) -> Tensor:
    """Permute the axes; by default in reverse."""
    return x.permute(list(perm) if perm else list(reversed(range(x.dim()))))


@operator("Squeeze", static=("axes",))
def squeeze(x: Tensor, axes: Any = None) -> Tensor:
    """Drop axes of length 1: those named, or all."""
    return x.squeeze() if axes is None else x.squeeze(integers(axes))


@operator("Unsqueeze", static=("axes",))
def unsqueeze(x: Tensor, axes: Any) -> Tensor:
    """Insert axes of length 1 at these places of the result."""
    places = integers(axes)
    rank = x.dim() + len(places)
    for axis in sorted(axis % rank for axis in places):
        x = x.unsqueeze(axis)
    return x


@operator("Concat")
def concat(*inputs: Tensor, axis: int) -> Tensor:
    """Join along an axis."""
    return torch.cat(inputs, axis)


@operator("Split", static=("split",), multiple=True)
def split(
    x: Tensor, split: Any = None, *, axis: int = 0, num_outputs: int | None = None, outputs: int
) -> tuple[Tensor, ...]:
    """Cut along an axis into parts of these lengths, or into equal ones, the last being the shorter."""
    parts = list(integers(split)) if split is not None else math.ceil(x.shape[axis] / outputs)
    return torch.split(x, parts, axis)


@operator("Slice", static=("starts", "ends", "axes", "steps"))
def slice_(x: Tensor, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Tensor:
    """Cut a range out of each named axis; a step may be negative."""
    firsts, lasts = integers(starts), integers(ends)
    where = integers(axes) if axes is not None else tuple(range(len(firsts)))
    jumps = integers(steps) if steps is not None else (1,) * len(firsts)
    for first, last, axis, step in zip(firsts, lasts, where, jumps, strict=True):
        kept = range(*slice(first, _stop(last, step), step).indices(x.shape[axis]))
        if step > 0:
            x = x.movedim(axis, 0)[kept.start : max(kept.stop, kept.start) : step].movedim(0, axis)
        else:
            x = x.index_select(axis, torch.tensor(kept, dtype=torch.int64, device=x.device))
    return x


def _stop(last: int, step: int) -> int | None:
    # Backwards, ONNX writes "past the first element" as a very negative number, which Python would clip to -1 as well.
    return None if step < 0 and last < -(2**30) else last


@operator("Gather")
def gather(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    """Take entries along an axis; the axes of the indices take its place."""
    if indices.dim() == 0:
        return x.select(axis, int(indices))
    axis %= x.dim()
    flat = indices.flatten().to(x.device)
    taken = x.index_select(axis, torch.where(flat < 0, flat + x.shape[axis], flat))
    return taken.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


@operator("Expand", static=("shape",))
def expand(x: Tensor, shape: Any) -> Tensor:
    """Broadcast against a shape."""
    return x.expand(np.broadcast_shapes(x.shape, _limited(integers(shape))))


@operator("Tile", static=("repeats",))
def tile(x: Tensor, repeats: Any) -> Tensor:
    """Repeat along each axis."""
    times = integers(repeats)
    _limited([n * m for n, m in zip(x.shape, times, strict=True)])
    return x.repeat(times)


@operator("ConstantOfShape", static=("shape",))
def constant_of_shape(shape: Any, *, value: float = 0.0) -> Tensor:
    """Fill a tensor with one number, of that number's type."""
    return torch.full(_limited(integers(shape)), value)


@operator("Range", static=("start", "limit", "delta"))
def range_(start: Any, limit: Any, delta: Any) -> Tensor:
    """Count from `start` to before `limit`."""
    first, last, step = (n.item() if isinstance(n, Tensor) else n for n in (start, limit, delta))
    _limited([math.ceil(abs((last - first) / step))])
    return torch.arange(first, last, step)


@operator("Pad", static=("pads", "constant_value", "axes"))
def pad(x: Tensor, pads: Any, constant_value: Any = None, axes: Any = None, *, mode: str = "constant") -> Tensor:
    """Pad each axis before and after; negative numbers cut."""
    amounts = integers(pads)
    where = integers(axes) if axes is not None else tuple(range(x.dim()))
    ends: dict[int, tuple[int, int]] = {
        axis % x.dim(): (amounts[i], amounts[i + len(where)]) for i, axis in enumerate(where)
    }
    flat = [n for axis in reversed(range(x.dim())) for n in ends.get(axis, (0, 0))]
    if mode == "constant":
        return F.pad(x, flat, value=0.0 if constant_value is None else float(constant_value))
    if mode not in ("reflect", "edge"):
        raise NotImplementedError(f"mode {mode!r}")
    while len(flat) > 2 and flat[-2:] == [0, 0]:
        flat = flat[:-2]  # torch pads only as many trailing axes as it is told to, and not the batch
    return F.pad(x, flat, mode="replicate" if mode == "edge" else mode)


def _reduction(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def reduce(x: Tensor, axes: Any = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
        dims = integers(axes) if axes is not None else ()
        if not dims and noop_with_empty_axes:
            return x
        return function(x, dim=dims or tuple(range(x.dim())), keepdim=bool(keepdims))

    return reduce


def _product(x: Tensor, *, dim: tuple[int, ...], keepdim: bool) -> Tensor:
    for axis in sorted((axis % x.dim() for axis in dim), reverse=True):
        x = x.prod(dim=axis, keepdim=keepdim)
    return x


for _name, _function in {
    "ReduceMean": torch.mean, "ReduceSum": torch.sum, "ReduceMax": torch.amax, "ReduceMin": torch.amin,
    "ReduceL2": torch.linalg.vector_norm, "ReduceProd": _product,
}.items():  # fmt: skip
    operator(_name, static=("axes",))(_reduction(_function))

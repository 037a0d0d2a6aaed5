"""Matrix products, normalisations and what does nothing at inference."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeproof.models.onnx_import.table import operator


@operator("Gemm")
def gemm(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Tensor:
    """Return alpha * a @ b + beta * c for matrices, each transposed on request."""
    a, b = a.t() if transA else a, b.t() if transB else b
    return alpha * (a @ b) if c is None else torch.addmm(c, a, b, beta=beta, alpha=alpha)


@operator("Einsum")
def einsum(*inputs: Tensor, equation: str) -> Tensor:
    """Sum products over the repeated indices of an equation."""
    return torch.einsum(equation, *inputs)


@operator("BatchNormalization")
def batch_normalization(
    x: Tensor,
    scale: Tensor,
    b: Tensor,
    mean: Tensor,
    var: Tensor,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,  # of the running statistics, in training
    spatial: int = 1,
    training_mode: int = 0,
) -> Tensor:
    """Normalise each channel with stored statistics."""
    if training_mode or not spatial:
        raise NotImplementedError("training mode" if training_mode else "spatial = 0")
    return F.batch_norm(x, mean, var, scale, b, False, 0.0, epsilon)


@operator("InstanceNormalization")
def instance_normalization(x: Tensor, scale: Tensor, b: Tensor, *, epsilon: float = 1e-5) -> Tensor:
    """Normalise each channel of each image with its own statistics."""
    return F.instance_norm(x, weight=scale, bias=b, eps=epsilon)


@operator("LayerNormalization")
def layer_normalization(
    x: Tensor, scale: Tensor, b: Tensor | None = None, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> Tensor:
    """Normalise over an axis and all that follow."""
    shape = x.shape[axis:]
    return F.layer_norm(x, shape, scale.expand(shape), None if b is None else b.expand(shape), epsilon)


@operator("GroupNormalization")
def group_normalization(
    x: Tensor, scale: Tensor, bias: Tensor, *, num_groups: int, epsilon: float = 1e-5, stash_type: int = 1, opset: int
) -> Tensor:
    """Normalise groups of channels; before opset 21 scale and bias are per group."""
    if opset < 21:
        each = x.shape[1] // num_groups
        scale, bias = scale.repeat_interleave(each), bias.repeat_interleave(each)
    return F.group_norm(x, num_groups, scale, bias, epsilon)


@operator("RMSNormalization")
def rms_normalization(
    x: Tensor, scale: Tensor, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> Tensor:
    """Divide by the root of the mean square over an axis and all that follow."""
    return F.rms_norm(x, x.shape[axis:], scale.expand(x.shape[axis:]), epsilon)


@operator("Attention")
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    *,
    is_causal: int = 0,
    qk_matmul_output_mode: int = 0,  # concerns an output that is not covered
    scale: float | None = None,
    softcap: float = 0.0,
    softmax_precision: int = 1,
) -> Tensor:
    """Attend with heads of shape (N, heads, length, size)."""
    if q.dim() != 4 or q.shape[1] != k.shape[1] or softcap:
        raise NotImplementedError(f"queries {list(q.shape)}, keys {list(k.shape)}, softcap {softcap}")
    return F.scaled_dot_product_attention(q, k, v, attn_mask, is_causal=bool(is_causal), scale=scale)


@operator("LRN")
def local_response_normalization(
    x: Tensor, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0
) -> Tensor:
    """Divide by the energy of neighbouring channels."""
    if size % 2 == 0:
        raise NotImplementedError(f"an even size ({size})")  # torch centres such a window differently
    return F.local_response_norm(x, size, alpha, beta, bias)


@operator("Dropout", static=("training_mode",))
def dropout(x: Tensor, ratio: Any = None, training_mode: Any = None, *, seed: int = 0) -> Tensor:
    """Pass everything on, as at inference."""
    if training_mode is not None and bool(training_mode):
        raise NotImplementedError("training mode")
    return x

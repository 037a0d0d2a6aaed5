"""Integer operators with straight-through gradients.

Small integers are carried as floating numbers that happen to be whole. So every operator that passes them on (pools,
reshapes) works unchanged, products are exact as long as sums stay under 2**24, and gradients flow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from edgeproof.models.onnx_import.elementwise import leaky_relu, softmax
from edgeproof.models.onnx_import.layers import gemm
from edgeproof.models.onnx_import.table import operator
from edgeproof.models.onnx_import.windows import average_pool, conv, global_average_pool
from edgeproof.ops import dequantize, quantize

Maybe: TypeAlias = Tensor | None

#: Range of the integer types that may be quantised to, by their number in ONNX: uint8, int8, uint16, int16, uint4, int4.
RANGES = {2: (0, 255), 3: (-128, 127), 4: (0, 65535), 5: (-32768, 32767), 21: (0, 15), 22: (-8, 7)}


@operator("QuantizeLinear", "com.microsoft.QuantizeLinear")
def quantize_linear(
    x: Tensor,
    y_scale: Tensor,
    y_zero_point: Maybe = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,  # stands in `low` and `high`
    precision: int = 0,
    saturate: int = 1,
    low: int,
    high: int,
) -> Tensor:
    """Round x / scale + zero point, half to even, into the integer range."""
    if block_size:
        raise NotImplementedError("blocked quantisation")
    return quantize(x, y_scale, y_zero_point, low=low, high=high, axis=axis)


@operator("DequantizeLinear", "com.microsoft.DequantizeLinear", carried=("x", "x_zero_point"))
def dequantize_linear(
    x: Tensor,
    x_scale: Tensor,
    x_zero_point: Maybe = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
) -> Tensor:
    """Return (x - zero point) * scale."""
    if block_size:
        raise NotImplementedError("blocked quantisation")
    return dequantize(x, x_scale, x_zero_point, axis=axis)


@operator("DynamicQuantizeLinear", multiple=True)
def dynamic_quantize_linear(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Quantise to uint8 with the range of the whole batch; range and zero point are constants on the way back."""
    least, most = x.detach().amin().clamp(max=0), x.detach().amax().clamp(min=0)
    scale = (most - least) / 255
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    zero_point = torch.round(-least / scale).clamp(0, 255)
    return quantize(x, scale, zero_point, low=0, high=255, axis=0), scale, zero_point


@operator("ConvInteger")
def conv_integer(x: Tensor, w: Tensor, x_zero_point: Maybe = None, w_zero_point: Maybe = None, **window: Any) -> Tensor:
    """Convolve integers; zero points are taken off first."""
    return conv(dequantize(x, None, x_zero_point), dequantize(w, None, w_zero_point, axis=0), **window)


@operator("MatMulInteger")
def matmul_integer(a: Tensor, b: Tensor, a_zero_point: Maybe = None, b_zero_point: Maybe = None) -> Tensor:
    """Multiply integers; zero points (one a row of `a`, one a column of `b`) are taken off first."""
    return dequantize(a, None, a_zero_point, axis=-2) @ dequantize(b, None, b_zero_point, axis=-1)


@operator("QLinearConv", carried=("b",))
def qlinear_conv(
    x: Tensor,
    x_scale: Tensor,
    x_zero_point: Maybe,
    w: Tensor,
    w_scale: Tensor,
    w_zero_point: Maybe,
    y_scale: Tensor,
    y_zero_point: Maybe,
    b: Maybe = None,
    *,
    low: int,
    high: int,
    **window: Any,
) -> Tensor:
    """Convolve integers exactly, then scale and round; the bias has the scale of the products."""
    total = conv(dequantize(x, None, x_zero_point), dequantize(w, None, w_zero_point, axis=0), b, **window)
    return quantize(dequantize(total, x_scale * w_scale, axis=1), y_scale, y_zero_point, low=low, high=high)


@operator("QLinearMatMul")
def qlinear_matmul(
    a: Tensor,
    a_scale: Tensor,
    a_zero_point: Maybe,
    b: Tensor,
    b_scale: Tensor,
    b_zero_point: Maybe,
    y_scale: Tensor,
    y_zero_point: Maybe,
    *,
    low: int,
    high: int,
) -> Tensor:
    """Multiply integers exactly, then scale and round."""
    total = dequantize(dequantize(matmul_integer(a, b, a_zero_point, b_zero_point), a_scale, axis=-2), b_scale, axis=-1)
    return quantize(total, y_scale, y_zero_point, low=low, high=high)


@operator("com.microsoft.QGemm", carried=("c",))
def qgemm(
    a: Tensor,
    a_scale: Tensor,
    a_zero_point: Maybe,
    b: Tensor,
    b_scale: Tensor,
    b_zero_point: Maybe,
    c: Maybe = None,
    y_scale: Maybe = None,
    y_zero_point: Maybe = None,
    *,
    low: int,
    high: int,
    alpha: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Tensor:
    """Multiply integers as `gemm` does; rounded only where an output scale is given."""
    columns = 0 if transB else 1
    left, right = dequantize(a, None, a_zero_point), dequantize(b, None, b_zero_point, axis=columns)
    total = dequantize(gemm(left, right, c, transA=transA, transB=transB), alpha * a_scale * b_scale, axis=1)
    return total if y_scale is None else quantize(total, y_scale, y_zero_point, low=low, high=high)


@operator("com.microsoft.QLinearAdd")
def qlinear_add(
    a: Tensor,
    a_scale: Tensor,
    a_zero_point: Maybe,
    b: Tensor,
    b_scale: Tensor,
    b_zero_point: Maybe,
    y_scale: Tensor,
    y_zero_point: Maybe = None,
    *,
    low: int,
    high: int,
) -> Tensor:
    """Add two quantised tensors."""
    total = dequantize(a, a_scale, a_zero_point) + dequantize(b, b_scale, b_zero_point)
    return quantize(total, y_scale, y_zero_point, low=low, high=high)


@operator("com.microsoft.QLinearMul")
def qlinear_mul(
    a: Tensor,
    a_scale: Tensor,
    a_zero_point: Maybe,
    b: Tensor,
    b_scale: Tensor,
    b_zero_point: Maybe,
    y_scale: Tensor,
    y_zero_point: Maybe = None,
    *,
    low: int,
    high: int,
) -> Tensor:
    """Multiply two quantised tensors elementwise."""
    product = dequantize(a, a_scale, a_zero_point) * dequantize(b, b_scale, b_zero_point)
    return quantize(product, y_scale, y_zero_point, low=low, high=high)


@operator("com.microsoft.QLinearConcat")
def qlinear_concat(y_scale: Tensor, y_zero_point: Maybe, *parts: Any, axis: int, low: int, high: int) -> Tensor:
    """Join quantised tensors, each followed by its scale and zero point."""
    real = [dequantize(*parts[first : first + 3]) for first in range(0, len(parts), 3)]
    return quantize(torch.cat(real, axis), y_scale, y_zero_point, low=low, high=high)


def _requantized(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Turn an operator on one real tensor into its quantised form: dequantise, compute, quantise."""

    def apply(
        x: Tensor,
        x_scale: Tensor,
        x_zero_point: Maybe,
        y_scale: Tensor,
        y_zero_point: Maybe = None,
        *,
        low: int,
        high: int,
        channels_last: int = 0,
        **attributes: Any,
    ) -> Tensor:
        if channels_last:
            raise NotImplementedError("channels_last")
        real = function(dequantize(x, x_scale, x_zero_point), **attributes)
        return quantize(real, y_scale, y_zero_point, low=low, high=high)

    return apply


def _sigmoid(x: Tensor) -> Tensor:
    return torch.sigmoid(x)


_ON_REAL_NUMBERS: dict[str, Callable[..., Tensor]] = {
    "QLinearAveragePool": average_pool,
    "QLinearGlobalAveragePool": global_average_pool,
    "QLinearLeakyRelu": leaky_relu,
    "QLinearSigmoid": _sigmoid,
    "QLinearSoftmax": softmax,
}
for _name, _function in _ON_REAL_NUMBERS.items():
    operator(f"com.microsoft.{_name}")(_requantized(_function))

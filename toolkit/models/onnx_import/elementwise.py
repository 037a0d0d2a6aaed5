"""Elementwise operators and activations."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeproof.models.onnx_import.table import operator


class _Substitute(torch.autograd.Function):
    """The value of one tensor with the gradient of another."""

    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor, surrogate: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep nothing: the gradient passes unchanged."""

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        return None, grad


def substitute(value: Tensor, surrogate: Tensor) -> Tensor:
    """Return `value` exactly, with the gradient of `surrogate`.

    This is BPDA (Athalye, Carlini, Wagner 2018, arXiv:1802.00420): a step function, whose own gradient is zero almost
    everywhere, is replaced by a smooth function that resembles it on the way back only.
    """
    result: Tensor = _Substitute.apply(value.detach(), surrogate)  # type: ignore[no-untyped-call]
    return result


def _enter(functions: dict[str, Callable[..., Tensor]]) -> None:
    for name, function in functions.items():
        operator(name)(_plain(function))


def _plain(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Give a torch function the signature of an operator without attributes."""

    def apply(*inputs: Tensor) -> Tensor:
        return function(*inputs)

    apply.__name__ = getattr(function, "__name__", "apply")
    return apply


def _folded(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """Turn a function of two tensors into one of any number."""

    def fold(*inputs: Tensor) -> Tensor:
        return functools.reduce(function, inputs)

    return fold


def _divide(a: Tensor, b: Tensor) -> Tensor:
    whole = not (a.is_floating_point() or b.is_floating_point())
    return torch.div(a, b, rounding_mode="trunc" if whole else None)


def _mean(*inputs: Tensor) -> Tensor:
    return functools.reduce(torch.add, inputs) / len(inputs)


def _sign(x: Tensor) -> Tensor:
    return substitute(torch.sign(x), F.softsign(x))


def _round(x: Tensor) -> Tensor:
    return substitute(torch.round(x), x)


def _floor(x: Tensor) -> Tensor:
    return substitute(torch.floor(x), x)


def _ceil(x: Tensor) -> Tensor:
    return substitute(torch.ceil(x), x)


_enter(
    {
        "Abs": torch.abs, "Add": torch.add, "And": torch.logical_and, "Ceil": _ceil, "Cos": torch.cos, "Div": _divide,
        "Equal": torch.eq, "Erf": torch.erf, "Exp": torch.exp, "Floor": _floor, "Greater": torch.gt,
        "GreaterOrEqual": torch.ge, "HardSwish": F.hardswish, "IsNaN": torch.isnan, "Less": torch.lt, "LessOrEqual": torch.le,
        "Log": torch.log, "MatMul": torch.matmul, "Max": _folded(torch.maximum), "Mean": _mean,
        "Min": _folded(torch.minimum), "Mish": F.mish, "Mul": torch.mul, "Neg": torch.neg, "Not": torch.logical_not,
        "Or": torch.logical_or, "Pow": torch.pow, "Reciprocal": torch.reciprocal, "Relu": torch.relu, "Round": _round,
        "Sigmoid": torch.sigmoid, "Sign": _sign, "Sin": torch.sin, "Softplus": F.softplus, "Softsign": F.softsign,
        "Sqrt": torch.sqrt, "Sub": torch.sub, "Sum": _folded(torch.add), "Tanh": torch.tanh,
    }
)  # fmt: skip


@operator("Mod")
def mod(a: Tensor, b: Tensor, *, fmod: int = 0) -> Tensor:
    """Return the remainder, with the sign of `b`, or of `a` with `fmod`."""
    return torch.fmod(a, b) if fmod else torch.remainder(a, b)


@operator("Where")
def where(condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Choose elementwise; a condition made of shapes lives on the CPU."""
    return torch.where(condition.to(x.device), x, y)


@operator("Clip", static=("min", "max"))
def clip(x: Tensor, min: Any = None, max: Any = None) -> Tensor:
    """Limit to [min, max]; either may be missing."""
    return x if min is None and max is None else torch.clamp(x, min, max)


@operator("LeakyRelu")
def leaky_relu(x: Tensor, *, alpha: float = 0.01) -> Tensor:
    """Keep what is positive and scale the rest by alpha."""
    return F.leaky_relu(x, alpha)


@operator("PRelu")
def prelu(x: Tensor, slope: Tensor) -> Tensor:
    """Keep what is not negative and scale the rest by its slope."""
    return torch.where(x >= 0, x, slope * x)


@operator("Elu")
def elu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """Keep what is positive; alpha * (exp(x) - 1) for the rest."""
    return F.elu(x, alpha)


@operator("Selu")
def selu(x: Tensor, *, alpha: float = 1.6732631921768188, gamma: float = 1.0507010221481323) -> Tensor:
    """Scale `elu` by gamma."""
    return gamma * F.elu(x, alpha)


@operator("Celu")
def celu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """Keep what is positive; alpha * (exp(x / alpha) - 1) for the rest."""
    return F.celu(x, alpha)


@operator("HardSigmoid")
def hard_sigmoid(x: Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    """Limit alpha * x + beta to [0, 1]."""
    return torch.clamp(alpha * x + beta, 0, 1)


@operator("Gelu", "com.microsoft.Gelu")
def gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    """Multiply by the normal distribution function, exact or by tanh."""
    return F.gelu(x, approximate=approximate)


@operator("Softmax")
def softmax(x: Tensor, *, axis: int | None = None, opset: int) -> Tensor:
    """Normalise exponentials along an axis; before opset 13 along it and all that follow."""
    return _along(torch.softmax, x, axis, opset=opset)


@operator("LogSoftmax")
def log_softmax(x: Tensor, *, axis: int | None = None, opset: int) -> Tensor:
    """Take the logarithm of `softmax`."""
    return _along(torch.log_softmax, x, axis, opset=opset)


def _along(function: Callable[..., Tensor], x: Tensor, axis: int | None, *, opset: int) -> Tensor:
    if opset >= 13:
        return function(x, dim=-1 if axis is None else axis)
    first = 1 if axis is None else axis % x.dim()
    return function(x.flatten(first), dim=-1).reshape(x.shape)


#: What `Cast` keeps apart: integers and truth values. Every floating type is computed in the type of the weights,
#: FP16 included, which is what ONNX Runtime's CPU provider does; 8-bit integers are carried as floating numbers.
_WHOLE = {6: torch.int32, 7: torch.int64, 9: torch.bool}
_SMALL = {2, 3, 4, 5, 12, 21, 22}  # unsigned and signed 8, 16 and 4 bits, and uint32


@operator("Cast")
def cast(x: Tensor, *, to: int, saturate: int = 1) -> Tensor:
    """Change the type; to a small integer with the gradient of the identity."""
    if to in _WHOLE:
        return x.to(_WHOLE[to])
    if to in _SMALL:
        return substitute(torch.trunc(x), x) if x.is_floating_point() else x.to(torch.get_default_dtype())
    return x if x.is_floating_point() else x.to(torch.get_default_dtype())


@operator("CastLike")
def cast_like(x: Tensor, target: Tensor, *, saturate: int = 1) -> Tensor:
    """Change the type to that of another tensor."""
    return x if x.is_floating_point() and target.is_floating_point() else x.to(target.dtype)

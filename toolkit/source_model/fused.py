"""Convolutions fused with the sum and the ReLU behind them, for input gradients on the processor.

Forwards, oneDNN adds and clips while it writes the result of the convolution; backwards, the ReLU overwrites the gradient that it passes on.
Both save passes over memory, which is what a small network waits for.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

_ADDITIONS = (operator.add, operator.iadd, torch.add)
_RELUS = (nn.functional.relu, torch.relu)


def fuse_relus(traced: fx.GraphModule, x: Tensor) -> fx.GraphModule:
    """Return the model, changed, with each `relu(conv(a))` and `relu(conv(a) + b)` in one pass.

    Left as they are: convolutions whose result something else sees too, sums that broadcast, ReLUs whose gradient something
    else may see, and other types than float32.

    Args:
        traced: A frozen model in eval mode, on the processor.
        x: A few of its images, to learn the shapes from.
    """
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not available or x.dtype != torch.float32:
        return traced
    ShapeProp(traced).propagate(x)
    for relu in [node for node in traced.graph.nodes if _is_relu(traced, node) and _owns_gradient(traced, node)]:
        before = relu.args[0]
        conv, other = (before, None) if _fusable(traced, before) else _terms(traced, before)
        if conv is not None:
            name = f"{relu.name}_fused"
            traced.add_submodule(name, _ConvReLU(traced.get_submodule(conv.target)))
            with traced.graph.inserting_before(relu):
                fused = traced.graph.call_module(name, (conv.args[0], other))
            fused.meta = relu.meta
            relu.replace_all_uses_with(fused)
            traced.graph.erase_node(relu)
    traced.graph.eliminate_dead_code()
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced


def _is_relu(traced: fx.GraphModule, node: fx.Node) -> bool:
    called = node.op == "call_function" and node.target in _RELUS
    return called or (node.op == "call_module" and isinstance(traced.get_submodule(str(node.target)), nn.ReLU))


def _owns_gradient(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Whether the gradient of a node's output is in memory of its own: a convolution makes it again, several users' is summed again."""
    return any(_convolution(traced, user) is not None and user.args[0] is node for user in node.users)


def _fusable(traced: fx.GraphModule, node: Any) -> bool:
    conv = _convolution(traced, node)
    return (
        conv is not None
        and len(node.users) == 1
        and conv.padding_mode == "zeros"
        and conv.padding not in ("same", "valid")
    )


def _terms(traced: fx.GraphModule, node: Any) -> tuple[Any, Any]:
    """Return the convolution and the other term of a sum that nothing else sees, or twice None."""
    if isinstance(node, fx.Node) and node.target in _ADDITIONS and len(node.users) == 1 and not node.kwargs:
        for conv, other in (node.args, node.args[::-1]):
            if _fusable(traced, conv) and isinstance(other, fx.Node) and _shape(other) == _shape(conv) != ():
                return conv, other
    return None, None


def _convolution(traced: fx.GraphModule, node: Any) -> nn.Conv2d | None:
    if not isinstance(node, fx.Node) or node.op != "call_module":
        return None
    module = traced.get_submodule(str(node.target))
    return module if isinstance(module, nn.Conv2d) else None


def _shape(node: Any) -> tuple[int, ...]:
    meta = node.meta.get("tensor_meta")
    return tuple(getattr(meta, "shape", ()))


class _ConvReLU(nn.Module):
    """relu(conv(x) + other), whose gradient with respect to the weights is never asked."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        found: Tensor = _Function.apply(x, other, self.conv)  # type: ignore[no-untyped-call]
        return found


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, other: Tensor | None, conv: nn.Conv2d) -> Tensor:
        place = (conv.weight, conv.bias, conv.padding, conv.stride, conv.dilation, conv.groups)
        if other is None:
            out: Tensor = torch.ops.mkldnn._convolution_pointwise(x, *place, "relu", [], "")
        else:
            fused = torch.ops.mkldnn._convolution_pointwise.binary
            out = fused(x, other, *place, "add", 1.0, "relu", [], "")
        ctx.conv = conv
        ctx.save_for_backward(x, out)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:
        (x, out), conv = ctx.saved_tensors, ctx.conv
        grad = torch.ops.aten.threshold_backward.grad_input(grad, out, 0, grad_input=grad)
        back = torch.ops.aten.convolution_backward(
            grad,
            x,
            conv.weight,
            None,
            conv.stride,
            conv.padding,
            conv.dilation,
            False,
            (0, 0),
            conv.groups,
            (True, False, False),
        )[0]
        return back, grad if ctx.needs_input_grad[1] else None, None

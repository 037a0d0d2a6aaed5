"""The source model made fast for input gradients: batch norms folded, a faster memory layout, optionally bf16 or compiled."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from edgeproof.errors import ModelError
from edgeproof.source_model.fused import fuse_relus
from edgeproof.types import GradientMode, LogitsFn

_ROUNDING = 1e-3  # folding reorders float32 sums; a larger share of the largest logit is no rounding
_LEVELS = 2e-2  # the same of a quantised network, where such a sum can be rounded to the next level: 1.7e-3 on 256 images of possas-vgg


def fast_form(model: nn.Module, x: Tensor, *, mode: GradientMode) -> LogitsFn:
    """Return a form of a model that gives the same logits and input gradients faster.

    Weights get no gradients. Folded, the logits differ by float32 rounding; where such a difference crosses the kink of a ReLU,
    a gradient differs by more (in 0.9 % of CIFAR images).

    Args:
        model: The model, in eval mode; it is not changed.
        x: A few of its images, on its device, to check the result with.
        mode: "exact" only freezes the weights; "fast" folds batch norms into convolutions and, on the processor, keeps
            channels last and fuses what follows a convolution; "bf16" runs the folded model under autocast; "compiled"
            through torch.compile.

    Raises:
        ModelError: When the fast form does not give the model's logits.
    """
    frozen = copy.deepcopy(model).eval().requires_grad_(False)
    if mode == "exact":
        return cast("LogitsFn", frozen)
    folded = fold_batch_norms(frozen)
    if x.device.type == "cpu":
        if mode == "fast" and isinstance(folded, fx.GraphModule):
            folded = fuse_relus(folded, x)
        folded = _ChannelsLast(folded)
    _check_same(model, folded, x)
    if mode == "bf16":
        return _Autocast(folded)
    return cast("LogitsFn", torch.compile(folded, dynamic=True) if mode == "compiled" else folded)


def fold_batch_norms(model: nn.Module) -> nn.Module:
    """Return a frozen model with each batch norm that directly follows a convolution folded into it.

    A model that torch.fx cannot trace (its control flow depends on the images) is returned as it is.
    """
    try:
        traced = fx.symbolic_trace(model)
    except Exception:  # the network's own code meets stand-ins for images here, and may raise whatever it likes
        return model
    for conv, norm in list(_foldable(traced)):
        fused = fuse_conv_bn_eval(
            cast("nn.Conv2d", _module(traced, conv)), cast("nn.BatchNorm2d", _module(traced, norm))
        )
        parent, _, name = str(conv.target).rpartition(".")
        setattr(traced.get_submodule(parent), name, fused)
        norm.replace_all_uses_with(conv)
        traced.graph.erase_node(norm)
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced.eval().requires_grad_(False)


def _foldable(traced: fx.GraphModule) -> Iterator[tuple[fx.Node, fx.Node]]:
    calls: dict[object, int] = {}
    for node in traced.graph.nodes:
        calls[node.target] = calls.get(node.target, 0) + (node.op == "call_module")
    for node in traced.graph.nodes:
        before = node.args[0] if node.args else None
        if (
            isinstance(before, fx.Node)
            and isinstance(_module(traced, node), nn.BatchNorm2d)
            and isinstance(_module(traced, before), nn.Conv2d)
            and len(before.users) == 1
            and calls[before.target] == calls[node.target] == 1  # a shared layer is not this pair's to change
        ):
            yield before, node


def _module(traced: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    return traced.get_submodule(str(node.target)) if node.op == "call_module" else None


class _ChannelsLast(nn.Module):
    """A network whose convolutions see channels last, which saves the processor's convolutions their reordering."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network: nn.Module = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x.contiguous(memory_format=torch.channels_last))
        return logits


class _Autocast(nn.Module):
    """A network under bf16 autocast, with float32 logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16):
            logits: Tensor = self.network(x)
        return logits.float()


@torch.no_grad()
def _check_same(model: nn.Module, fast: nn.Module, x: Tensor) -> None:
    expected, found = model(x), fast(x)
    worst = float((expected - found).abs().max())
    limit = (_LEVELS if getattr(model, "rounds", False) else _ROUNDING) * max(1.0, float(expected.abs().max()))
    if not worst <= limit:
        raise ModelError(
            f"the folded source model's logits differ by {worst:.2g}, more than rounding ({limit:.2g}); use gradients = exact"
        )

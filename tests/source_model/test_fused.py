from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from edgeproof.models.base import build_classifier
from edgeproof.source_model.folding import fold_batch_norms
from edgeproof.source_model.fused import _ConvReLU, fuse_relus


class Residual(nn.Module):
    """Every way in which a ReLU, a sum and a convolution meet; `fused` says how many pairs there are to fuse."""

    fused = 3

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3 if k == 0 else 8, 8, 3, padding=1) for k in range(8))
        self.scale = nn.Conv2d(8, 8, 1)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        a = functional.relu(self.convs[0](x))  # fused: two users, one a convolution
        b = self.relu(self.convs[1](a))  # fused: one user, a convolution
        c = torch.relu(self.convs[2](b) + a)  # fused, with the sum
        d = torch.relu(self.convs[3](c))  # not: only a sum sees it, which sends two the same gradient
        e = self.convs[4](c) + d
        f = torch.relu(self.convs[5](e) + self.scale(e.mean((2, 3), keepdim=True)))  # not: the sum broadcasts
        g = self.convs[6](f)
        h = torch.relu(g)  # not: g is seen twice
        return (self.convs[7](h) + g).mean((2, 3))


def gradient(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    images = x.clone().requires_grad_()
    logits = model(images)
    return logits.detach(), torch.autograd.grad((logits * torch.arange(logits.shape[1])).sum(), images)[0]


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("last", [False, True])
def test_what_is_fused_gives_the_same_logits_and_gradients(last: bool) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, x = Residual().eval().requires_grad_(False), torch.rand(5, 3, 12, 12)
    expected = gradient(model, x)
    fused = fuse_relus(fx.symbolic_trace(model), x[:2])
    if last:
        fused, x = fused.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert sum(isinstance(module, _ConvReLU) for module in fused.modules()) == Residual.fused
    found = gradient(fused, x)
    assert relative(found[0], expected[0]) < 1e-5
    assert relative(found[1], expected[1]) < 1e-5


def test_all_relus_of_a_resnet_but_the_one_before_its_pooling_are_fused() -> None:
    classes = [str(k) for k in range(5)]
    model = build_classifier("resnet-20", input_shape=(3, 16, 16), classes=classes, mean=[0.5] * 3, std=[0.2] * 3)
    fused = fuse_relus(fold_batch_norms(model.eval().requires_grad_(False)), torch.rand(2, 3, 16, 16))  # type: ignore[arg-type]
    assert sum(isinstance(module, _ConvReLU) for module in fused.modules()) == 18


def test_double_precision_is_left_as_it_is() -> None:
    model, x = Residual().eval().requires_grad_(False).double(), torch.rand(2, 3, 12, 12, dtype=torch.float64)
    fused = fuse_relus(fx.symbolic_trace(model), x)
    assert not any(isinstance(module, _ConvReLU) for module in fused.modules())

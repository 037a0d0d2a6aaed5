from __future__ import annotations

import copy
import shutil

import pytest
import torch
from torch import Tensor, nn

from edgeproof.attacks.losses import cross_entropy
from edgeproof.errors import ModelError
from edgeproof.models.base import build_classifier
from edgeproof.source_model.folding import fast_form, fold_batch_norms
from edgeproof.source_model.gradients import value_and_grad
from tests.closeness import assert_near
from tests.oracles import images, small_network

Y = torch.arange(16) % 5


def norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def shake(model: nn.Module) -> nn.Module:
    """Give batch norms statistics as training leaves them, so that folding one wrongly shows."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.3, 0.3)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.uniform_(-0.3, 0.3)
    return model.eval()


@pytest.mark.parametrize("name", ["resnet-20", "mobilenet-v2"])
def test_folding_takes_every_batch_norm_away_and_changes_nothing_in_float64(name: str) -> None:
    classes = [str(k) for k in range(5)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_classifier(name, input_shape=(3, 32, 32), classes=classes, mean=[0.5] * 3, std=[0.2] * 3)
        shake(model).double()
    x, y = images(2, shape=(3, 32, 32)), Y[:2]
    folded = fold_batch_norms(copy.deepcopy(model))
    assert norms(model) > 0
    assert norms(folded) == 0
    ours, theirs = (value_and_grad(form, x, y, loss=cross_entropy) for form in (folded, model))
    assert_near(ours.logits, theirs.logits, within=1e-10)
    assert_near(ours.grad, theirs.grad, within=1e-10)


@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_the_source_keeps_its_weights_its_buffers_and_its_gradient_flags(mode) -> None:  # type: ignore[no-untyped-def]
    model = small_network().float()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fast = fast_form(model, images(2).float(), mode=mode)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(weight.requires_grad for weight in model.parameters())
    assert not any(weight.requires_grad for weight in fast.parameters())  # type: ignore[attr-defined]


def test_fast_gradients_agree_with_exact_ones_up_to_rounding() -> None:
    model, x = small_network().float(), images().float()
    exact, fast = (
        value_and_grad(fast_form(model, x, mode=mode), x, Y, loss=cross_entropy).grad for mode in ("exact", "fast")
    )
    assert float((exact - fast).abs().median() / exact.abs().max()) < 1e-6
    assert float(((exact - fast).abs() < 1e-4 * exact.abs().max()).float().mean()) > 0.99


def test_bf16_gradients_point_nearly_the_same_way() -> None:
    model, x = small_network().float(), images().float()
    exact, rough = (
        value_and_grad(fast_form(model, x, mode=mode), x, Y, loss=cross_entropy) for mode in ("exact", "bf16")
    )
    assert rough.logits.dtype == rough.grad.dtype == torch.float32
    assert float(nn.functional.cosine_similarity(exact.grad.flatten(1), rough.grad.flatten(1)).min()) > 0.95
    assert not torch.equal(exact.grad, rough.grad)


class Shared(nn.Module):
    """One convolution used twice, with another batch norm each time: neither may be folded into it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.one, self.two = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.conv(self.one(self.conv(x)))).mean((2, 3))


class Branching(nn.Module):
    """Control flow that depends on the images, which cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5)

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm(self.conv(x)).mean((2, 3))
        return out if out.sum() > 0 else 2 * out


class Skipping(nn.Module):
    """The convolution's own output is used too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv(x)
        return (out + self.norm(out)).mean((2, 3))


@pytest.mark.parametrize("kind", [Shared, Branching, Skipping])
def test_what_cannot_be_folded_is_left_as_it_is(kind: type[nn.Module]) -> None:
    model = shake(kind())
    x = images(4).float()
    folded = fold_batch_norms(copy.deepcopy(model))
    assert norms(folded) == norms(model)
    assert_near(folded(x).detach(), model(x).detach())


def test_a_fast_form_with_other_logits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "edgeproof.source_model.folding.fold_batch_norms", lambda model: nn.Sequential(model, nn.Softmax(1))
    )
    with pytest.raises(ModelError, match=r"the folded source model's logits differ by .* use gradients = exact"):
        fast_form(small_network().float(), images().float(), mode="fast")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated:DeprecationWarning")
def test_a_compiled_source_gives_the_same_gradients_in_batches_of_any_size() -> None:
    if shutil.which("g++") is None:
        pytest.skip("torch.compile needs a C++ compiler; install g++")
    model, x = small_network().float(), images().float()
    compiled = fast_form(model, x, mode="compiled")
    for size in (16, 5, 1):
        ours, theirs = (value_and_grad(form, x[:size], Y[:size], loss=cross_entropy) for form in (compiled, model))
        assert_near(ours.logits, theirs.logits)
        assert float(((ours.grad - theirs.grad).abs() < 1e-4 * theirs.grad.abs().max()).float().mean()) > 0.99


class _Apart(nn.Module):
    """A network whose logits a test can move, as a level of rounding does."""

    def __init__(self, *, rounds: bool) -> None:
        super().__init__()
        self.rounds = rounds

    def forward(self, x: Tensor) -> Tensor:
        shift = 0.0 if x.is_contiguous() else 0.01
        return x.mean((2, 3)) + torch.tensor([0.0, 1.0, shift])


def test_only_a_network_that_rounds_may_end_a_level_apart() -> None:
    x = images(2, shape=(3, 8, 8)).float()
    fast_form(_Apart(rounds=True), x, mode="fast")
    with pytest.raises(ModelError, match=r"differ by 0\.01, more than rounding"):
        fast_form(_Apart(rounds=False), x, mode="fast")

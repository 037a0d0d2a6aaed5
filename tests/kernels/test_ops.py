"""toolkit/ops.py: torch meets the table that the kernels meet, and CUDA tensors go to the kernels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from edgeproof import ops
from edgeproof.kernels import l2_step, linf_step, momentum_step, runtime, universal_apply
from tests.kernels.host import HostDriver
from tests.kernels.on_device import OnDevice
from tests.kernels.table import EPS, SCALARS, SIZES, gradients, mixed, narrow, on_grid, plain, rng, rounded, widen

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
SHAPES = (*((1, 1, 1, size) for size in SIZES), (16, 1, 4, 4), (5, 3, 7, 9), (0, 3, 4, 4))
# torch may add in another order, and it measures the moved image where the reference computes with the three sums.
ULPS = {"f32": 2.0**-21, "f16": 2.0**-10, "bf16": 2.0**-7}


def tensor(values: np.ndarray, scalar: str) -> Tensor:
    bits = torch.from_numpy(narrow(values, scalar))
    return bits.view(torch.bfloat16) if scalar == "bf16" else bits


def numbers(values: Tensor) -> np.ndarray:
    return values.float().numpy()


def columns(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values).view(-1, 1, 1, 1)


@pytest.mark.parametrize("scalar", SCALARS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("direction", ["ascent", "descent"])
def test_torch_takes_the_linf_step_of_the_reference(scalar: str, shape: tuple[int, ...], direction: Any) -> None:
    x, grad, origin = (mixed(shape, scalar, name) for name in ("x", "grad", "origin"))
    given = [tensor(values, scalar) for values in (x, grad, origin)]
    out = ops.linf_step(*given, step_size=2 / 255, eps=EPS, direction=direction)
    assert out.dtype is DTYPES[scalar]
    expected = linf_step.reference(x, grad, origin, step_size=2 / 255, eps=EPS, direction=direction)
    np.testing.assert_array_equal(numbers(out), rounded(expected, scalar))


@pytest.mark.parametrize("scalar", SCALARS)
def test_torch_takes_budgets_by_image(scalar: str) -> None:
    shape = (5, 3, 7, 9)
    steps, radii = (rng(name).uniform(0, 0.2, 5).astype(np.float32) for name in "ab")
    x, grad, origin = (mixed(shape, scalar, name) for name in ("x", "grad", "origin"))
    given = [tensor(values, scalar) for values in (x, grad, origin)]
    out = ops.linf_step(*given, step_size=columns(steps), eps=columns(radii))
    expected = linf_step.reference(x, grad, origin, step_size=steps, eps=radii)
    np.testing.assert_array_equal(numbers(out), rounded(expected, scalar))


@pytest.mark.parametrize("scalar", SCALARS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_torch_takes_the_l2_step_of_the_reference(scalar: str, shape: tuple[int, ...]) -> None:
    x, grad, origin = plain(shape, scalar, "x"), gradients(shape, scalar), plain(shape, scalar, "origin")
    out = ops.l2_step(*(tensor(values, scalar) for values in (x, grad, origin)), step_size=0.5, eps=1.0)
    expected = rounded(l2_step.reference(x, grad, origin, step_size=0.5, eps=1.0), scalar)
    np.testing.assert_allclose(numbers(out), expected, rtol=ULPS[scalar], atol=2.0**-24)


@pytest.mark.parametrize("scalar", SCALARS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_torch_takes_the_momentum_step_of_the_reference(scalar: str, shape: tuple[int, ...]) -> None:
    x, grad, origin = plain(shape, scalar, "x"), gradients(shape, scalar), plain(shape, scalar, "origin")
    before = plain(shape, "f32", "momentum", low=-1)
    given = [tensor(x, scalar), tensor(grad, scalar), torch.from_numpy(before), tensor(origin, scalar)]
    out, momentum = ops.momentum_step(*given, decay=1.0, step_size=0.01, eps=EPS)
    _, expected = momentum_step.reference(x, grad, before, origin, decay=1.0, step_size=0.01, eps=EPS)
    np.testing.assert_allclose(numbers(momentum), expected, rtol=2.0**-22, atol=1e-9)
    moved = linf_step.reference(x, numbers(momentum), origin, step_size=0.01, eps=EPS)
    np.testing.assert_array_equal(numbers(out), rounded(moved, scalar))


OWNER = np.array([2, 0, 2, 2, 0])  # the perturbation 1 is carried by no image


@pytest.mark.parametrize("shape", [(3, 5, 7), (4, 3, 5, 7)], ids=["one", "several"])
def test_torch_applies_and_moves_universal_perturbations_as_the_references_do(shape: tuple[int, ...]) -> None:
    x, grad = mixed((5, 3, 5, 7), "f32", "x"), gradients((5, 3, 5, 7), "f32")
    delta = plain(shape, "f32", "delta", low=-1)
    owner = OWNER if len(shape) == 4 else None
    out = ops.universal_apply(*map(torch.from_numpy, (x, delta)), None if owner is None else torch.from_numpy(owner))
    np.testing.assert_array_equal(out.numpy(), universal_apply.reference(x, delta, labels=owner))
    table, chosen = (delta, OWNER) if owner is not None else (delta[None], np.zeros(5, np.int64))
    given = [torch.from_numpy(values) for values in (grad, table, chosen)]
    moved = ops.universal_update(*given, step_size=0.01, eps=EPS)
    expected = universal_apply.update_reference(grad, table, labels=chosen, step_size=0.01, eps=EPS)
    np.testing.assert_array_equal(moved.numpy(), expected)


@pytest.mark.parametrize("eps", [0.0, 1 / 255, EPS, 0.03, 1.0])
def test_torch_rounds_to_the_grid_of_the_reference(eps: float) -> None:
    x, origin = mixed((4, 3, 8, 8), "f32", eps), plain((4, 3, 8, 8), "f32", eps)
    out = ops.to_grid(torch.from_numpy(x), torch.from_numpy(origin), eps=eps)
    np.testing.assert_array_equal(out.numpy(), on_grid(x, origin, np.asarray(eps)))


def on_device(values: np.ndarray, scalar: str = "f32", *, last: bool = False) -> Tensor:
    order = torch.channels_last if last else torch.contiguous_format
    placed: Tensor = tensor(values, scalar).contiguous(memory_format=order).as_subclass(OnDevice)  # type: ignore[arg-type]
    return placed


def read(values: Tensor) -> np.ndarray:
    return numbers(values.as_subclass(Tensor))  # type: ignore[arg-type]


@pytest.fixture
def launches(driver: HostDriver, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Let the kernels be found, on torch's default stream; gives what is launched."""

    @contextmanager
    def default_stream(device: torch.device) -> Iterator[None]:
        yield None

    monkeypatch.setattr(ops, "why_no_kernels", lambda device: None)
    monkeypatch.setattr(ops, "_kernel_stream", default_stream)
    driver.launches.clear()
    return driver.launches


@pytest.mark.parametrize("scalar", SCALARS)
@pytest.mark.parametrize("last", [False, True])
def test_a_cuda_tensor_goes_to_the_kernels_in_its_own_memory_order(launches: Any, scalar: str, last: bool) -> None:
    shape = (4, 3, 5, 6)
    x, grad, origin = plain(shape, scalar, "x"), gradients(shape, scalar), plain(shape, scalar, "origin")
    given = [on_device(values, scalar, last=last and values is not grad) for values in (x, grad, origin)]
    steps = rng(scalar).uniform(0, 0.1, 4).astype(np.float32)
    out = ops.linf_step(*given, step_size=columns(steps).as_subclass(OnDevice), eps=EPS)  # type: ignore[arg-type]
    expected = linf_step.reference(x, grad, origin, step_size=steps, eps=EPS)
    np.testing.assert_array_equal(read(out), rounded(expected, scalar))
    assert out.is_contiguous(memory_format=torch.channels_last) == last
    ops.l2_step(*given, step_size=0.1, eps=1.0)
    before = on_device(plain(shape, "f32", "m"), last=last)
    _, momentum = ops.momentum_step(given[0], given[1], before, given[2], decay=1.0, step_size=0.01, eps=EPS)
    wanted = momentum_step.reference(x, grad, read(before), origin, decay=1.0, step_size=0.01, eps=EPS)
    np.testing.assert_allclose(read(momentum), wanted[1], rtol=2.0**-22)
    np.testing.assert_array_equal(read(before), plain(shape, "f32", "m"))
    assert [launch.kernel for launch in launches] == [
        f"{k}_{scalar}" for k in ("linf_step", "l2_step", "momentum_step")
    ]


def test_universal_perturbations_on_a_cuda_device_go_to_the_kernels(launches: Any) -> None:
    x, grad, delta = (
        plain((5, 3, 5, 7), "f32", "x"),
        gradients((5, 3, 5, 7), "f32"),
        plain((4, 3, 5, 7), "f32", "d", low=-1),
    )
    owner: Tensor = torch.from_numpy(OWNER).as_subclass(OnDevice)  # type: ignore[arg-type]
    placed = [on_device(values) for values in (x, delta, grad)]
    out = ops.universal_apply(placed[0], placed[1], owner)
    np.testing.assert_array_equal(read(out), universal_apply.reference(x, delta, labels=OWNER))
    moved = ops.universal_update(placed[2], placed[1], owner, step_size=0.01, eps=EPS)
    expected = universal_apply.update_reference(grad, delta, labels=OWNER, step_size=0.01, eps=EPS)
    np.testing.assert_array_equal(read(moved), expected)
    np.testing.assert_array_equal(read(placed[1]), delta)
    assert [launch.kernel for launch in launches] == ["universal_apply_f32", "universal_update_f32"]


def test_what_a_kernel_does_not_take_stays_with_torch(launches: Any) -> None:
    x = plain((2, 3, 4, 4), "f32")
    wide = on_device(x).double()
    ops.linf_step(wide, wide, wide, step_size=0.1, eps=EPS)
    leaf = on_device(x).requires_grad_()
    ops.linf_step(leaf, on_device(x), on_device(x), step_size=0.1, eps=EPS)
    assert not launches


def test_the_reason_for_not_using_kernels_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ops.why_no_kernels(torch.device("cpu")) == "cpu is no CUDA device"
    monkeypatch.setenv("EDGEPROOF_KERNELS", "off")
    assert ops.why_no_kernels(torch.device("cuda")) == "EDGEPROOF_KERNELS=off"


class Stream:
    """A stream that writes down what waits for what."""

    def __init__(self, handle: int, log: list[tuple[int, int]]) -> None:
        self.cuda_stream, self.log = handle, log

    def wait_stream(self, other: Stream) -> None:
        self.log.append((self.cuda_stream, other.cuda_stream))


@pytest.mark.parametrize("handle, waits", [(0, []), (7, [(9, 7), (7, 9)])])
def test_a_launch_is_in_order_with_torchs_current_stream(
    monkeypatch: pytest.MonkeyPatch, handle: int, waits: list[tuple[int, int]]
) -> None:
    log: list[tuple[int, int]] = []
    ours = SimpleNamespace(handle=9)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream(handle, log))
    monkeypatch.setattr(torch.cuda, "ExternalStream", lambda number, device: Stream(number, log))
    monkeypatch.setattr(runtime, "side_stream", lambda device: ours)
    with ops._kernel_stream(torch.device("cuda", 0)) as stream:
        assert log == waits[:1]
        assert stream is (ours if handle else None)
    assert log == waits


def test_widening_is_the_same_in_torch_and_in_the_references() -> None:
    """Every bfloat16 there is, against torch's own conversion, there and back."""
    bits = np.arange(2**16, dtype=np.uint16)
    wide = torch.from_numpy(bits.copy()).view(torch.bfloat16).float().numpy()
    np.testing.assert_array_equal(widen(bits, "bf16"), wide)
    values = rng("bf16").integers(0, 2**32, 200_000, dtype=np.uint32).view(np.float32)
    expected = torch.from_numpy(values).to(torch.bfloat16).float().numpy()
    np.testing.assert_array_equal(widen(narrow(values, "bf16"), "bf16"), expected)

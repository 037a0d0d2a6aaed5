"""What only a device can show of the kernels. Their table runs there too: REQUIRE_GPU=1 gives tests/kernels a second device."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgeproof import ops
from edgeproof.kernels import l2_step, linf_step, momentum_step, runtime
from tests.gpu.cuda import Cuda
from tests.kernels.table import EPS, SCALARS, gradients, narrow, plain, rounded, widen

pytestmark = pytest.mark.gpu
LARGE = ((1, 1_000_003), (1_000_003, 1), (700, 3, 32, 32), (3, 3, 299, 299))


def three(shape: tuple[int, ...], scalar: str = "f32") -> list[np.ndarray]:
    return [plain(shape, scalar, "x"), gradients(shape, scalar), plain(shape, scalar, "origin")]


def on_gpu(arrays: list[np.ndarray]) -> list[torch.Tensor]:
    return [torch.from_numpy(values).cuda() for values in arrays]


def test_the_kernels_can_be_launched_here() -> None:
    assert runtime.available() is None
    assert ops.why_no_kernels(torch.device("cuda", 0)) is None


@pytest.mark.parametrize("scalar", SCALARS)
@pytest.mark.parametrize("shape", LARGE, ids=str)
def test_reductions_of_large_batches_and_large_images_give_the_reference(scalar: str, shape: tuple[int, ...]) -> None:
    device, arrays = Cuda(), three(shape, scalar)
    put = [device.put(narrow(values, scalar), scalar) for values in (*arrays, arrays[0])]
    l2_step.l2_step(*put, step_size=0.5, eps=1.0)
    expected = rounded(l2_step.reference(*arrays, step_size=0.5, eps=1.0), scalar)
    ulp = {"f32": 2.0**-23, "f16": 2.0**-10, "bf16": 2.0**-7}[scalar]
    np.testing.assert_allclose(widen(device.get(put[3]), scalar), expected, rtol=ulp)

    momentum = device.put(plain(shape, "f32", "momentum", low=-1))
    momentum_step.momentum_step(put[0], put[1], momentum, put[2], put[3], decay=1.0, step_size=0.01, eps=EPS)
    before = plain(shape, "f32", "momentum", low=-1)
    _, wanted = momentum_step.reference(arrays[0], arrays[1], before, arrays[2], decay=1.0, step_size=0.01, eps=EPS)
    np.testing.assert_allclose(device.get(momentum), wanted, rtol=2.0**-22, atol=1e-9)


def test_two_runs_give_the_same_bytes() -> None:
    arrays = three((700, 3, 32, 32))
    first, second = (ops.l2_step(*on_gpu(arrays), step_size=0.5, eps=1.0) for _ in range(2))
    assert torch.equal(first, second)


def test_torch_and_the_kernels_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    x, grad, origin = on_gpu(three((64, 3, 32, 32)))
    kernel = ops.linf_step(x, grad, origin, step_size=0.01, eps=EPS)
    monkeypatch.setenv("EDGEPROOF_KERNELS", "off")
    assert torch.equal(kernel, ops.linf_step(x, grad, origin, step_size=0.01, eps=EPS))


def test_a_step_waits_for_the_stream_of_torch_that_made_its_input_and_is_waited_for() -> None:
    """A long computation on a stream of torch's own, a step, and a computation with its result."""
    x, grad, origin = on_gpu(three((256, 3, 32, 32)))
    expected = linf_step.reference(*(values.cpu().numpy() for values in (x, grad, origin)), step_size=0.01, eps=EPS)
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):  # type: ignore[no-untyped-call]
        busy = torch.randn(4096, 4096, device="cuda")
        for _ in range(20):
            busy = busy @ busy / 64
        late = grad + 0 * busy.sum().nan_to_num(0, 0, 0)
        moved = ops.linf_step(x, late, origin, step_size=0.01, eps=EPS) * 2
    torch.cuda.synchronize()
    np.testing.assert_array_equal(moved.cpu().numpy(), expected * 2)


def test_a_captured_step_can_be_replayed() -> None:
    x, grad, origin = on_gpu(three((16, 3, 32, 32)))
    ops.linf_step(x, grad, origin, step_size=0.01, eps=EPS)  # loads the kernel: nothing may be loaded while capturing
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        moved = ops.linf_step(x, grad, origin, step_size=0.01, eps=EPS)
    x.copy_(origin)
    graph.replay()
    torch.cuda.synchronize()
    expected = linf_step.reference(
        *(values.cpu().numpy() for values in (origin, grad, origin)), step_size=0.01, eps=EPS
    )
    np.testing.assert_array_equal(moved.cpu().numpy(), expected)


def test_torch_keeps_working_after_a_launch() -> None:
    """A context of pycuda's own, or one left current, would make torch's next call fail."""
    ops.linf_step(*on_gpu(three((2, 3, 4, 4))), step_size=0.01, eps=EPS)
    model = torch.nn.Conv2d(3, 4, 3).cuda()
    assert torch.isfinite(model(torch.rand(2, 3, 8, 8, device="cuda"))).all()


@pytest.mark.skipif(not torch.cuda.device_count() > 1, reason="only one CUDA device here")
def test_a_step_runs_on_the_device_of_its_arrays() -> None:
    arrays = three((2, 3, 4, 4))
    given = [values.to("cuda:1") for values in on_gpu(arrays)]
    moved = ops.linf_step(*given, step_size=0.01, eps=EPS)
    np.testing.assert_array_equal(moved.cpu().numpy(), linf_step.reference(*arrays, step_size=0.01, eps=EPS))

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from edgeproof.kernels import runtime
from edgeproof.kernels.linf_step import linf_step
from edgeproof.kernels.universal_apply import universal_update
from tests.kernels.host import Host, HostArray, HostDriver


def step(shape: tuple[int, ...] = (1, 4), *, changes: dict[str, Any] | None = None, **options: Any) -> None:
    arrays = [HostArray(np.zeros(shape, np.float32)) for _ in range(4)]
    arrays[1].changes.update(changes or {})
    linf_step(*arrays, step_size=0.1, eps=0.1, **options)


def test_the_thread_is_left_without_a_context_of_ours(driver: HostDriver) -> None:
    step()
    assert driver.pushed == 0
    with pytest.raises(AttributeError, match="no_such_kernel"):
        runtime.launch("linf_step", "no_such_kernel", "P", [None], blocks=1)
    assert driver.pushed == 0


def test_a_launch_goes_to_the_default_stream_unless_told_otherwise(driver: HostDriver) -> None:
    driver.launches.clear()
    stream = runtime.side_stream(0)
    assert runtime.side_stream(0) is stream
    step()
    step(stream=stream)
    assert [launch.stream for launch in driver.launches] == [None, stream]


@pytest.mark.parametrize("stream, waits", [(None, 0), (1, 0), (0x7F00, 1)])
def test_a_producers_own_stream_is_waited_for(driver: HostDriver, stream: int | None, waits: int) -> None:
    before = driver.synchronized
    step(changes={"stream": stream})
    assert driver.synchronized - before == waits


def test_an_empty_array_launches_nothing(driver: HostDriver) -> None:
    driver.launches.clear()
    step((0, 3, 4, 4))
    step((5, 0))
    assert not driver.launches


@pytest.mark.parametrize("size, blocks", [(1, 1), (1024, 1), (1025, 2), (2**20, 1024)])
def test_a_thread_gets_one_pack_of_four_floats(driver: HostDriver, size: int, blocks: int) -> None:
    driver.launches.clear()
    step((1, size))
    assert (driver.launches[0].blocks, driver.launches[0].threads) == (blocks, (256, 1, 1))


def test_no_launch_has_more_blocks_than_the_kernels_stride_over(driver: HostDriver) -> None:
    driver.launches.clear()
    runtime.launch(
        "linf_step", "linf_step_f32", "PPPPqqPPdff", [None] * 4 + [0, 1] + [None] * 2 + [0] * 3, blocks=10**9
    )
    assert driver.launches[0].blocks == runtime.MAX_BLOCKS


@pytest.mark.parametrize("size, threads", [(1, 32), (128, 32), (132, 64), (3072, 512), (150_528, 512), (784, 256)])
def test_a_block_has_a_power_of_two_of_threads_about_one_a_pack(size: int, threads: int) -> None:
    array = runtime.View("x", 0, (7, size), "<f4", True, None, None)
    assert runtime.row_threads(array) == threads


def test_a_full_block_sums_like_a_small_one(driver: HostDriver) -> None:
    grad = np.arange(-500, 500, dtype=np.float32).reshape(250, 4)
    results = []
    for threads in (32, 1024):
        driver.threads, delta = threads, Host().put(np.zeros(4, np.float32))
        universal_update(Host().put(grad), delta, step_size=0.1, eps=1.0)
        results.append(Host().get(delta))
    driver.threads = 32
    np.testing.assert_array_equal(results[0], results[1])


def test_a_device_that_is_not_there_is_named(driver: HostDriver) -> None:
    with pytest.raises(runtime.KernelUnavailableError, match=r"no CUDA device 2; this machine has 2"):
        runtime.side_stream(2)


def test_without_pycuda_the_reason_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime.forget()
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    reason = runtime.available()
    assert reason is not None
    assert "pip install 'edgeproof[cuda]'" in reason
    assert "\n" not in reason


def test_a_driver_without_a_device_is_a_reason_too(driver: HostDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise driver.Error("cuInit failed: no CUDA-capable device is detected")

    runtime.forget()
    monkeypatch.setattr(driver, "init", fail)
    assert "no CUDA-capable device" in str(runtime.available())
    monkeypatch.undo()
    assert runtime.available() is None


def test_importing_the_kernels_imports_no_pycuda() -> None:
    import subprocess

    code = "import sys, edgeproof.kernels.linf_step, edgeproof.kernels.bench; print('pycuda' in sys.modules, 'torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "False"]

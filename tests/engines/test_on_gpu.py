"""The engines on a real GPU: `make gpu-check` runs these where there is one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeproof.engines.base import open_engine, predict_all
from edgeproof.engines.cuda_memory import PycudaMemory, TorchMemory
from tests.closeness import assert_near
from tests.edge.tiny_onnx import write_linear

pytestmark = pytest.mark.gpu
WEIGHTS = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)


def images(count: int) -> NDArray[np.float32]:
    return np.random.default_rng(1).random((count, 1, 4, 4), np.float32)


@pytest.mark.parametrize("backend", ["onnxruntime", "onnxruntime-tensorrt"])
def test_onnx_runtime_runs_on_the_gpu_and_nowhere_else(backend: str, tmp_path: Path) -> None:
    path = write_linear(tmp_path / "m.onnx", WEIGHTS)
    with open_engine(path, backend=backend, device="cuda") as engine:
        assert engine.info.device == "cuda:0"
        assert engine.info.provider != "CPUExecutionProvider"
        found = predict_all(engine, images(21), batch_size=8)
    assert_near(found, images(21).reshape(21, 16) @ WEIGHTS)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_tensorrt_runs_the_plan_that_was_built_here(precision: str, tmp_path: Path) -> None:
    from edgeproof.export.to_tensorrt import PlanSettings, build_plan

    graph = write_linear(tmp_path / "m.onnx", WEIGHTS, precision=precision)
    plan = tmp_path / "m.plan"
    build_plan(graph, plan, settings=PlanSettings(batch=(1, 4, 8)), metadata={"precision": precision})
    with open_engine(plan, device="cuda") as engine:
        assert (engine.info.precision, engine.info.max_batch) == (precision, 8)
        found = predict_all(engine, images(21), batch_size=64)
    worst = np.abs(found - images(21).reshape(21, 16) @ WEIGHTS).max()
    assert worst < {"fp32": 1e-4, "fp16": 2e-2, "int8": 0.2}[precision]


@pytest.mark.parametrize("kind", ["torch", "pycuda"])
def test_device_buffers_give_back_what_was_put_in(kind: str) -> None:
    if kind == "torch":
        memory: TorchMemory | PycudaMemory = TorchMemory(pytest.importorskip("torch"), 0)
    else:
        memory = PycudaMemory(pytest.importorskip("pycuda.driver"), 0)
    there, back = images(7), np.empty((7, 1, 4, 4), np.float32)
    assert memory.reserve("x", 1 << 20) == memory.reserve("x", there.nbytes)
    memory.upload("x", there)
    memory.download("x", back)
    np.testing.assert_array_equal(back, there)
    memory.close()
    memory.close()

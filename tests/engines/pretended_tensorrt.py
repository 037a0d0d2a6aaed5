"""A double of the tensorrt module and of device memory: the engine's own logic runs on it, TensorRT does not.

A "plan" is JSON: weights of a linear classifier, the profile's batches, and whatever a test wants to be odd.
"""

from __future__ import annotations

import ctypes
import enum
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__version__ = "10.13.3"


class TensorIOMode(enum.Enum):
    INPUT = 1
    OUTPUT = 2


class DataType(enum.Enum):
    FLOAT = 0
    HALF = 1
    INT8 = 2


class ILogger:
    class Severity(enum.Enum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2

    def log(self, severity: Severity, msg: str) -> None: ...


class Runtime:
    def __init__(self, log: ILogger) -> None:
        self.log = log

    def deserialize_cuda_engine(self, plan: bytes) -> ICudaEngine | None:
        try:
            return ICudaEngine(json.loads(plan), self.log)
        except ValueError:
            self.log.log(ILogger.Severity.WARNING, "something harmless")
            self.log.log(ILogger.Severity.ERROR, "IRuntime::deserializeCudaEngine:\n Error Code 1: Serialization")
            return None


class ICudaEngine:
    def __init__(self, plan: dict[str, Any], log: ILogger) -> None:
        self.plan, self.log = plan, log
        self.weights = np.asarray(plan["weights"], np.float32)
        self.names: list[str] = plan.get("names", ["images", "logits"])

    @property
    def num_io_tensors(self) -> int:
        return len(self.names)

    def get_tensor_name(self, index: int) -> str:
        return self.names[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.OUTPUT if name == "logits" else TensorIOMode.INPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return DataType[self.plan.get("dtype", "FLOAT")]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        batch = self.plan.get("batch", -1)
        return (batch, len(self.weights)) if name == "logits" else (batch, *self.weights.shape[1:])

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        return [(count, *self.weights.shape[1:]) for count in self.plan.get("profile", (1, 4, 8))]

    def create_execution_context(self) -> IExecutionContext:
        return IExecutionContext(self)


class IExecutionContext:
    def __init__(self, engine: ICudaEngine) -> None:
        self.engine = engine
        self.shape: tuple[int, ...] = ()
        self.addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
        low, _, high = self.engine.plan.get("profile", (1, 4, 8))
        self.shape = tuple(shape)
        return low <= shape[0] <= high and tuple(shape[1:]) == self.engine.weights.shape[1:]

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == HostMemory.stream
        if self.engine.plan.get("fails"):
            self.engine.log.log(ILogger.Severity.ERROR, "Error Code 2: out of memory")
            return False
        weights = self.engine.weights
        images = _view(self.addresses["images"], self.shape)
        _view(self.addresses["logits"], (self.shape[0], len(weights)))[...] = np.einsum(
            "nchw,kchw->nk", images, weights
        )
        return True


class HostMemory:
    """A double of CudaMemory whose device is the host."""

    gpu = "Pretended GPU"
    compute_capability = "8.7"
    stream = 4711

    def __init__(self) -> None:
        self.buffers: dict[str, NDArray[np.uint8]] = {}
        self.waits = 0

    def reserve(self, name: str, size: int) -> int:
        if name not in self.buffers or len(self.buffers[name]) < size:
            self.buffers[name] = np.full(size, 255, np.uint8)  # NaN wherever something is read that was never written
        return self.buffers[name].ctypes.data

    def upload(self, name: str, array: NDArray[Any]) -> None:
        self.buffers[name][: array.nbytes] = array.reshape(-1).view(np.uint8)

    def download(self, name: str, array: NDArray[Any]) -> None:
        array.reshape(-1).view(np.uint8)[...] = self.buffers[name][: array.nbytes]

    def synchronize(self) -> None:
        self.waits += 1

    def close(self) -> None:
        self.buffers.clear()


def _view(address: int, shape: Sequence[int]) -> NDArray[np.float32]:
    count = int(np.prod(shape))
    return np.ctypeslib.as_array((ctypes.c_float * count).from_address(address)).reshape(shape)

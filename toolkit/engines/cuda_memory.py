"""Device buffers, copies and a stream for engines that take raw addresses: by torch where it is, else by pycuda.

Both work in the primary context, the one that TensorRT uses; pycuda's own default context would be another one, in which
TensorRT's addresses are invalid.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any, Protocol

import numpy as np

from edgeproof.errors import UnavailableError
from edgeproof.system.optional import require
from edgeproof.types import Array


class CudaMemory(Protocol):
    """Named buffers on one device and one stream, on which every copy and every launch is ordered."""

    @property
    def gpu(self) -> str:
        """The device's name."""
        ...

    @property
    def compute_capability(self) -> str:
        """For instance "8.6"."""
        ...

    @property
    def stream(self) -> int:
        """The stream's handle."""
        ...

    def reserve(self, name: str, size: int) -> int:
        """Return the address of a buffer of at least `size` bytes; the same name gives the same buffer while it fits."""
        ...

    def upload(self, name: str, array: Array) -> None:
        """Copy a contiguous host array into a reserved buffer; the array may be changed afterwards."""
        ...

    def download(self, name: str, array: Array) -> None:
        """Copy from a buffer into a contiguous host array, and wait for the stream."""
        ...

    def synchronize(self) -> None:
        """Wait for the stream."""
        ...

    def close(self) -> None:
        """Free all buffers; harmless when repeated."""
        ...


def open_cuda_memory(device: str) -> CudaMemory:
    """Open a device for buffers, by torch where it is installed with CUDA, else by pycuda.

    Args:
        device: "cuda" or "cuda:1".

    Raises:
        UnavailableError: When there is neither, no driver or no such device.
    """
    number = int(device.partition(":")[2] or 0)
    if importlib.util.find_spec("torch") and (torch := importlib.import_module("torch")).cuda.is_available():
        if number >= torch.cuda.device_count():
            raise UnavailableError(
                f"device {device!r} is not there: there are {torch.cuda.device_count()} CUDA devices"
            )
        return TorchMemory(torch, number)
    driver = require("pycuda.driver", extra="cuda", purpose=f"use device {device!r} where torch has no CUDA")
    return PycudaMemory(driver, number)


class TorchMemory:
    """Buffers that are torch tensors of bytes."""

    def __init__(self, torch: Any, number: int) -> None:
        self._torch, self._device = torch, torch.device("cuda", number)
        self._buffers: dict[str, Any] = {}
        self._stream = torch.cuda.Stream(self._device)

    @property
    def gpu(self) -> str:
        """The device's name."""
        return str(self._torch.cuda.get_device_name(self._device))

    @property
    def compute_capability(self) -> str:
        """For instance "8.6"."""
        major, minor = self._torch.cuda.get_device_capability(self._device)
        return f"{major}.{minor}"

    @property
    def stream(self) -> int:
        """The stream's handle."""
        return int(self._stream.cuda_stream)

    def reserve(self, name: str, size: int) -> int:
        """Return the address of a buffer of at least `size` bytes."""
        if name not in self._buffers or self._buffers[name].numel() < size:
            with self._torch.cuda.stream(
                self._stream
            ):  # the allocator reuses memory in the order of the current stream
                self._buffers[name] = self._torch.empty(size, dtype=self._torch.uint8, device=self._device)
        return int(self._buffers[name].data_ptr())

    def upload(self, name: str, array: Array) -> None:
        """Copy a contiguous host array into a reserved buffer."""
        with self._torch.cuda.stream(self._stream):
            self._buffers[name][: array.nbytes].copy_(self._bytes(array))

    def download(self, name: str, array: Array) -> None:
        """Copy from a buffer into a contiguous host array, and wait for the stream."""
        with self._torch.cuda.stream(self._stream):
            self._bytes(array).copy_(self._buffers[name][: array.nbytes])
        self.synchronize()

    def synchronize(self) -> None:
        """Wait for the stream."""
        self._stream.synchronize()

    def close(self) -> None:
        """Free all buffers; harmless when repeated."""
        self._buffers.clear()

    def _bytes(self, array: Array) -> Any:
        return self._torch.from_numpy(np.require(array, requirements=["C", "W"]).reshape(-1).view(np.uint8))


class PycudaMemory:
    """Buffers allocated by pycuda in the device's primary context, for a machine without torch."""

    def __init__(self, driver: Any, number: int) -> None:
        try:
            driver.init()
            self._device = driver.Device(number)
            self._context = self._device.retain_primary_context()
        except driver.Error as error:
            raise UnavailableError(
                f"CUDA device {number} cannot be opened ({error}); see `edgeproof doctor`"
            ) from error
        self._driver = driver
        self._buffers: dict[str, tuple[Any, int]] = {}
        self._context.push()
        self._stream = driver.Stream()

    @property
    def gpu(self) -> str:
        """The device's name."""
        return str(self._device.name())

    @property
    def compute_capability(self) -> str:
        """For instance "8.6"."""
        major, minor = self._device.compute_capability()
        return f"{major}.{minor}"

    @property
    def stream(self) -> int:
        """The stream's handle."""
        return int(self._stream.handle)

    def reserve(self, name: str, size: int) -> int:
        """Return the address of a buffer of at least `size` bytes."""
        if name not in self._buffers or self._buffers[name][1] < size:
            self._buffers.pop(name, None)
            self._buffers[name] = self._driver.mem_alloc(size), size
        return int(self._buffers[name][0])

    def upload(self, name: str, array: Array) -> None:
        """Copy a contiguous host array into a reserved buffer."""
        self._driver.memcpy_htod_async(self._buffers[name][0], array, self._stream)
        self.synchronize()  # pageable memory may still be read when the call returns, and the caller may change it

    def download(self, name: str, array: Array) -> None:
        """Copy from a buffer into a contiguous host array, and wait for the stream."""
        self._driver.memcpy_dtoh_async(array, self._buffers[name][0], self._stream)
        self.synchronize()

    def synchronize(self) -> None:
        """Wait for the stream."""
        self._stream.synchronize()

    def close(self) -> None:
        """Free all buffers and leave the context; harmless when repeated."""
        self._buffers.clear()
        if self._context is not None:
            self._context.pop()
            self._context = None

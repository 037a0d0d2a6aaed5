"""A CUDA device that is this processor: our sources compiled by g++, behind the part of pycuda.driver that we use.

So the whole path runs without a GPU: argument checks, packing, launch geometry, kernel. Only `cubin` and pycuda are replaced.
"""

from __future__ import annotations

import ctypes
import struct
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from edgeproof.kernels.compiler import SOURCES

HEADER = Path(__file__).with_name("cuda_on_cpu.h")
STEMS = tuple(sorted(path.stem for path in SOURCES.glob("*.cu")))
WITH_BARRIERS = ("l2_step", "momentum_step", "universal_update")
FLAGS = (
    *("-std=c++20", "-O2", "-ffp-contract=off", "-shared", "-fPIC", "-pthread"),
    *("-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"),
)


def build(folder: Path, *, flags: Sequence[str] = ()) -> Path:
    """Compile all kernels for this processor into one library; raises with the compiler's words when it refuses."""
    unit, library = folder / "all.cpp", folder / "libkernels.so"
    unit.write_text("".join(f'#include "{stem}.cu"\n' for stem in STEMS))
    command = ["g++", *FLAGS, *flags, "-include", str(HEADER), f"-I{SOURCES}", str(unit), "-o", str(library)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return library


@dataclass
class HostArray:
    """A NumPy array that says it lies on a device; bfloat16 is uint16 there and "<V2" outside, as torch does it."""

    values: np.ndarray
    scalar: str | None = None
    device: Any = None
    changes: dict[str, Any] = field(default_factory=dict)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        interface = dict(self.values.__array_interface__, version=3)
        if self.scalar == "bf16":
            interface["typestr"] = "<V2"
        return interface | self.changes


@dataclass
class Launch:
    """One recorded launch."""

    kernel: str
    blocks: int
    threads: tuple[int, ...]
    stream: Any


class HostDriver(ModuleType):
    """Stands in for pycuda.driver.

    Attributes:
        blocks: At most so many are run; kernels must stride over the rest.
        threads: At most so many threads a block of a kernel with barriers, since each is an OS thread.
        launches: What was launched.
        pushed: Depth of the stack of contexts, 0 outside a launch.
    """

    class Error(Exception):
        pass

    def __init__(self, library: Path, *, blocks: int = 3, threads: int = 32) -> None:
        super().__init__("pycuda.driver")
        self.library = ctypes.CDLL(str(library))
        self.blocks, self.threads = blocks, threads
        self.launches: list[Launch] = []
        self.pushed = self.synchronized = 0
        self.Context, self.Device = HostContext(self), HostDevice
        HostDevice.context = self.Context

    def init(self) -> None:
        pass

    def Stream(self, flags: int) -> object:
        assert self.pushed, "a stream is made in the current context"
        return object()

    def module_from_buffer(self, code: bytes) -> HostDriver:
        assert self.pushed, "a module is loaded into the current context"
        return self

    def get_function(self, name: str) -> HostFunction:
        return HostFunction(self, name)


@dataclass
class HostContext:
    driver: HostDriver

    def push(self) -> None:
        self.driver.pushed += 1

    def pop(self) -> None:
        self.driver.pushed -= 1

    def detach(self) -> None:
        pass

    def synchronize(self) -> None:
        self.driver.synchronized += 1


@dataclass
class HostDevice:
    context = None
    ordinal: int

    @staticmethod
    def count() -> int:
        return 2

    def retain_primary_context(self) -> HostContext:
        assert self.context is not None
        return self.context

    def compute_capability(self) -> tuple[int, int]:
        return 8, 7


@dataclass
class HostFunction:
    driver: HostDriver
    name: str
    layout: str = ""

    def prepare(self, types: Sequence[str]) -> HostFunction:
        self.layout = "".join(types)
        return self

    def prepared_async_call(
        self, grid: tuple[int, int], threads: tuple[int, int, int], stream: Any, *values: Any
    ) -> None:
        assert self.driver.pushed, "a kernel is launched in the current context"
        self.driver.launches.append(Launch(self.name, grid[0], threads, stream))
        barriers = self.name.rpartition("_")[0] in WITH_BARRIERS
        columns, rows = self._shape(threads) if barriers else threads[:2]
        parameters = struct.pack(self.layout, *values)
        run = getattr(self.driver.library, self.name)
        run.restype = ctypes.c_ulong
        size = ctypes.c_ulong(len(parameters))
        expected = run(min(grid[0], self.driver.blocks), columns, rows, int(barriers), parameters, size)
        assert expected == 0, f"{self.name} takes {expected} bytes of parameters, {len(parameters)} were packed"

    def _shape(self, threads: tuple[int, int, int]) -> tuple[int, int]:
        """Shrink a block; the rows of a two-dimensional one go first, since its columns are fixed."""
        columns, rows = threads[:2]
        if rows == 1:
            return min(columns, self.driver.threads), 1
        return columns, max(1, min(rows, self.driver.threads // columns))


class Host:
    """Arrays on this processor, as tests make and read them."""

    def put(self, values: np.ndarray, scalar: str | None = None, *, offset: int = 0) -> HostArray:
        """Copy an array; `offset` shifts it by so many elements, so that packs do not fit its address."""
        buffer = np.empty(values.size + offset, values.dtype)  # not a byte more: the sanitizer watches its end
        assert buffer.ctypes.data % 16 == 0
        place = buffer[offset:].reshape(values.shape)
        place[...] = values
        return HostArray(place, scalar)

    def get(self, array: HostArray) -> np.ndarray:
        return array.values.copy()

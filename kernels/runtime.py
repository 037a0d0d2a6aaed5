"""The only place that knows pycuda: contexts, loaded kernels, streams, launches.

We work in the primary context, the one that torch and the CUDA runtime use, and make it current around each launch only, so
that a thread's own context is never changed. pycuda cannot adopt a stream that it did not make. So we launch on the legacy
default stream, which is torch's own unless told otherwise, or on `side_stream`, which torch can adopt and order by events.
"""

from __future__ import annotations

import atexit
import functools
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from edgeproof.kernels.arrays import View, common_device
from edgeproof.kernels.compiler import KernelUnavailableError, cubin

MAX_BLOCKS = 1 << 16  # the kernels stride over the rest
THREADS = 256
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING, which pycuda gives no name: ordered by events, not by the default stream


def available() -> str | None:
    """Return None when kernels can be launched here, else why they cannot, in one line."""
    try:
        _context(0)
    except KernelUnavailableError as error:
        return str(error)
    return None


def elementwise_blocks(array: View) -> int:
    """Return how many blocks give each thread one 16-byte pack of an array."""
    lanes = 4 if array.scalar == "f32" else 8
    return -(-array.size // (THREADS * lanes))


def row_threads(array: View) -> int:
    """Return how many threads a block an image gets: a power of two, about one pack of an image each."""
    packs = array.image_size // (4 if array.scalar == "f32" else 8)
    return min(512, max(32, 1 << max(0, packs - 1).bit_length()))


def launch(
    stem: str,
    kernel: str,
    layout: str,
    fields: Sequence[View | int | float | None],
    *,
    blocks: int,
    threads: tuple[int, int, int] = (THREADS, 1, 1),
    stream: Any = None,
) -> None:
    """Launch a kernel on the device of its arrays; returns before it has run.

    Args:
        stem: Source file `src/<stem>.cu`.
        kernel: Name of the function in it, with the suffix of its element type.
        layout: The fields of its parameter struct in the letters of Python's `struct`; its size must be that of the C struct.
        fields: Their values; an array stands for its address and None for a null pointer.
        blocks: Wanted number of blocks; the kernels stride, so fewer do the same.
        threads: Threads of a block.
        stream: A pycuda stream, for instance `side_stream(device)`; None is the legacy default stream.

    Raises:
        KernelArgumentError: When the arrays lie on different devices.
        KernelUnavailableError: When there is no pycuda, no driver, no device or no compiler here.
    """
    arrays = [field for field in fields if isinstance(field, View)]
    device = common_device(arrays)
    parameters = struct.pack(layout, *map(_field, fields))
    with _current(device) as driver:
        if any(array.stream for array in arrays):
            driver.Context.synchronize()  # pycuda cannot wait for a stream that it did not make
        function = _function(device, stem, kernel, len(parameters))
        function.prepared_async_call((max(1, min(blocks, MAX_BLOCKS)), 1), threads, stream, parameters)


@functools.cache
def side_stream(device: int) -> Any:
    """Return our pycuda stream on a device, made once; its `handle` is what torch.cuda.ExternalStream adopts.

    Raises:
        KernelUnavailableError: When there is no pycuda, no driver or no such device here.
    """
    with _current(device) as driver:
        return driver.Stream(_NON_BLOCKING)


def _field(value: View | int | float | None) -> int | float:
    if value is None:
        return 0
    return value.pointer if isinstance(value, View) else value


@contextmanager
def _current(device: int) -> Iterator[Any]:
    driver, context = _context(device)
    context.push()
    try:
        yield driver
    finally:
        driver.Context.pop()


@functools.cache
def _context(device: int) -> tuple[Any, Any]:
    """Return pycuda's driver module and the primary context of a device."""
    try:
        import pycuda.driver as driver
    except ImportError as error:  # also: installed, but no libcuda.so.1
        raise KernelUnavailableError(
            f"CUDA kernels need pycuda and a driver, which cannot be loaded ({error}): pip install 'edgeproof[cuda]'"
        ) from error
    try:
        driver.init()
        if not device < driver.Device.count():
            raise KernelUnavailableError(f"there is no CUDA device {device}; this machine has {driver.Device.count()}")
        context = driver.Device(device).retain_primary_context()
    except driver.Error as error:
        raise KernelUnavailableError(f"no CUDA device can be opened ({error}); is the driver loaded?") from error
    atexit.register(context.detach)  # left to its destructor, pycuda detaches a primary context by the wrong call
    atexit.register(forget)  # runs before that
    return driver, context


@functools.cache
def _function(device: int, stem: str, kernel: str, parameter_bytes: int) -> Any:
    function = _module(device, stem).get_function(kernel)
    return function.prepare([f"{parameter_bytes}s"])


@functools.cache
def _module(device: int, stem: str) -> Any:
    driver, _ = _context(device)
    major, minor = driver.Device(device).compute_capability()
    return driver.module_from_buffer(cubin(stem, arch=f"sm_{major}{minor}"))


def forget() -> None:
    """Drop loaded kernels and streams before the contexts they live in, which pycuda otherwise complains of at exit."""
    for cache in (_function, _module, side_stream, _context):
        cache.cache_clear()

"""What a launch has to know of a device array, and the checks that pycuda does not make.

Nothing here needs a GPU: an array is whatever has `__cuda_array_interface__` (torch, CuPy, pycuda.gpuarray, a test's fake).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

Direction: TypeAlias = Literal["ascent", "descent"]

SCALARS = {"<f4": "f32", "<f2": "f16", "<V2": "bf16"}  # torch and ml_dtypes both write bfloat16 as two raw bytes
BYTES = ("|u1", "|b1")
LABELS = ("<i8",)
FLOATS = ("<f4",)
INTEGERS = ("<i4",)
_ITEM_BYTES = {"<f4": 4, "<f2": 2, "<V2": 2, "|u1": 1, "|b1": 1, "<i8": 8, "<i4": 4}
_LEGACY_STREAM = 1  # the interface's number for the default stream, on which we launch too


class KernelArgumentError(ValueError):
    """An argument that a kernel must not be launched with."""


class DeviceArray(Protocol):
    """An array on a CUDA device: a torch tensor, a CuPy array, a pycuda GPUArray."""

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class View:
    """Where a checked, C-contiguous device array lies.

    Attributes:
        name: The parameter it came in as, for messages.
        pointer: Address of its first element; 0 only for an empty array.
        shape: Its shape.
        typestr: Element type as in NumPy's array interface; "<V2" is bfloat16.
        writable: False where the owner marked it read-only.
        device: Ordinal of its device; None where the array does not tell.
        stream: The producer's stream as in `__cuda_array_interface__`; None where nothing has to be waited for.
    """

    name: str
    pointer: int
    shape: tuple[int, ...]
    typestr: str
    writable: bool
    device: int | None
    stream: int | None

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def image_size(self) -> int:
        """Elements of one image, where the first axis counts images."""
        return math.prod(self.shape[1:])

    @property
    def end(self) -> int:
        return self.pointer + self.size * _ITEM_BYTES[self.typestr]

    @property
    def scalar(self) -> str:
        """Suffix of the kernels for this element type."""
        return SCALARS[self.typestr]


def view(name: str, array: DeviceArray) -> View:
    """Read and check an array's `__cuda_array_interface__`.

    Raises:
        KernelArgumentError: When it has none, requires a gradient, is masked, not C-contiguous, or has an element type
            that no kernel takes.
    """
    try:
        interface = array.__cuda_array_interface__
    except AttributeError as error:
        raise KernelArgumentError(
            f"{name} is a {type(array).__name__} and not an array on a CUDA device (no __cuda_array_interface__): move it there first"
        ) from error
    except RuntimeError as error:  # how torch refuses a tensor that requires a gradient
        raise KernelArgumentError(f"{name} cannot be handed over: {error}") from error
    shape = tuple(int(length) for length in interface["shape"])
    typestr = interface["typestr"]
    if typestr not in _ITEM_BYTES:
        raise KernelArgumentError(
            f"{name} has element type {typestr!r}; kernels take {', '.join(_ITEM_BYTES)} (<V2 is bfloat16): convert it first"
        )
    if interface.get("mask") is not None:
        raise KernelArgumentError(f"{name} is a masked array, which no kernel takes: fill it first")
    if not _contiguous(shape, interface.get("strides"), _ITEM_BYTES[typestr]):
        raise KernelArgumentError(
            f"{name} has strides {tuple(interface['strides'])} at shape {shape} and is not C-contiguous: call .contiguous() first"
        )
    pointer, read_only = interface["data"]
    return View(
        name, int(pointer or 0), shape, typestr, not read_only, _device(array), _foreign(interface.get("stream"))
    )


def _contiguous(shape: Sequence[int], strides: Sequence[int] | None, item_bytes: int) -> bool:
    if strides is None or 0 in shape:
        return True
    expected = item_bytes
    for length, stride in zip(reversed(shape), reversed(strides), strict=True):
        if length != 1 and stride != expected:
            return False
        expected *= length
    return True


def _device(array: DeviceArray) -> int | None:
    """Return `device.index` (torch) or `device.id` (CuPy); the interface itself does not say."""
    device = getattr(array, "device", None)
    index = getattr(device, "index", None)
    return index if isinstance(index, int) else getattr(device, "id", None)


def _foreign(stream: int | None) -> int | None:
    return None if stream == _LEGACY_STREAM else stream


def images_view(name: str, array: DeviceArray) -> View:
    """Read an array of images (N, ...) of a floating-point type.

    Raises:
        KernelArgumentError: As `view`, or when it is no floating-point array or has no axis.
    """
    images = view(name, array)
    if images.typestr not in SCALARS:
        raise KernelArgumentError(
            f"{name} has element type {images.typestr!r}, expected float32, float16 or bfloat16 ({', '.join(SCALARS)})"
        )
    if not images.shape:
        raise KernelArgumentError(f"{name} has shape (), expected (N, ...) with images along the first axis")
    return images


def like(reference: View, name: str, array: DeviceArray) -> View:
    """Read an array that must have the shape and the element type of another.

    Raises:
        KernelArgumentError: As `view`, or when shape or element type differ.
    """
    other = view(name, array)
    require_shape(other, reference.shape, f"like {reference.name}")
    return require_type(other, (reference.typestr,), f"like {reference.name}")


def typed(name: str, array: DeviceArray, shape: Sequence[int], typestrs: Sequence[str], meaning: str) -> View:
    """Read an array of a given shape and element type; `meaning` explains them in the message.

    Raises:
        KernelArgumentError: As `view`, or when shape or element type differ.
    """
    other = view(name, array)
    require_shape(other, tuple(shape), meaning)
    return require_type(other, typestrs, meaning)


def require_shape(array: View, shape: tuple[int, ...], meaning: str) -> None:
    """Refuse an array of another shape."""
    if array.shape != shape:
        raise KernelArgumentError(f"{array.name} has shape {array.shape}, expected {shape} ({meaning})")


def require_type(array: View, typestrs: Sequence[str], meaning: str) -> View:
    """Return the array, or refuse it when it has another element type."""
    if array.typestr not in typestrs:
        raise KernelArgumentError(
            f"{array.name} has element type {array.typestr!r}, expected {' or '.join(map(repr, typestrs))} ({meaning})"
        )
    return array


def require_output(out: View, *inputs: View | None, in_place: View | None = None) -> None:
    """Refuse to write to a read-only array, or to one that overlaps an input; `in_place` may be the output itself.

    Raises:
        KernelArgumentError: When it is read-only or overlaps.
    """
    if not out.writable:
        raise KernelArgumentError(f"{out.name} is read-only: pass an array that may be written")
    for array in (*inputs, in_place):
        if array is None or (array is in_place and array.pointer == out.pointer):
            continue
        if array.pointer < out.end and out.pointer < array.end:
            allowed = f"; only {in_place.name} itself may be the output" if in_place else ""
            raise KernelArgumentError(f"{out.name} overlaps {array.name} in memory: pass an array of its own{allowed}")


def require_number(name: str, value: float, *, low: float = -math.inf, high: float = math.inf) -> float:
    """Return a finite number within bounds.

    Raises:
        KernelArgumentError: When it is not finite or outside the bounds.
    """
    number = float(value)
    if not (math.isfinite(number) and low <= number <= high):
        raise KernelArgumentError(f"{name} is {value}, expected a finite number in [{low:g}, {high:g}]")
    return number


def per_image(name: str, value: float | DeviceArray, images: View) -> tuple[float, View | None]:
    """Take a number for all images, or a float32 array (N,) with one each: (number, array or None).

    Raises:
        KernelArgumentError: When the number is negative or not finite, or the array is not (N,) float32. The values of
            an array are not looked at: that would cost a copy to the host.
    """
    if isinstance(value, (int, float)):
        return require_number(name, value, low=0.0), None
    return 0.0, typed(name, value, images.shape[:1], FLOATS, "one float32 an image")


def sense(direction: str) -> float:
    """Return +1 for "ascent" and -1 for "descent".

    Raises:
        KernelArgumentError: When it is neither.
    """
    if direction not in ("ascent", "descent"):
        raise KernelArgumentError(f"direction is {direction!r}, expected 'ascent' or 'descent'")
    return 1.0 if direction == "ascent" else -1.0


def common_device(arrays: Sequence[View]) -> int:
    """Return the device that all arrays lie on; one that does not tell is taken to lie with the others, or on device 0.

    Raises:
        KernelArgumentError: When they lie on more than one.
    """
    devices = {array.device: array.name for array in arrays if array.device is not None}
    if len(devices) > 1:
        places = ", ".join(f"{name} on device {device}" for device, name in sorted(devices.items()))
        raise KernelArgumentError(f"arrays lie on different devices ({places}): move them to one")
    return next(iter(devices), 0)

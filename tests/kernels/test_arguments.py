"""What does not fit is never launched: each argument has its error, and nothing reaches the device."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgeproof.kernels.arrays import KernelArgumentError, common_device, view
from edgeproof.kernels.l2_step import l2_step
from edgeproof.kernels.linf_step import linf_step
from edgeproof.kernels.momentum_step import momentum_step
from edgeproof.kernels.normalize import denormalize, normalize
from edgeproof.kernels.universal_apply import universal_apply, universal_update
from tests.kernels.host import HostArray, HostDriver

SHAPE = (2, 3, 4, 4)
ONE = np.float32(1)


def array(shape: tuple[int, ...] = SHAPE, dtype: Any = np.float32, **changes: Any) -> HostArray:
    return HostArray(np.zeros(shape, dtype), changes=changes)


def valid() -> dict[str, HostArray]:
    return {name: array() for name in ("x", "grad", "origin", "out")}


def step(call: Callable[..., None] = linf_step, **changes: Any) -> None:
    """Call a step with valid arguments but for some."""
    call(**{**valid(), "step_size": 0.01, "eps": 0.03, **changes})


def momentum(**changes: Any) -> None:
    step(momentum_step, **{"momentum": array(), "decay": 1.0, **changes})


def shared(*shifts: int) -> list[HostArray]:
    """Return arrays of 96 elements in one buffer, shifted against each other."""
    buffer = np.zeros(1000, np.float32)
    return [HostArray(buffer[shift : shift + 96].reshape(SHAPE)) for shift in shifts]


TRANSPOSED = HostArray(np.zeros((2, 4, 4, 3), np.float32).transpose(0, 3, 1, 2))
OVERLAPPING, SHIFTED = shared(0, 95)
SAME = array()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"x": np.zeros(SHAPE)}, r"x is a ndarray and not an array on a CUDA device.*move it there first"),
        ({"x": array(dtype=np.float64)}, r"x has element type '<f8'; kernels take .*convert it first"),
        ({"x": array(dtype=np.int64)}, r"x has element type '<i8', expected float32, float16 or bfloat16"),
        ({"x": array(dtype=">f4")}, r"x has element type '>f4'"),
        ({"x": array(())}, r"x has shape \(\), expected \(N, \.\.\.\)"),
        ({"x": TRANSPOSED}, r"x has strides .* is not C-contiguous: call \.contiguous\(\) first"),
        ({"x": array(mask=array())}, r"x is a masked array"),
        ({"grad": array((2, 3, 4, 5))}, r"grad has shape \(2, 3, 4, 5\), expected \(2, 3, 4, 4\) \(like x\)"),
        ({"grad": array(dtype=np.float16)}, r"grad has element type '<f2', expected '<f4' \(like x\)"),
        ({"grad": HostArray(np.zeros(SHAPE, np.uint16), "bf16")}, r"grad has element type '<V2', expected '<f4'"),
        ({"origin": array((2, 48))}, r"origin has shape \(2, 48\), expected"),
        ({"out": array((3, 3, 4, 4))}, r"out has shape \(3, 3, 4, 4\), expected"),
        ({"out": array(data=(64, True))}, r"out is read-only"),
        ({"out": OVERLAPPING, "grad": SHIFTED}, r"out overlaps grad in memory.*only x itself may be the output"),
        ({"out": OVERLAPPING, "x": SHIFTED}, r"out overlaps x in memory"),
        ({"out": SAME, "origin": SAME}, r"out overlaps origin in memory"),
        ({"step_size": -0.01}, r"step_size is -0\.01, expected a finite number in \[0, inf\]"),
        ({"step_size": float("nan")}, r"step_size is nan"),
        ({"eps": float("inf")}, r"eps is inf"),
        ({"eps": array((3,))}, r"eps has shape \(3,\), expected \(2,\) \(one float32 an image\)"),
        ({"eps": array((2,), np.float16)}, r"eps has element type '<f2', expected '<f4' \(one float32 an image\)"),
        ({"step_size": np.zeros(2, np.float32)}, r"step_size is a ndarray and not an array on a CUDA device"),
        ({"direction": "up"}, r"direction is 'up', expected 'ascent' or 'descent'"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
@pytest.mark.parametrize("call", [linf_step, l2_step], ids=["linf", "l2"])
def test_a_step_refuses(driver: HostDriver, call: Callable[..., None], changes: dict[str, Any], message: str) -> None:
    driver.launches.clear()
    with pytest.raises(KernelArgumentError, match=message):
        step(call, **changes)
    assert not driver.launches


def normal(**changes: Any) -> None:
    images, mean, std = array(dtype=np.uint8), array((3,)), array((3,))
    normalize(**{"images": images, "out": array(), "mean": mean, "std": std, "layout": "nchw", **changes})


def back(**changes: Any) -> None:
    images, mean, std = array((2, 4, 4, 3), np.uint8), array((3,)), array((3,))
    denormalize(**{"planes": array(), "out": images, "mean": mean, "std": std, "layout": "nhwc", **changes})


def apply(**changes: Any) -> None:
    universal_apply(**{"x": array(), "delta": array(SHAPE[1:]), "out": array(), **changes})


def update(**changes: Any) -> None:
    universal_update(**{"grad": array(), "delta": array(SHAPE[1:]), "step_size": 0.01, "eps": 0.1, **changes})


LABELS = array((2,), np.int64)


@pytest.mark.parametrize(
    "call, changes, message",
    [
        (momentum, {"momentum": array(dtype=np.float16)}, r"momentum has element type '<f2', expected '<f4'"),
        (momentum, {"momentum": array((2, 48))}, r"momentum has shape \(2, 48\)"),
        (momentum, {"momentum": array(data=(64, True))}, r"momentum is read-only"),
        (momentum, {"momentum": SAME, "grad": SAME}, r"momentum overlaps grad"),
        (momentum, {"momentum": SAME, "x": SAME}, r"momentum overlaps x"),
        (momentum, {"momentum": SAME, "out": SAME}, r"out overlaps momentum"),
        (momentum, {"decay": -1.0}, r"decay is -1\.0, expected a finite number in \[0, inf\]"),
        (apply, {"delta": array()}, r"delta has shape \(2, 3, 4, 4\), expected \(3, 4, 4\) \(one image\)"),
        (apply, {"delta": array(SHAPE[1:], np.float16)}, r"delta has element type '<f2', expected '<f4' \(like x\)"),
        (apply, {"labels": LABELS}, r"delta has shape \(3, 4, 4\), expected \(K, 3, 4, 4\): one image a class"),
        (apply, {"delta": array((5, 3, 4, 4)), "labels": array((2,), np.int32)}, r"labels has element type '<i4'"),
        (apply, {"delta": array((5, 3, 4, 4)), "labels": array((3,), np.int64)}, r"labels has shape \(3,\)"),
        (update, {"eps": -1.0}, r"eps is -1\.0"),
        (update, {"step_size": float("inf")}, r"step_size is inf"),
        (update, {"direction": "down"}, r"direction is 'down'"),
        (update, {"delta": array(SHAPE[1:], data=(64, True))}, r"delta is read-only"),
        (update, {"delta": array((4, 3, 4)), "labels": LABELS}, r"expected \(K, 3, 4, 4\)"),
        (normal, {"images": array(dtype=np.int8)}, r"images has element type '\|i1'"),
        (normal, {"images": array(dtype=np.bool_)}, r"images has element type '\|b1', expected '\|u1'"),
        (normal, {"layout": "nhwc"}, r"images has shape \(2, 3, 4, 4\), expected \(2, 4, 4, 3\) \(uint8 nhwc"),
        (normal, {"layout": "chwn"}, r"layout is 'chwn', expected 'nchw' or 'nhwc'"),
        (normal, {"mean": array((1,))}, r"mean has shape \(1,\), expected \(3,\) \(one float32 a channel\)"),
        (normal, {"std": array((3,), np.float16)}, r"std has element type '<f2'"),
        (normal, {"out": array((2, 48))}, r"out has shape \(2, 48\), expected \(N, C, H, W\)"),
        (normal, {"out": array(data=(64, True))}, r"out is read-only"),
        (back, {"out": array(dtype=np.uint8)}, r"out has shape \(2, 3, 4, 4\), expected \(2, 4, 4, 3\)"),
        (back, {"out": array((2, 4, 4, 3), np.uint8, data=(64, True))}, r"out is read-only"),
    ],
    ids=lambda value: getattr(value, "__name__", "-".join(value) if isinstance(value, dict) else ""),
)
def test_a_kernel_refuses(driver: HostDriver, call: Callable[..., None], changes: dict[str, Any], message: str) -> None:
    driver.launches.clear()
    with pytest.raises(KernelArgumentError, match=message):
        call(**changes)
    assert not driver.launches


@pytest.mark.parametrize("call", [step, momentum, apply, update, normal, back], ids=lambda c: c.__name__)
def test_the_arguments_that_the_refusals_start_from_are_launched(driver: HostDriver, call: Callable[..., None]) -> None:
    driver.launches.clear()
    call()
    assert len(driver.launches) == 1


def test_arrays_on_two_devices_are_refused(driver: HostDriver) -> None:
    """torch names a device's ordinal `index`, CuPy `id`."""
    grad, origin = array(), array()
    grad.device, origin.device = SimpleNamespace(index=0), SimpleNamespace(id=1)
    with pytest.raises(KernelArgumentError, match=r"different devices \(grad on device 0, origin on device 1\)"):
        step(grad=grad, origin=origin)


def test_an_array_that_does_not_name_its_device_lies_with_the_others() -> None:
    silent, first = view("silent", array()), array()
    first.device = SimpleNamespace(index=1)
    assert common_device([silent, view("first", first)]) == 1
    assert common_device([silent]) == 0


def test_a_tensor_that_requires_a_gradient_is_refused_in_torchs_words() -> None:
    class Leaf:
        @property
        def __cuda_array_interface__(self) -> dict[str, Any]:
            raise RuntimeError("Can't get __cuda_array_interface__ on Variable that requires grad.")

    with pytest.raises(KernelArgumentError, match=r"x cannot be handed over: .* requires grad"):
        view("x", Leaf())


@pytest.mark.parametrize(
    "shape, strides", [((2, 3), (12, 4)), ((1, 3), (999, 4)), ((2, 1), (4, 999)), ((0, 3), (1, 1)), ((), ())], ids=str
)
def test_strides_that_say_nothing_new_are_contiguous(shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
    assert view("x", array(shape, strides=strides)).shape == shape


def test_neighbours_in_memory_do_not_overlap(driver: HostDriver) -> None:
    x, grad, origin, out = shared(0, 96, 192, 288)
    step(x=x, grad=grad, origin=origin, out=out)

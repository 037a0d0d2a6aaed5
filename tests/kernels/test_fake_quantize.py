from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgeproof.kernels.fake_quantize import fake_quantize, reference
from edgeproof.kernels.numerics import narrow
from tests.kernels.table import SCALARS, SHAPES, SIZES, assert_equal, mixed, rng, rounded


def run(device: Any, scalar: str, x: np.ndarray, offset: int = 0, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    """Launch on copies out of place: the output's bits and the mask."""
    source, out = (device.put(narrow(values, scalar), scalar, offset=offset) for values in (x, np.zeros_like(x)))
    mask = device.put(np.zeros(x.shape, np.uint8), offset=offset)
    placed = {name: device.put(value) if isinstance(value, np.ndarray) else value for name, value in options.items()}
    fake_quantize(source, out, mask=mask, **placed)
    return device.get(out), device.get(mask)


def check(device: Any, scalar: str, x: np.ndarray, offset: int = 0, **options: Any) -> None:
    out, mask = run(device, scalar, x, offset, **options)
    value, inside = reference(x, **options)
    assert_equal(out, value, scalar)
    np.testing.assert_array_equal(mask, inside)


@pytest.mark.parametrize("scalar", SCALARS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("offset", [0, 1])
def test_every_size_and_address_gives_the_reference(device: Any, scalar: str, size: int, offset: int) -> None:
    check(device, scalar, mixed((size,), scalar), offset, scale=1 / 127, zero_point=3)


@pytest.mark.parametrize("scalar", SCALARS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", ["int8", "uint8"])
def test_every_axis_may_hold_the_channels(device: Any, scalar: str, shape: tuple[int, ...], kind: str) -> None:
    low, high = (-128, 127) if kind == "int8" else (0, 255)
    for axis, channels in enumerate(shape):
        random = rng(shape, axis)
        scale = random.uniform(1e-3, 0.1, channels).astype(np.float32)
        zero = random.integers(low, high, channels).astype(np.int32)
        check(device, scalar, mixed(shape, scalar), scale=scale, zero_point=zero, qmin=low, qmax=high, axis=axis)


@pytest.mark.parametrize(
    "x, expected, inside",
    [
        (0.0, 0.0, True),
        (0.25, 0.0, True),  # half a level: to the even one
        (0.75, 1.0, True),
        (-0.75, -1.0, True),
        (63.5, 63.5, True),
        (63.75, 63.5, False),
        (-64.0, -64.0, True),
        (-64.5, -64.0, False),
        (np.inf, 63.5, False),
        (-np.inf, -64.0, False),
        (np.nan, np.nan, False),
        (1e-45, 0.0, True),
    ],
)
def test_one_value_is_quantised_as_worked_out_by_hand(device: Any, x: float, expected: float, inside: bool) -> None:
    out, mask = run(device, "f32", np.array([x], np.float32), scale=0.5)
    np.testing.assert_array_equal(out, np.array([expected], np.float32))
    assert bool(mask[0]) is inside


def test_onnx_agrees_where_the_standard_decides() -> None:
    evaluator = pytest.importorskip("onnx.reference", reason="onnx is not installed").ReferenceEvaluator
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], axis=1),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], axis=1),
    ]
    inputs = [helper.make_tensor_value_info(n, t, None) for n, t in (("x", 1), ("s", 1), ("z", TensorProto.INT8))]
    graph = helper.make_graph(nodes, "g", inputs, [helper.make_tensor_value_info("y", 1, None)])
    x = rng("onnx").uniform(-4, 4, (5, 3, 7)).astype(np.float32)
    scale, zero = np.array([0.01, 0.02, 0.05], np.float32), np.array([0, -7, 90], np.int8)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)])
    (expected,) = evaluator(model).run(None, {"x": x, "s": scale, "z": zero})
    value, _ = reference(x, scale=scale, zero_point=zero.astype(np.int32), axis=1)
    np.testing.assert_array_equal(value, expected)


def test_the_mask_may_be_left_out_and_the_output_may_be_the_input(device: Any) -> None:
    x = mixed((3, 85), "f32")
    placed = device.put(x)
    fake_quantize(placed, placed, scale=0.01)
    np.testing.assert_array_equal(device.get(placed), reference(x, scale=0.01)[0])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), scalar=st.sampled_from(SCALARS), scale=st.floats(2.0**-20, 2.0**20, width=32))
def test_any_float_gives_the_reference(device: Any, data: st.DataObject, scalar: str, scale: float) -> None:
    values = data.draw(arrays(np.float32, data.draw(st.integers(0, 70)), elements=st.floats(width=32)))
    zero = data.draw(st.integers(-128, 127))
    check(device, scalar, rounded(values, scalar), data.draw(st.integers(0, 7)), scale=scale, zero_point=zero)

"""The straight-through quantiser against ONNX's definition written out in NumPy and against torch's own; the steps have tests with the kernels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgeproof.ops import dequantize, fake_quantize, quantize

INT8, UINT8 = (-128, 127), (0, 255)


@np.errstate(invalid="ignore", over="ignore", divide="ignore")
def reference(
    x: np.ndarray,
    *,
    scale: float | np.ndarray,
    zero_point: int | np.ndarray = 0,
    qmin: int = -128,
    qmax: int = 127,
    axis: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Specify ONNX's QuantizeLinear and DequantizeLinear one after the other, in float32.

    q = clip(rint(x / scale) + zero_point, qmin, qmax), half to even; the value is (q - zero_point) * scale. NaN stays NaN (the
    standard leaves it open; hiding it would hide a bug) and lies outside the range.

    Args:
        x: Values of any shape, float32.
        scale: Positive step: a number, or (C,) float32 along `axis`.
        zero_point: Level of zero: a number, or (C,) int32 along `axis`.
        qmin: Lowest level.
        qmax: Highest level.
        axis: The channel axis of per-channel scales and zero points.

    Returns:
        The dequantised values, and where the level lay in [qmin, qmax] before clipping: the straight-through gradient's mask.
    """
    step, origin = _along(np.asarray(scale, np.float32), x, axis), _along(np.asarray(zero_point, np.float32), x, axis)
    level = np.rint(x / step) + origin
    value: np.ndarray = (np.minimum(np.maximum(level, np.float32(qmin)), np.float32(qmax)) - origin) * step
    return value, (level >= qmin) & (level <= qmax)


def _along(values: np.ndarray, x: np.ndarray, axis: int | None) -> np.ndarray:
    if not values.ndim:
        return values
    return values.reshape([-1 if index == axis else 1 for index in range(x.ndim)])


def values(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)) * 3


def test_half_is_rounded_to_even_before_the_zero_point_is_added() -> None:
    x = torch.tensor([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5])
    assert quantize(x, torch.tensor(1.0), torch.tensor(1.0), low=-128, high=127).tolist() == [-1, -1, 1, 1, 3, 3]


@pytest.mark.parametrize("limits", [INT8, UINT8])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_values_and_gradient_are_those_of_the_specification(limits: tuple[int, int], axis: int) -> None:
    x = values(4, 4, 5, 4).requires_grad_()
    low, high = limits
    scale = torch.tensor([0.01, 0.02, 0.05, 0.1])
    zero = torch.tensor([0.0, 3.0, 100.0, 7.0])
    made = fake_quantize(x, scale, zero, low=low, high=high, axis=axis)
    made.sum().backward()
    expected, inside = reference(
        x.detach().numpy(), scale=scale.numpy(), zero_point=zero.int().numpy(), qmin=low, qmax=high, axis=axis % 4
    )
    np.testing.assert_array_equal(made.detach().numpy(), expected)
    assert x.grad is not None
    np.testing.assert_allclose(x.grad.numpy(), inside, rtol=1e-6)
    assert 0 < inside.mean() < 1


def test_levels_are_torchs_own() -> None:
    x, scale = values(1000), 0.037
    ours = fake_quantize(x, torch.tensor(scale), torch.tensor(5.0), low=0, high=255)
    assert torch.allclose(ours, torch.fake_quantize_per_tensor_affine(x, scale, 5, 0, 255), atol=1e-6)


def test_levels_have_the_gradient_of_the_division() -> None:
    x = torch.tensor([0.1, 10.0], requires_grad=True)
    quantize(x, torch.tensor(0.05), low=-128, high=127).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == pytest.approx([20, 0])


def test_without_a_scale_only_the_zero_point_is_taken_off() -> None:
    assert dequantize(torch.tensor([3.0, 5.0]), None, torch.tensor(3.0)).tolist() == [0, 2]


def test_many_batches_side_by_side_are_the_batches_one_by_one() -> None:
    x, scale = values(3, 4, 5).requires_grad_(), torch.tensor([0.01, 0.02, 0.05, 0.1])

    def run(part: torch.Tensor) -> torch.Tensor:
        return fake_quantize(part, scale, low=-128, high=127, axis=0)

    together = torch.vmap(run)(x)
    assert torch.equal(together, torch.stack([run(part) for part in x]))
    (grad,) = torch.autograd.grad(together.sum(), x)
    (alone,) = torch.autograd.grad(sum(run(part).sum() for part in x), x)
    assert torch.equal(grad, alone)

"""The values that every kernel is held against: sizes around a block, types, and what goes wrong at the borders."""

from __future__ import annotations

import numpy as np

from edgeproof.kernels.numerics import narrow, widen

SCALARS = ("f32", "f16", "bf16")
SIZES = (0, 1, 255, 256, 257, 1_000_003)
SHAPES = ((0, 3, 4, 4), (4, 0), (1, 1), (255, 1), (3, 5, 17), (16, 1, 4, 4), (1, 257), (257,), (5, 3, 7, 9))
EPS = 8 / 255
SPECIAL = (
    *(np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, 0.5, 1 + 1e-6, 1 - 1e-6, -1e-6, 1e-8, -1e-8),
    *(
        1e-38,
        1e-42,
        -1e-42,
        1.4e-45,
        6e-8,
        6.1e-5,
        3.4e38,
        -3.4e38,
        65504.0,
        65520.0,
        1e-25,
        8 / 255,
        7.5 / 255,
        247 / 255,
    ),
)


def rng(*key: object) -> np.random.Generator:
    """Return a generator that depends on the case alone."""
    return np.random.default_rng(list(repr(key).encode()))


def plain(shape: tuple[int, ...], scalar: str, *key: object, low: float = 0.0, high: float = 1.0) -> np.ndarray:
    """Return values in [low, high) that the type holds exactly, as float32."""
    return rounded(rng(shape, *key).uniform(low, high, shape).astype(np.float32), scalar)


def mixed(shape: tuple[int, ...], scalar: str, *key: object) -> np.ndarray:
    """Return values of which a third is special: NaN, infinities, signed zeros, denormals, borders."""
    random = rng(shape, *key)
    values = random.uniform(-0.2, 1.2, shape).astype(np.float32)
    chosen = random.choice(np.array(SPECIAL, np.float32), shape)
    return rounded(np.where(random.random(shape) < 0.3, chosen, values).astype(np.float32), scalar)


def gradients(shape: tuple[int, ...], scalar: str, *key: object) -> np.ndarray:
    """Return normal values of the size of a loss gradient, a tenth of them zero."""
    random = rng(shape, *key)
    values = random.standard_normal(shape) * 1e-2 * (random.random(shape) > 0.1)
    return rounded(values.astype(np.float32), scalar)


def rounded(values: np.ndarray, scalar: str) -> np.ndarray:
    """Return the values that are left after rounding to a type, as float32."""
    return widen(narrow(values, scalar), scalar)


def assert_equal(bits: np.ndarray, expected: np.ndarray, scalar: str) -> None:
    """Assert that a kernel's output is the reference rounded once; NaN equals NaN, -0 equals 0."""
    np.testing.assert_array_equal(widen(bits, scalar), rounded(expected, scalar))

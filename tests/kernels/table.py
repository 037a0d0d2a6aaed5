"""The values that every kernel is held against: sizes around a block, types, and what goes wrong at the borders."""

from __future__ import annotations

import numpy as np

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


def widen(bits: np.ndarray, scalar: str) -> np.ndarray:
    """Return the float32 values of an array of type "f32", "f16" or "bf16", the last held as uint16."""
    if scalar == "bf16":
        return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return bits.astype(np.float32)


@np.errstate(over="ignore")
def narrow(values: np.ndarray, scalar: str) -> np.ndarray:
    """Round float32 values once, to nearest even, to "f32", "f16" or "bf16" as uint16; NaN stays NaN."""
    if scalar != "bf16":
        return values.astype({"f32": np.float32, "f16": np.float16}[scalar])
    bits = np.asarray(values, np.float32, order="C").view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return np.where(np.isnan(values), np.uint32(0x7FC0), rounded >> np.uint32(16)).astype(np.uint16)


def on_grid(values: np.ndarray, origin: np.ndarray, eps: np.ndarray) -> np.ndarray:
    """Round to the nearest level k / 255 inside the budget, in float64 and with 1e-4 of a level to spare.

    A float32 k / 255 lies up to 1e-5 of a level from level k. Where a budget leaves no level, the result is the level below its
    upper end.
    """
    centre, radius = origin.astype(np.float64) * 255.0, eps.astype(np.float64) * 255.0
    low, high = np.ceil(centre - radius - 1e-4), np.floor(centre + radius + 1e-4)
    level = np.rint(values.astype(np.float64) * 255.0)
    inside = np.minimum(np.maximum(level, low), high).astype(np.float32)
    return np.minimum(np.maximum(inside, np.float32(0)), np.float32(255)) / np.float32(255)

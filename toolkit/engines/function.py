"""A Python function on NumPy batches as an engine: whatever a user's own pipeline is, it is measured like a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from edgeproof.engines.base import Closing, EngineInfo, check_input
from edgeproof.errors import ModelError
from edgeproof.types import Array, Images, Logits


class FunctionEngine(Closing):
    """A function from images (N, C, H, W) to logits (N, K), both NumPy arrays, opened for inference.

    Args:
        function: Called with a fresh float32 array, in [0, 1] unless `mean` and `std` say otherwise.
        input_shape: (C, H, W).
        classes: The name of each class.
        mean: What is subtracted from each channel before the call, in [0, 1] pixel units; () is 0.
        std: What each channel is then divided by; () is 1.
        sha256: What stands for its content.
    """

    def __init__(
        self,
        function: Callable[[Images], Any],
        *,
        input_shape: tuple[int, int, int],
        classes: Sequence[str],
        mean: Sequence[float] = (),
        std: Sequence[float] = (),
        sha256: str = "",
    ) -> None:
        self._function = function
        self._mean, self._std = (
            np.array(values or (default,), np.float32).reshape(1, -1, 1, 1)
            for values, default in ((mean, 0.0), (std, 1.0))
        )
        for name, values in (("mean", self._mean), ("std", self._std)):
            if values.size not in (1, input_shape[0]) or not np.isfinite(values).all():
                raise ModelError(f"{name} has {values.size} numbers; expected {input_shape[0]} finite ones, or one")
        if not (self._std > 0).all():
            raise ModelError(f"std = {self._std.ravel().tolist()}; expected numbers above 0")
        self._info = EngineInfo(
            backend="python",
            precision="fp32",
            device="cpu",
            provider="a Python function",
            input_shape=input_shape,
            num_classes=len(classes),
            max_batch=None,
            sha256=sha256,
            versions={"numpy": np.__version__},
            note="a function in memory, not hashed; what it computes in is its own affair",
            classes=tuple(classes),
        )

    @property
    def info(self) -> EngineInfo:
        """What is active."""
        return self._info

    def predict(self, images: Images) -> Logits:
        """Return logits (N, K) of images (N, C, H, W) in [0, 1].

        Raises:
            DataError: For images of another shape or type.
            ModelError: When the function gives no numbers.
        """
        check_input(self._info, images)
        if not len(images):
            return np.empty((0, self._info.num_classes), np.float32)
        given: Array = (images - self._mean) / self._std
        found = self._function(given)
        try:
            return np.array(found, np.float32)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ModelError(
                f"the function returned {type(found).__name__}; expected a NumPy array of logits "
                f"({len(images)}, {self._info.num_classes})"
            ) from error

    def close(self) -> None:
        """Nothing is held that the caller does not hold."""

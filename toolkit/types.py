"""Names for the arrays that the whole toolkit passes around."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

# In quotes, since nothing here needs torch to be there.
LogitsFn: TypeAlias = "Callable[[Tensor], Tensor]"  # images (N, C, H, W) in [0, 1] -> logits (N, K)

Images: TypeAlias = NDArray[np.float32]  # (N, C, H, W) in [0, 1]
Logits: TypeAlias = NDArray[np.float32]  # (N, K)
Labels: TypeAlias = NDArray[np.int64]  # (N,)
Array: TypeAlias = NDArray[Any]

Direction: TypeAlias = Literal["ascent", "descent"]
Norm: TypeAlias = Literal["linf", "l2"]
Pixels: TypeAlias = Literal["float", "uint8"]
GradientMode: TypeAlias = Literal["exact", "fast", "bf16", "compiled"]
Precision: TypeAlias = Literal["fp32", "fp16", "bf16", "int8"]

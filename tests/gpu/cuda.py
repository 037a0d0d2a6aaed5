"""A real CUDA device, as the table of the kernel tests makes and reads its arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


class Cuda:
    """Arrays on device 0, as torch tensors."""

    def put(self, values: np.ndarray, scalar: str | None = None, *, offset: int = 0) -> Any:
        """Copy an array; `offset` shifts it by so many elements, so that packs do not fit its address."""
        given = torch.from_numpy(np.array(values, order="C"))  # a copy: what is made of constants may be read-only
        buffer = torch.empty(given.numel() + offset, dtype=given.dtype, device="cuda")
        placed = buffer[offset:].view(given.shape)
        placed.copy_(given)
        return placed.view(torch.bfloat16) if scalar == "bf16" else placed

    def get(self, array: Any) -> np.ndarray:
        torch.cuda.synchronize()
        plain = array.view(torch.uint16) if array.dtype is torch.bfloat16 else array
        values: np.ndarray = plain.cpu().numpy()
        return values

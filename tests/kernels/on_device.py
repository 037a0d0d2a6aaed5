"""A torch tensor of this processor that passes for one on a CUDA device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

TYPESTRS = {
    torch.float32: "<f4",
    torch.float16: "<f2",
    torch.bfloat16: "<V2",
    torch.uint8: "|u1",
    torch.bool: "|b1",
    torch.int32: "<i4",
    torch.int64: "<i8",
}


class OnDevice(Tensor):
    """Says that it lies on a CUDA device and where; the host build then reads and writes it there."""

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:  # type: ignore[override]
        with torch._C.DisableTorchFunctionSubclass():
            strides = tuple(stride * self.element_size() for stride in self.stride())
            shape, data = tuple(self.shape), (self.data_ptr(), False)
            return {"shape": shape, "typestr": TYPESTRS[self.dtype], "strides": strides, "data": data}

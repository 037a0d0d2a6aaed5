"""PyTorch: a checkpoint in FP32, or in FP16 arithmetic by `.half()`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from edgeproof.engines.base import Closing, Engine, EngineInfo, EngineOptions, check_input, refuse_device
from edgeproof.errors import ConfigError
from edgeproof.models.base import Classifier, load_classifier, torch_device
from edgeproof.plugins.registry import register
from edgeproof.runs import sha256_file
from edgeproof.system.environment import usable_cores
from edgeproof.types import Images, Logits

_NOTE = "weights and arithmetic in FP16, normalisation and logits included"


@register("pytorch", suffixes=(".safetensors",), short="torch", module="torch", extra="train")
def open_pytorch(path: Path, *, device: str, options: EngineOptions) -> Engine:
    """PyTorch on a checkpoint: FP32, or with the precision hint fp16 real FP16 arithmetic."""
    refuse_device(device, known=("cpu", "cuda"), backend="pytorch")
    if options.precision not in (None, "fp32", "fp16"):
        raise ConfigError(f"pytorch runs checkpoints in fp32 or fp16, not {options.precision!r}")
    model, half = load_classifier(path, device=device), options.precision == "fp16"
    return PyTorchEngine(model, sha256=sha256_file(path), device=device, half=half, threads=options.threads)


def open_classifier(model: Classifier, *, sha256: str, device: str, threads: int | None) -> Engine:
    """Open a classifier that is in memory: FP32. It is moved to the device, and stays when the engine is closed.

    Raises:
        ConfigError: For another kind of device than PyTorch's.
        UnavailableError: When the device is not there.
    """
    refuse_device(device, known=("cpu", "cuda"), backend="pytorch")
    there = model.to(torch_device(device))
    return PyTorchEngine(there, sha256=sha256, device=device, half=False, threads=threads, owned=False)


class PyTorchEngine(Closing):
    """A classifier in PyTorch; an `owned` one, which nobody else holds, is freed when the engine is closed."""

    def __init__(
        self, model: Classifier, *, sha256: str, device: str, half: bool, threads: int | None, owned: bool = True
    ) -> None:
        self._model = model.half() if half else model
        self._owned = owned
        self._dtype = torch.float16 if half else torch.float32
        self._device = torch.device(device)
        self._threads = threads or usable_cores()
        self._info = EngineInfo(
            backend="pytorch",
            precision="fp16" if half else "fp32",
            device=device if device != "cuda" else "cuda:0",
            provider=torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else "ATen CPU",
            input_shape=model.input_shape,
            num_classes=model.num_classes,
            max_batch=None,
            sha256=sha256,
            versions={"torch": torch.__version__},
            note=_NOTE if half else "",
            options={"threads": self._threads, "tf32": False},
            classes=model.classes,
        )

    @property
    def info(self) -> EngineInfo:
        """What is active."""
        return self._info

    def predict(self, images: Images) -> Logits:
        """Return logits (N, K) of images (N, C, H, W) in [0, 1].

        Raises:
            DataError: For images that the model does not take.
        """
        check_input(self._info, images)
        if not len(images):
            return np.empty((0, self._info.num_classes), np.float32)
        with _as_asked(self._device, self._threads):
            x = torch.from_numpy(np.require(images, requirements=["C", "W"])).to(self._device, self._dtype)
            logits: Logits = self._model(x).float().cpu().numpy()
        return logits

    def close(self) -> None:
        """Free the model's memory; harmless when repeated."""
        if self._owned:
            self._model.to("meta")


@contextlib.contextmanager
def _as_asked(device: torch.device, threads: int) -> Iterator[None]:
    """Hold the thread count and, on a GPU, full FP32 and one fixed algorithm, and put back what was there."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            if device.type == "cuda":
                # cuDNN takes TF32 for FP32 convolutions unless asked not to, and the table would still say FP32.
                exact = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
                stack.enter_context(exact)
            yield
    finally:
        torch.set_num_threads(before)

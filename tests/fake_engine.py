"""A test double: a linear classifier in NumPy that honours the engine contract where no runtime is installed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from edgeproof import register
from edgeproof.engines.base import (
    Closing,
    Engine,
    EngineInfo,
    EngineOptions,
    check_input,
    refuse_device,
    refuse_precision,
)
from edgeproof.errors import ModelError
from edgeproof.runs import sha256_file
from edgeproof.types import Images, Logits


@register("fake", kind="engine", suffixes=(".fake",), short="fake")
def open_fake(path: Path, *, device: str, options: EngineOptions) -> Engine:
    """A linear classifier in NumPy, for tests."""
    refuse_device(device, known=("cpu",), backend="fake")
    refuse_precision(options, active="fp32", backend="fake", path=path)
    return FakeEngine(path)


class FakeEngine(Closing):
    """JSON with `weights` (K, C, H, W), `classes` and, where wanted, `max_batch`; logits are the products with an image."""

    def __init__(self, path: Path) -> None:
        try:
            about = json.loads(path.read_text(encoding="utf-8"))
            self._weights = np.asarray(about["weights"], np.float32)
            channels, height, width = self._weights.shape[1:]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(
                f"{path} is not a fake engine ({error}); expected JSON with weights (K, C, H, W)"
            ) from error
        self._info = EngineInfo(
            backend="fake",
            precision="fp32",
            device="cpu",
            provider="numpy",
            input_shape=(channels, height, width),
            num_classes=len(self._weights),
            max_batch=about.get("max_batch"),
            sha256=sha256_file(path),
            versions={"numpy": np.__version__},
            note="a test double",
            classes=tuple(about.get("classes", ())),
        )

    @property
    def info(self) -> EngineInfo:
        """What is active."""
        return self._info

    def predict(self, images: Images) -> Logits:
        """Return logits (N, K), summed image by image so that the batch changes no bit."""
        check_input(self._info, images)
        logits: Logits = np.einsum("nchw,kchw->nk", images, self._weights, optimize=False)
        return logits

    def close(self) -> None:
        """There is nothing to free."""

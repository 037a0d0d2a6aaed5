"""The engine contract: what every deployed form of a model offers to evaluation. NumPy in, NumPy out, no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from toolkit.errors import DataError, ModelError
from toolkit.registry import entries, find
from toolkit.types import Images, Logits


@dataclass(frozen=True)
class EngineInfo:
    """What is ACTIVE, read back from the engine after it was opened, not what was asked for.

    Attributes:
        backend: Registry name, for instance "onnxruntime".
        precision: "fp32", "fp16", "bf16" or "int8": what the numbers are computed in (INT8 where Q/DQ nodes say so).
        device: "cpu" or "cuda:0".
        provider: The library's own name for what runs, for instance "CPUExecutionProvider".
        input_shape: (C, H, W).
        num_classes: K.
        max_batch: Largest batch of one call, or None for any.
        sha256: Of the file that was opened.
        versions: Library versions.
        note: One sentence on what the numbers do and do not show, or "".
        options: Threads, graph level and the like, as active.
    """

    backend: str
    precision: str
    device: str
    provider: str
    input_shape: tuple[int, int, int]
    num_classes: int
    max_batch: int | None
    sha256: str
    versions: Mapping[str, str]
    note: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EngineOptions:
    """What can be asked of any engine; an engine that cannot honour one raises.

    Attributes:
        threads: Processor threads, or None for all cores.
        optimize: Whether the runtime may optimise the graph.
        precision: Precision hint, for backends that choose one themselves (OpenVINO, PyTorch `.half()`).
    """

    threads: int | None = None
    optimize: bool = True
    precision: str | None = None


class Engine(Protocol):
    """A model opened for inference."""

    @property
    def info(self) -> EngineInfo:
        """What is active."""
        ...

    def predict(self, images: Images) -> Logits:
        """Return logits (N, K) as a fresh float32 array; synchronous; any N from 0 up to `info.max_batch`."""
        ...

    def close(self) -> None:
        """Free what the engine holds; harmless when repeated."""
        ...

    def __enter__(self) -> Engine: ...

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None: ...


#: An engine module registers `open(path, *, device, options) -> Engine` with `suffixes=(".onnx",)`.
OpenEngine = Callable[..., Engine]


def open_engine(
    path: Path, *, backend: str | None = None, device: str = "cpu", options: EngineOptions | None = None
) -> Engine:
    """Open a graph, plan or checkpoint for inference.

    Args:
        path: The file.
        backend: Registry name of the engine; by default the first one that reads this kind of file.
        device: "cpu" or "cuda" (or "cuda:1").
        options: What is asked of the engine.

    Raises:
        ConfigError: For an unknown backend.
        ModelError: For a file that is missing or that no engine reads.
        UnavailableError: When the backend, device or provider is not there. Nothing falls back.
    """
    if not path.is_file():
        raise ModelError(f"no model file at {path}; expected a .onnx graph, a .safetensors checkpoint or a .plan")
    if backend is None:
        readers = [entry for entry in entries("engine").values() if path.suffix in entry.options.get("suffixes", ())]
        readers.sort(key=lambda entry: -int(entry.options.get("priority", 0)))
        if not readers:
            raise ModelError(
                f"{path}: no engine reads {path.suffix or 'a file without suffix'}; name one with BACKEND:PATH"
            )
        entry = readers[0]
    else:
        entry = find("engine", backend)
        if path.suffix not in entry.options.get("suffixes", ()):
            raise ModelError(f"{path}: {backend} reads {', '.join(entry.options['suffixes'])}, not {path.suffix!r}")
    engine: Engine = entry.load()(path, device=device, options=options or EngineOptions())
    return engine


def check_input(info: EngineInfo, images: Images) -> None:
    """Refuse a batch that the engine cannot take.

    Raises:
        DataError: For a wrong shape, type or batch size.
    """
    if images.ndim != 4 or tuple(images.shape[1:]) != tuple(info.input_shape):
        wanted = ("N", *info.input_shape)
        raise DataError(f"{info.backend}: images have shape {images.shape}; expected ({', '.join(map(str, wanted))})")
    if images.dtype.name != "float32":
        raise DataError(f"{info.backend}: images are {images.dtype}; expected float32 in [0, 1]")
    if info.max_batch is not None and len(images) > info.max_batch:
        raise DataError(
            f"{info.backend}: a batch of {len(images)} is over the engine's {info.max_batch}; use --batch-size"
        )

"""The engine contract: what every deployed form of a model offers to evaluation. NumPy in, NumPy out, no torch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np

from edgeproof.errors import ConfigError, DataError, ModelError, PluginError
from edgeproof.onnx_files.summary import ONE_NUMBER, Signature
from edgeproof.plugins.registry import Entry, entries, find
from edgeproof.system.optional import require
from edgeproof.system.out_of_memory import BatchSize, in_pieces
from edgeproof.system.untrusted import read_json
from edgeproof.types import Images, Logits

E = TypeVar("E", bound="Closing")


@dataclass(frozen=True)
class EngineInfo:
    """The ACTIVE settings, read back from the engine after it was opened, not what was asked for.

    Attributes:
        backend: Registry name, for instance "onnxruntime".
        precision: "fp32", "fp16", "bf16", "int8", "mixed" and the like: what the numbers are computed in, as the graph says.
        device: "cpu" or "cuda:0".
        provider: The library's own name for what runs, for instance "CPUExecutionProvider".
        input_shape: (C, H, W).
        num_classes: K.
        max_batch: Largest batch of one call, or None for any.
        sha256: Of the file that was opened, and of what belongs to it.
        versions: Library versions.
        note: One sentence on what the numbers do and do not show, or "".
        options: Threads, graph level and the like, as active.
        classes: The class names that the file carries, or ().
        made_from: The hash of each checkpoint and graph that the file was made from, as far as recorded.
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
    classes: tuple[str, ...] = ()
    made_from: tuple[str, ...] = ()


@dataclass(frozen=True)
class EngineOptions:
    """The requests that any engine understands; an engine that cannot honour one raises.

    Attributes:
        threads: Processor threads, or None for all cores.
        optimize: Whether the runtime may optimise the graph.
        precision: Precision hint, for backends that choose one themselves (OpenVINO, PyTorch `.half()`).
        mode: "latency" answers one batch on all threads; "throughput" spreads it over several streams (OpenVINO).
        output: Which output holds the scores of the classes, where a graph has several.
    """

    threads: int | None = None
    optimize: bool = True
    precision: str | None = None
    mode: str = "latency"
    output: str | None = None


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


@dataclass(frozen=True)
class Kernel:
    """One convolution or matrix product as the runtime executes it."""

    operator: str
    integer: bool


@runtime_checkable
class ShowsKernels(Protocol):
    """An engine that can say which arithmetic each of its convolutions and matrix products runs in."""

    def kernels(self) -> tuple[Kernel, ...]:
        """Return the convolutions and matrix products as executed, after the runtime's own optimisation."""
        ...


class Closing:
    """`with` for an engine: it is closed at the end of the block."""

    def close(self) -> None:
        """Free what the engine holds."""
        raise NotImplementedError

    def __enter__(self: E) -> E:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_engine(
    path: Path, *, backend: str | None = None, device: str = "cpu", options: EngineOptions | None = None
) -> Engine:
    """Open a graph, plan or checkpoint for inference.

    An engine module registers `open(path, *, device, options) -> Engine` with the literals `suffixes` (what it reads) and, where
    they are wanted, `short` (its name in tables), `module` and `extra` (the package that it needs, and which extra of ours installs
    it), `priority` where two read the same suffix, and `modes` when it knows more than latency.

    Args:
        path: The file.
        backend: Registry name of the engine, or its short one; by default the first one that reads this kind of file.
        device: "cpu" or "cuda" (or "cuda:1").
        options: What is asked of the engine.

    Raises:
        ConfigError: For an unknown backend.
        ModelError: For a file that is missing or that no engine reads.
        UnavailableError: When the backend, device or provider is not there. Nothing falls back.
    """
    if not path.is_file():
        raise ModelError(f"no model file at {path}; expected a .onnx graph, a .safetensors checkpoint or a .plan")
    entry = find_backend(backend) if backend else reader_of(path)
    suffixes = entry.options["suffixes"]
    if path.suffix not in suffixes:
        raise ModelError(
            f"{path}: {entry.name} reads {', '.join(suffixes)}, not {path.suffix or 'a file without suffix'}"
        )
    if module := entry.options.get("module"):
        require(module, extra=entry.options.get("extra"), purpose=f"open {path} with {entry.name}")
    options = options or EngineOptions()
    modes = entry.options.get("modes", ("latency",))
    if options.mode not in modes:
        raise ConfigError(f"{entry.name} knows the modes {', '.join(modes)}, not {options.mode!r}")
    engine: Engine = entry.load()(path, device=device, options=options)
    if not entry.own:
        _check_engine(engine, entry)
    return engine


def _check_engine(engine: Any, entry: Entry) -> None:
    """Refuse what a plug-in has opened, where it is no engine."""
    lacking = [name for name in ("info", "predict", "close", "__enter__", "__exit__") if not hasattr(engine, name)]
    if lacking:
        raise PluginError(
            f"plug-in {entry.file or entry.module}: engine {entry.name!r} opened a {type(engine).__name__} without {lacking[0]!r}; "
            "expected an Engine, see docs/extending.md"
        )
    if not isinstance(engine.info, EngineInfo) or engine.info.backend != entry.name:
        raise PluginError(
            f"plug-in {entry.file or entry.module}: the info of engine {entry.name!r} is {engine.info!r:.200}; expected an EngineInfo "
            f"with backend = {entry.name!r}"
        )


def find_backend(name: str) -> Entry:
    """Return the engine of that registry name or short name ("ort" for "onnxruntime").

    Raises:
        ConfigError: When there is none.
    """
    short = {entry.options["short"]: entry for entry in entries("engine").values()}
    return short[name] if name in short else find("engine", name)


def reader_of(path: Path) -> Entry:
    """Return the engine that reads this kind of file, the one of highest priority.

    Raises:
        ModelError: When none does.
    """
    readers = [entry for entry in entries("engine").values() if path.suffix in entry.options["suffixes"]]
    if path.suffix == ".gz":
        raise ModelError(f"{path} is compressed; unpack it with gunzip and name what comes out")
    if not readers:
        known = sorted({suffix for entry in entries("engine").values() for suffix in entry.options["suffixes"]})
        raise ModelError(
            f"{path}: no engine reads {path.suffix or 'a file without suffix'}; expected {', '.join(known)}"
        )
    return max(readers, key=lambda entry: int(entry.options.get("priority", 0)))


def predict_all(
    engine: Engine, images: Images, *, batch_size: int | BatchSize, advance: Callable[[int], object] | None = None
) -> Logits:
    """Return the logits (N, K) of any number of images, in batches that the engine can take.

    Args:
        engine: The engine.
        images: (N, C, H, W) float32 in [0, 1].
        batch_size: Images per call; an engine with a smaller `max_batch` gets that many, and half of them where memory runs
            out. A `BatchSize` remembers that for the next call.
        advance: Called after each batch with its size.

    Raises:
        DataError: For images that the engine cannot take.
        ModelError: When the engine gives another shape than it promises.
    """
    info = engine.info
    check_input(replace(info, max_batch=None), images)
    size = batch_size if isinstance(batch_size, BatchSize) else BatchSize(batch_size)
    size.images = min(size.images, info.max_batch or size.images)
    logits = np.empty((len(images), info.num_classes), np.float32)

    def run(start: int, stop: int) -> None:
        batch = images[start:stop]
        part = engine.predict(batch)
        if part.shape != (len(batch), info.num_classes):
            raise ModelError(
                f"{info.backend} gave logits of shape {part.shape} for {len(batch)} images; "
                f"expected ({len(batch)}, {info.num_classes})"
            )
        logits[start:stop] = part
        if advance:
            advance(len(batch))

    in_pieces(len(images), size, run)
    return logits


def made_from(path: Path, metadata: Mapping[str, Any], sha256: str) -> tuple[str, ...]:
    """Return the hash of each checkpoint and graph that a file was made from, by its own metadata and the record of its export.

    Args:
        path: The file.
        metadata: Its metadata, keys with or without our prefix.
        sha256: Its hash; a `parity.json` next to the file that does not list it is of other files.
    """
    known = {key.removeprefix("edgeproof."): value for key, value in metadata.items()}
    found = [known.get(key) for key in ("checkpoint_sha256", "source_sha256", "graph_sha256")]
    with contextlib.suppress(DataError):  # graphs of earlier versions have the checkpoint in the export's record only
        record = read_json(path.with_name("parity.json"))
        graphs = record.get("graphs") if isinstance(record, dict) else None
        if isinstance(graphs, list) and any(isinstance(each, dict) and each.get("sha256") == sha256 for each in graphs):
            found.append(record.get("checkpoint_sha256"))
    return tuple(dict.fromkeys(each for each in found if isinstance(each, str) and each))


def refuse_precision(options: EngineOptions, *, active: str, backend: str, path: Path) -> None:
    """Refuse a precision hint that differs from the precision that a file fixes.

    Raises:
        ConfigError: When another one is asked for.
    """
    if options.precision not in (None, active):
        raise ConfigError(
            f"{backend} runs {path} in {active}, as the graph says; {options.precision!r} cannot be asked of it: "
            f"export that precision and name its file"
        )


def refuse_device(device: str, *, known: tuple[str, ...], backend: str) -> None:
    """Refuse a device that an engine does not know.

    Raises:
        ConfigError: For another kind of device.
    """
    kind = device.partition(":")[0]
    if kind not in known:
        raise ConfigError(f"{backend} knows the devices {', '.join(known)}, not {device!r}")


def settle(signature: Signature, run: Callable[[Images], Logits], *, path: Path) -> Signature:
    """Run a graph on black images, and return its signature with what the file leaves open.

    That is the number of classes, and whether it takes several images per call: converters write graphs that say any batch
    and hold a batch of 1 inside.

    Raises:
        ModelError: When it cannot be run, or gives one number an image.
    """

    def rows(batch: int) -> Logits:
        return run(np.zeros((batch, *signature.input_shape), np.float32))

    batch, logits = signature.batch, None
    if batch is None:
        with contextlib.suppress(ModelError):
            logits = rows(2)
    if logits is None or len(logits) != (batch or 2):
        batch = batch or 1
        logits = rows(batch)
    if len(logits) != (batch or 2):
        raise ModelError(f"{path} gives {logits.shape} for {batch or 2} images; expected a row for each")
    if logits.shape[1] < 2:
        raise ModelError(f"{path}: its output {signature.output!r} is {ONE_NUMBER}")
    return replace(signature, num_classes=logits.shape[1], batch=batch)


def check_input(info: EngineInfo, images: Images) -> None:
    """Refuse a batch that the engine cannot take.

    Raises:
        DataError: For a wrong shape, type or batch size.
    """
    if images.ndim != 4 or tuple(images.shape[1:]) != tuple(info.input_shape):
        wanted = ("N", *info.input_shape)
        raise DataError(f"{info.backend}: images have shape {images.shape}; expected ({', '.join(map(str, wanted))})")
    if images.dtype != np.float32:
        raise DataError(f"{info.backend}: images are {images.dtype}; expected float32 in [0, 1]")
    if info.max_batch is not None and len(images) > info.max_batch:
        raise DataError(
            f"{info.backend}: a batch of {len(images)} is over the engine's {info.max_batch}; use --batch-size"
        )


def pad_batch(images: Images, size: int | None) -> Images:
    """Repeat the last image until the batch has `size` rows; None leaves it as it is."""
    if size is None or len(images) == size:
        return images
    return np.concatenate([images, np.repeat(images[-1:], size - len(images), axis=0)])

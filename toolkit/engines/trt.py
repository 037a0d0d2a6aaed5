"""TensorRT 10 and 11: a plan, run by named tensors and `execute_async_v3` on one stream.

A plan belongs to one GPU model and one TensorRT version. What it was built for stands in the JSON file next to it, which is read
first, so that a foreign plan is refused in one sentence rather than by TensorRT's codes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeproof.engines.base import (
    Closing,
    Engine,
    EngineInfo,
    EngineOptions,
    check_input,
    made_from,
    pad_batch,
    refuse_device,
)
from edgeproof.engines.cuda_memory import CudaMemory, open_cuda_memory
from edgeproof.errors import ConfigError, ModelError, UnavailableError
from edgeproof.onnx_files.summary import ValueInfo, choose_output
from edgeproof.plugins.registry import register
from edgeproof.runs import sha256_file
from edgeproof.types import Images, Logits

if TYPE_CHECKING:
    import tensorrt as trt


@register("tensorrt", suffixes=(".plan", ".engine"), short="trt", module="tensorrt", extra="tensorrt")
def open_tensorrt(path: Path, *, device: str, options: EngineOptions) -> Engine:
    """TensorRT on a plan; its precision was fixed when the plan was built."""
    refuse_device(device, known=("cuda",), backend="tensorrt")
    return TensorRtEngine(path, memory=open_cuda_memory(device), device=device, options=options)


@dataclass(frozen=True)
class _Tensors:
    """The plan's input and output and the batches of its optimisation profile."""

    input: str
    output: str
    input_shape: tuple[int, int, int]
    num_classes: int
    min_batch: int
    max_batch: int


class TensorRtEngine(Closing):
    """A plan with its execution context and device buffers."""

    def __init__(self, path: Path, *, memory: CudaMemory, device: str, options: EngineOptions) -> None:
        import tensorrt as trt

        about = _read_sidecar(path)
        _check_origin(path, about, version=trt.__version__, memory=memory)
        self._memory = memory
        self._log = _recorder()
        self._runtime: trt.Runtime | None = trt.Runtime(self._log)  # has to outlive what it opens
        engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if engine is None:
            raise ModelError(
                f"TensorRT {trt.__version__} cannot open {path}: {self._log.said()}; build the plan again here"
            )
        self._tensors = _read_tensors(path, engine, output=options.output)
        self._engine: trt.ICudaEngine | None = engine
        self._context: trt.IExecutionContext | None = engine.create_execution_context()
        self._info = _describe(path, about, self._tensors, memory=memory, device=device)
        if options.precision not in (None, self._info.precision):
            raise ConfigError(
                f"{path} was built as {self._info.precision}; {options.precision!r} cannot be asked of it: build another plan"
            )

    @property
    def info(self) -> EngineInfo:
        """What is active."""
        return self._info

    def predict(self, images: Images) -> Logits:
        """Return logits (N, K) of images (N, C, H, W) in [0, 1]; fewer than the profile's smallest batch are padded.

        Raises:
            DataError: For images that the plan does not take.
            ModelError: When TensorRT fails on them.
        """
        check_input(self._info, images)
        tensors = self._tensors
        if not len(images):
            return np.empty((0, tensors.num_classes), np.float32)
        batch = np.ascontiguousarray(pad_batch(images, max(tensors.min_batch, len(images))))
        logits = np.empty((len(batch), tensors.num_classes), np.float32)
        source = self._memory.reserve("input", batch.nbytes)
        target = self._memory.reserve("output", logits.nbytes)
        self._memory.upload("input", batch)
        self._launch(source, target, count=len(batch))
        self._memory.download("output", logits)
        return logits[: len(images)]

    def _launch(self, source: int, target: int, *, count: int) -> None:
        context, tensors = self._context, self._tensors
        if context is None:
            raise ModelError("the TensorRT engine has been closed; open it again")
        ready = (
            context.set_input_shape(tensors.input, (count, *tensors.input_shape))
            and context.set_tensor_address(tensors.input, source)
            and context.set_tensor_address(tensors.output, target)
        )
        if not ready or not context.execute_async_v3(self._memory.stream):
            raise ModelError(f"TensorRT failed on a batch of {count} images: {self._log.said()}")

    def close(self) -> None:
        """Free the context, the plan, the runtime and the buffers, in this order; harmless when repeated."""
        self._context = None
        self._engine = None
        self._runtime = None
        self._memory.close()


def _read_sidecar(path: Path) -> Mapping[str, Any]:
    """Read the description that the builder has written next to a plan; {} where there is none."""
    file = path.with_name(path.name + ".json")
    if not file.is_file():
        return {}
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} cannot be read as JSON ({error}); build the plan again") from error
    return about if isinstance(about, dict) else {}


def _check_origin(path: Path, about: Mapping[str, Any], *, version: str, memory: CudaMemory) -> None:
    """Refuse a plan of another GPU or TensorRT version, or one that is not the file that was described."""
    built_with, built_for = about.get("tensorrt", version), about.get("compute_capability", memory.compute_capability)
    again = "build it on this machine from its ONNX graph: edgeproof export --from GRAPH.onnx --target tensorrt"
    if built_with != version:
        raise UnavailableError(f"{path} was built with TensorRT {built_with} and this is {version}; {again}")
    if built_for != memory.compute_capability:
        raise UnavailableError(
            f"{path} was built for {about.get('gpu', 'a GPU')} (compute capability {built_for}) and this is {memory.gpu} "
            f"({memory.compute_capability}); {again}"
        )
    if about.get("plan_sha256", sha256_file(path)) != sha256_file(path):
        raise ModelError(f"{path} is not the plan that {path.name}.json describes (SHA-256 differs); {again}")


def _recorder() -> Any:
    """Return a logger that keeps errors, since TensorRT logs them and raises nothing."""
    import tensorrt as trt

    class Recorder(trt.ILogger):  # type: ignore[misc]  # the class of an optional package
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(" ".join(msg.split()))

        def said(self) -> str:
            return self.errors[-1] if self.errors else "no reason given"

    return Recorder()


def _read_tensors(path: Path, engine: trt.ICudaEngine, *, output: str | None) -> _Tensors:
    """Read the plan's input and output; refuse anything but float32 NCHW images to (N, K) logits."""
    import tensorrt as trt

    names = [engine.get_tensor_name(number) for number in range(engine.num_io_tensors)]
    inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    outputs = [name for name in names if name not in inputs]
    if len(inputs) != 1 or not outputs:
        raise ModelError(
            f"{path} has the inputs {inputs} and outputs {outputs}; expected one input, images (N, C, H, W)"
        )
    given, known = inputs[0], {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16"}
    found = {name: (engine.get_tensor_dtype(name).name, _sizes(engine.get_tensor_shape(name))) for name in outputs}
    values = [ValueInfo(name, known.get(kind, kind.lower()), tuple(sizes)) for name, (kind, sizes) in found.items()]
    result = choose_output(values, output, where=str(path)).name
    shape, sizes = _sizes(engine.get_tensor_shape(given)), _sizes(engine.get_tensor_shape(result))
    kinds = engine.get_tensor_dtype(given), engine.get_tensor_dtype(result)
    if len(shape) != 4 or len(sizes) != 2 or kinds != (trt.DataType.FLOAT, trt.DataType.FLOAT):
        raise ModelError(
            f"{path} takes {kinds[0].name} {shape} and gives {kinds[1].name} {sizes}; "
            f"expected FLOAT (N, C, H, W) and FLOAT (N, K): keep float32 inputs and outputs when converting to FP16"
        )
    low, high = shape[0], shape[0]
    if shape[0] < 0:
        smallest, _, largest = engine.get_tensor_profile_shape(given, 0)
        low, high = _sizes(smallest)[0], _sizes(largest)[0]
    return _Tensors(given, result, (shape[1], shape[2], shape[3]), sizes[1], low, high)


def _describe(
    path: Path, about: Mapping[str, Any], tensors: _Tensors, *, memory: CudaMemory, device: str
) -> EngineInfo:
    import tensorrt as trt

    metadata = {str(key).removeprefix("edgeproof."): value for key, value in about.get("metadata", {}).items()}
    sha256 = sha256_file(path)
    notes = [] if about else [f"nothing next to the plan says what it was built from; expected {path.name}.json"]
    if tensors.min_batch > 1:
        notes.append(f"batches under {tensors.min_batch} are padded")
    return EngineInfo(
        backend="tensorrt",
        precision=str(metadata.get("precision", "unknown")),
        device=device if ":" in device else f"{device}:0",
        provider=memory.gpu,
        input_shape=tensors.input_shape,
        num_classes=tensors.num_classes,
        max_batch=tensors.max_batch,
        sha256=sha256,
        versions={"tensorrt": trt.__version__},
        note="; ".join(notes),
        options={
            "compute_capability": memory.compute_capability,
            "batch": [tensors.min_batch, tensors.max_batch],
            "buffers": type(memory).__name__,
            "output": tensors.output,
            "source_sha256": about.get("source_sha256"),
        },
        classes=tuple(json.loads(metadata["classes"])) if "classes" in metadata else (),
        made_from=made_from(path, {**metadata, "graph_sha256": about.get("source_sha256")}, sha256),
    )


def _sizes(dims: trt.Dims) -> list[int]:
    return [int(dims[place]) for place in range(len(dims))]

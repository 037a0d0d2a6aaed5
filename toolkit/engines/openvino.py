"""OpenVINO on the CPU. Its default precision is bf16 where the processor has it, so the precision is always set and read back."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from edgeproof.engines.base import (
    Closing,
    Engine,
    EngineInfo,
    EngineOptions,
    Kernel,
    check_input,
    made_from,
    pad_batch,
    refuse_device,
    settle,
)
from edgeproof.engines.openvino_ir import read_ir
from edgeproof.errors import ConfigError, ModelError, UnavailableError
from edgeproof.onnx_files import GraphSummary, Signature, hash_model, read_onnx
from edgeproof.plugins.registry import register
from edgeproof.system.environment import package_version, usable_cores
from edgeproof.system.optional import require
from edgeproof.types import Images, Logits

_HINTS = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}
_PRODUCTS = ("Convolution", "GroupConvolution", "FullyConnected", "MatMul", "Gemm")


@register(
    "openvino",
    suffixes=(".onnx", ".xml"),
    short="ov",
    module="openvino",
    extra="openvino",
    priority=1,
    modes=("latency", "throughput"),
)
def open_openvino(path: Path, *, device: str, options: EngineOptions) -> Engine:
    """OpenVINO on the CPU: FP32, INT8 graphs, and FP16 or BF16 arithmetic where the processor has it."""
    refuse_device(device, known=("cpu",), backend="openvino")
    return OpenVinoEngine(path, options=options)


class OpenVinoEngine(Closing):
    """An ONNX graph, or OpenVINO's own form of one, compiled for the CPU."""

    def __init__(self, path: Path, *, options: EngineOptions) -> None:
        summary = read_ir(path) if path.suffix == ".xml" else read_onnx(path)
        said = summary.signature(path, output=options.output)
        compiled = _compile(path, options=options)
        self._request: Any = compiled.create_infer_request()
        self._signature = settle(said, partial(_run, self._request, said), path=path)
        self._info = _describe(path, summary, self._signature, compiled)
        self._queue: Any = _queue(compiled) if options.mode == "throughput" else None

    @property
    def info(self) -> EngineInfo:
        """What is active."""
        return self._info

    def predict(self, images: Images) -> Logits:
        """Return logits (N, K) of images (N, C, H, W) in [0, 1].

        Raises:
            DataError: For images that the graph does not take.
            ModelError: When OpenVINO fails on them.
        """
        check_input(self._info, images)
        if not len(images):
            return np.empty((0, self._info.num_classes), np.float32)
        batch = pad_batch(images, self._signature.batch)
        if self._queue is not None and self._signature.batch is None:
            return _run_spread(self._queue, self._signature, batch, classes=self._info.num_classes)
        return _run(self._request, self._signature, batch)[: len(images)]

    def kernels(self) -> tuple[Kernel, ...]:
        """Return the convolutions and matrix products of the compiled model."""
        nodes = [node.get_rt_info() for node in self._request.get_compiled_model().get_runtime_model().get_ops()]
        found = [(info["layerType"].value, info["runtimePrecision"].value) for info in nodes if "layerType" in info]
        return tuple(Kernel(name, kind.lower() in ("i8", "u8")) for name, kind in found if name in _PRODUCTS)

    def close(self) -> None:
        """Free the compiled model; harmless when repeated."""
        self._request = self._queue = None


def _queue(compiled: Any) -> Any:
    """Return as many requests as there are streams."""
    openvino = require("openvino", extra="openvino", purpose="spread a batch over streams")
    return openvino.AsyncInferQueue(compiled)


def _compile(path: Path, *, options: EngineOptions) -> Any:
    """Compile for the CPU, and refuse when another arithmetic than the one asked for is active."""
    if not options.optimize:
        raise ConfigError("openvino always optimises its graphs; use onnxruntime to see one without optimisation")
    wanted = options.precision or "fp32"
    if wanted not in _HINTS:
        raise ConfigError(f"openvino computes in {', '.join(_HINTS)}, not {wanted!r}; INT8 is a property of the graph")
    openvino = require("openvino", extra="openvino", purpose=f"open {path}")
    settings = {
        "INFERENCE_PRECISION_HINT": _HINTS[wanted],
        "INFERENCE_NUM_THREADS": options.threads or usable_cores(),
        "PERFORMANCE_HINT": options.mode.upper(),
    }
    try:
        core = openvino.Core()
        compiled = core.compile_model(core.read_model(path), "CPU", settings)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ModelError(f"{path}: OpenVINO cannot open this graph: {reason}") from error
    if (active := _arithmetic(compiled)) != wanted:
        raise UnavailableError(
            f"openvino was asked for {wanted} and computes in {active} on this processor; ask for {active}"
        )
    return compiled


def _arithmetic(compiled: Any) -> str:
    name = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    return next(precision for precision, hint in _HINTS.items() if hint == name)


def _run(request: Any, signature: Signature, batch: Images) -> Logits:
    try:
        logits: Logits = request.infer({signature.input: batch}, share_inputs=True)[signature.output]
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ModelError(f"OpenVINO failed on a batch of {len(batch)} images: {reason}") from error
    if logits.ndim != 2 or logits.dtype != np.float32:
        raise ModelError(
            f"output {signature.output!r} is {logits.dtype} {logits.shape}; expected float32 logits ({len(batch)}, K)"
        )
    return logits


def _run_spread(queue: Any, signature: Signature, batch: Images, *, classes: int) -> Logits:
    """Run the parts of a batch at once, one per stream."""
    logits = np.empty((len(batch), classes), np.float32)

    def keep(request: Any, rows: slice) -> None:
        logits[rows] = request.get_tensor(signature.output).data

    queue.set_callback(keep)
    bounds = np.linspace(0, len(batch), min(len(queue), len(batch)) + 1).astype(int)
    try:
        for start, stop in pairwise(bounds.tolist()):
            queue.start_async({signature.input: batch[start:stop]}, slice(start, stop))
        queue.wait_all()
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ModelError(f"OpenVINO failed on a batch of {len(batch)} images: {reason}") from error
    return logits


def _describe(path: Path, summary: GraphSummary, signature: Signature, compiled: Any) -> EngineInfo:
    arithmetic, sha256 = _arithmetic(compiled), hash_model(path)
    notes = []
    if summary.precision == "int8":
        notes.append(f"INT8 between Q/DQ nodes, the rest in {arithmetic.upper()}")
    elif summary.precision != arithmetic:
        notes.append(f"weights stored as {summary.precision.upper()}, arithmetic in {arithmetic.upper()}")
    if signature.batch:
        notes.append(f"the graph has a fixed batch of {signature.batch}: smaller ones are padded")
    return EngineInfo(
        backend="openvino",
        # Weights that were rounded to FP16 stay so in FP32 arithmetic; BF16 arithmetic rounds whatever it is given.
        precision=summary.precision if summary.precision == "int8" or arithmetic == "fp32" else arithmetic,
        device="cpu",
        provider=str(compiled.get_property("EXECUTION_DEVICES")[0]),
        input_shape=signature.input_shape,
        num_classes=signature.num_classes or 0,
        max_batch=signature.batch,
        sha256=sha256,
        versions={"openvino": package_version("openvino") or "unknown"},
        note="; ".join(notes),
        options={
            "threads": int(compiled.get_property("INFERENCE_NUM_THREADS")),
            "inference_precision": arithmetic,
            "performance_hint": str(compiled.get_property("PERFORMANCE_HINT")),
            "output": signature.output,
            "streams": int(compiled.get_property("NUM_STREAMS")),
        },
        classes=summary.classes,
        made_from=made_from(path, summary.metadata, sha256),
    )

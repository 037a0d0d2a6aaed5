"""ONNX Runtime: the CPU provider, CUDA, and TensorRT through its provider (which links TensorRT 10).

ONNX Runtime, asked for a provider that it cannot load, warns and runs on the CPU. Here the fallback is switched off and the
active providers are read back: what was asked for runs, or opening fails.
"""

from __future__ import annotations

import json
import tempfile
from functools import partial
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
    refuse_precision,
    settle,
)
from edgeproof.errors import ModelError, UnavailableError
from edgeproof.onnx_files import GraphSummary, Signature, hash_model, read_onnx
from edgeproof.plugins.registry import register
from edgeproof.system.environment import package_version, usable_cores
from edgeproof.system.optional import require
from edgeproof.types import Images, Logits

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"

_PRODUCTS = ("Conv", "Gemm", "MatMul")
_NOTES = {
    (CPU, "fp16"): "weights rounded to FP16, arithmetic in FP32 on this provider",
    (CUDA, "int8"): "INT8 rounding by Q/DQ nodes, arithmetic in floating point on this provider",
}


@register("onnxruntime", suffixes=(".onnx",), short="ort", module="onnxruntime", extra="cpu", priority=2)
def open_onnxruntime(path: Path, *, device: str, options: EngineOptions) -> Engine:
    """ONNX Runtime on the CPU or, with device cuda, its CUDA provider."""
    refuse_device(device, known=("cpu", "cuda"), backend="onnxruntime")
    return OnnxRuntimeEngine(path, provider=CPU if device == "cpu" else CUDA, device=device, options=options)


@register("onnxruntime-tensorrt", suffixes=(".onnx",), short="ort-trt", module="onnxruntime", extra="gpu")
def open_onnxruntime_tensorrt(path: Path, *, device: str, options: EngineOptions) -> Engine:
    """ONNX Runtime's TensorRT provider; it builds a TensorRT 10 plan when it opens a graph."""
    refuse_device(device, known=("cuda",), backend="onnxruntime-tensorrt")
    return OnnxRuntimeEngine(path, provider=TENSORRT, device=device, options=options)


class OnnxRuntimeEngine(Closing):
    """An ONNX graph in an ONNX Runtime session on exactly one provider."""

    def __init__(self, path: Path, *, provider: str, device: str, options: EngineOptions) -> None:
        summary = read_onnx(path)
        said = summary.signature(path, output=options.output)
        refuse_precision(options, active=summary.precision, backend="onnxruntime", path=path)
        self._session: Any = open_session(path, provider=provider, device=device, options=options)
        self._profiled = partial(open_session, path, provider=provider, device=device, options=options)
        self._signature = settle(said, partial(_run, self._session, said), path=path)
        self._info = _describe(path, summary, self._signature, self._session, device=device)

    @property
    def info(self) -> EngineInfo:
        """What is active."""
        return self._info

    def predict(self, images: Images) -> Logits:
        """Return logits (N, K) of images (N, C, H, W) in [0, 1].

        Raises:
            DataError: For images that the graph does not take.
            ModelError: When ONNX Runtime fails on them.
        """
        check_input(self._info, images)
        if not len(images):
            return np.empty((0, self._info.num_classes), np.float32)
        batch = pad_batch(images, self._signature.batch)
        return _run(self._session, self._signature, batch)[: len(images)]

    def kernels(self) -> tuple[Kernel, ...]:
        """Run a black image in a profiled session of the same options, and return its convolutions and matrix products."""
        image = np.zeros((self._signature.batch or 1, *self._signature.input_shape), np.float32)
        with tempfile.TemporaryDirectory() as folder:
            session = self._profiled(profile=Path(folder) / "profile")
            _run(session, self._signature, image)
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        ran = [event for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")]
        operators = [event["args"]["op_name"] for event in ran]
        return tuple(Kernel(name, _is_integer(name)) for name in operators if any(word in name for word in _PRODUCTS))

    def close(self) -> None:
        """Free the session; harmless when repeated."""
        self._session = None


def _is_integer(operator: str) -> bool:
    return operator.startswith(("QLinear", "QGemm", "ConvInteger", "MatMulInteger", "DynamicQuantizeMatMul"))


def open_session(path: Path, *, provider: str, device: str, options: EngineOptions, profile: Path | None = None) -> Any:
    runtime = require("onnxruntime", extra="cpu" if provider == CPU else "gpu", purpose=f"open {path}")
    offered = runtime.get_available_providers()
    if provider not in offered:
        raise UnavailableError(
            f"{provider} was asked for (device {device!r}) and this onnxruntime offers only {', '.join(offered)}; "
            f"uninstall onnxruntime and install edgeproof[gpu]"
        )
    chosen = _session_options(runtime, provider, options)
    if profile:
        chosen.enable_profiling, chosen.profile_file_prefix = True, str(profile)
    try:
        # Its own retry on other providers, which it announces on stdout, is switched off as well.
        session = runtime.InferenceSession(str(path), chosen, providers=_providers(provider, device), enable_fallback=0)
    except Exception as error:  # the runtime's own exceptions have no common root below Exception
        reason = str(error).splitlines()[0].rstrip(".")
        if provider == CPU:
            raise ModelError(f"{path}: ONNX Runtime {runtime.__version__} cannot open this graph: {reason}") from error
        raise UnavailableError(
            f"{provider} cannot run all of {path} on {device}: {reason}; are its libraries installed? see `edgeproof doctor`"
        ) from error
    if session.get_providers()[0] != provider:
        raise UnavailableError(
            f"{provider} was asked for and {session.get_providers()[0]} is active: its libraries cannot be loaded; "
            f"see `edgeproof doctor`"
        )
    return session


def _session_options(runtime: Any, provider: str, options: EngineOptions) -> Any:
    chosen = runtime.SessionOptions()
    levels = runtime.GraphOptimizationLevel
    chosen.graph_optimization_level = levels.ORT_ENABLE_ALL if options.optimize else levels.ORT_DISABLE_ALL
    chosen.intra_op_num_threads = options.threads or usable_cores()
    chosen.log_severity_level = (
        4  # errors are raised too, and on stderr a graph's names would reach the terminal as they are
    )
    # Several engines are open at once: one that spins after its turn takes the cores from the next.
    chosen.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if provider != CPU:
        chosen.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    return chosen


def _providers(provider: str, device: str) -> list[tuple[str, dict[str, str]]]:
    if provider == CPU:
        return [(CPU, {})]
    number = device.partition(":")[2] or "0"
    # TF32 would give FP32 graphs ten bits of mantissa, and the table would still say FP32.
    cuda = (CUDA, {"device_id": number, "use_tf32": "0"})
    return [cuda] if provider == CUDA else [(TENSORRT, {"device_id": number}), cuda]


def _run(session: Any, signature: Signature, batch: Images) -> Logits:
    try:
        logits: Logits = session.run([signature.output], {signature.input: batch})[0]
    except Exception as error:  # the runtime's own exceptions have no common root below Exception
        reason = str(error).splitlines()[0].rstrip(".")
        raise ModelError(f"ONNX Runtime failed on a batch of {len(batch)} images: {reason}") from error
    if logits.ndim != 2 or logits.dtype != np.float32:
        raise ModelError(
            f"output {signature.output!r} is {logits.dtype} {logits.shape}; expected float32 logits ({len(batch)}, K)"
        )
    return logits


def _describe(path: Path, summary: GraphSummary, signature: Signature, session: Any, *, device: str) -> EngineInfo:
    providers = session.get_providers()
    number = device.partition(":")[2] or "0"
    notes = [_NOTES.get((providers[0], summary.precision), "")]
    sha256 = hash_model(path)
    if signature.batch:
        notes.append(f"the graph has a fixed batch of {signature.batch}: smaller ones are padded")
    return EngineInfo(
        backend="onnxruntime" if providers[0] != TENSORRT else "onnxruntime-tensorrt",
        precision=summary.precision,
        device="cpu" if providers[0] == CPU else f"cuda:{number}",
        provider=providers[0],
        input_shape=signature.input_shape,
        num_classes=signature.num_classes or 0,
        max_batch=signature.batch,
        sha256=sha256,
        versions={"onnxruntime": package_version("onnxruntime") or package_version("onnxruntime-gpu") or "unknown"},
        note="; ".join(note for note in notes if note),
        options={
            "threads": session.get_session_options().intra_op_num_threads,
            "graph_optimization": session.get_session_options().graph_optimization_level.name,
            "providers": providers,
            "output": signature.output,
            "provider_options": session.get_provider_options()[providers[0]],
        },
        classes=summary.classes,
        made_from=made_from(path, summary.metadata, sha256),
    )

"""An ONNX graph to a TensorRT plan (TensorRT 10 and 11), on the device that will run it and without torch or onnx.

The network is strongly typed: precision is in the graph (FP16 weights, Q/DQ nodes), so there is no precision flag and no
calibrator, both of which TensorRT 11 has removed. TF32 is switched off, or FP32 would not mean FP32.
"""

from __future__ import annotations

import ctypes
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeproof.export.base import ExportError, MissingDeviceError
from edgeproof.onnx_files import hash_model
from edgeproof.system.files import sha256_file

if TYPE_CHECKING:
    import tensorrt as trt

SCHEMA_VERSION = 1
_OLDEST = 10


@dataclass(frozen=True)
class PlanSettings:
    """How a plan is built.

    Attributes:
        batch: Smallest, most frequent and largest number of images a call; the second is what TensorRT tunes for.
        workspace_bytes: Scratch memory that a layer may use.
        optimization_level: 0 (quick build) to 5 (quick plan).
        timing_cache: File with measured kernel times, read when it is there and written afterwards; the same cache gives
            the same choice of kernels.
        locked: Fail when the cache lacks a time, instead of measuring; the cache is then not written.
    """

    batch: tuple[int, int, int] = (1, 32, 256)
    workspace_bytes: int = 1 << 30
    optimization_level: int = 3
    timing_cache: Path | None = None
    locked: bool = False


def sidecar(plan: Path) -> Path:
    """Return the path of the JSON file that describes a plan."""
    return plan.with_name(plan.name + ".json")


def build_plan(
    src: Path, dst: Path, *, settings: PlanSettings | None = None, metadata: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Build a plan for this machine's GPU and describe it in a JSON file beside it.

    Args:
        src: The ONNX graph, one float32 input (N, C, H, W) with N free.
        dst: The plan to write.
        settings: How it is built.
        metadata: The graph's own, repeated in the description, so that it is found without reading the graph.

    Returns:
        What the JSON file holds.

    Raises:
        ExportError: When TensorRT is too old, refuses the graph or the settings, or the locked cache lacks a time.
    """
    chosen = settings or PlanSettings()
    started = time.monotonic()
    device = _device()
    log = _recorder()
    plan, cache_sha256 = _build(src, chosen, log)
    dst.write_bytes(plan)
    record = {
        "schema_version": SCHEMA_VERSION,
        "plan_sha256": sha256_file(dst),
        "plan_bytes": len(plan),
        "source": src.name,
        "source_sha256": hash_model(src),
        **device,
        "strongly_typed": True,
        "tf32": False,
        **asdict(chosen),
        "timing_cache": chosen.timing_cache.name if chosen.timing_cache else None,
        "timing_cache_sha256": cache_sha256,
        "metadata": dict(metadata or {}),
        **_inspect(plan, log),
        "seconds": round(time.monotonic() - started, 3),
    }
    sidecar(dst).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return record


def _build(src: Path, settings: PlanSettings, log: Any) -> tuple[bytes, str | None]:
    """Return the plan and the hash of the timing cache that it was built with, if any."""
    import tensorrt as trt

    builder = trt.Builder(log)
    network = builder.create_network(_strongly_typed())
    given = _parse(network, src, log)
    config = builder.create_builder_config()
    _configure(config, settings)
    config.add_optimization_profile(_profile(builder, given, settings.batch))
    _attach_cache(config, settings)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ExportError(f"TensorRT {trt.__version__} cannot build {src.name}: {_reason(log, settings)}")
    return bytes(plan), _keep_cache(config, settings)


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

    return Recorder()


def _reason(log: Any, settings: PlanSettings) -> str:
    told = log.errors[-1] if log.errors else "no reason given"
    return f"{told} (the timing cache is locked: build once without --locked to add times)" if settings.locked else told


def _strongly_typed() -> int:
    """Return the network's creation flags; where the flag has gone, every network is strongly typed."""
    import tensorrt as trt

    flag = trt.NetworkDefinitionCreationFlag.__members__.get("STRONGLY_TYPED")
    return 0 if flag is None else 1 << int(flag)


def _parse(network: trt.INetworkDefinition, src: Path, log: Any) -> trt.ITensor:
    """Fill the network from the graph and return its input."""
    import tensorrt as trt

    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(src)):
        problems = [" ".join(parser.get_error(i).desc().split()) for i in range(parser.num_errors)]
        raise ExportError(
            f"TensorRT {trt.__version__} cannot read {src.name}: {'; '.join(problems) or 'no reason given'}"
        )
    given = network.get_input(0)
    shape = _sizes(given.shape)
    if network.num_inputs != 1 or given.dtype != trt.float32 or len(shape) != 4 or shape[0] != -1:
        raise ExportError(
            f"{src.name} has {network.num_inputs} inputs, the first {given.dtype} {shape}; expected one float32 (N, C, H, W) with N free"
        )
    return given


def _configure(config: trt.IBuilderConfig, settings: PlanSettings) -> None:
    import tensorrt as trt

    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_bytes)
    config.builder_optimization_level = settings.optimization_level
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.clear_flag(trt.BuilderFlag.TF32)
    if settings.locked:
        config.set_flag(trt.BuilderFlag.ERROR_ON_TIMING_CACHE_MISS)


def _profile(builder: trt.Builder, given: trt.ITensor, batch: tuple[int, int, int]) -> trt.IOptimizationProfile:
    low, usual, high = batch
    if not 1 <= low <= usual <= high:
        raise ExportError(f"batch range {batch} is not increasing from 1 on; expected for instance (1, 32, 256)")
    image = _sizes(given.shape)[1:]
    profile = builder.create_optimization_profile()
    profile.set_shape(given.name, (low, *image), (usual, *image), (high, *image))
    return profile


def _attach_cache(config: trt.IBuilderConfig, settings: PlanSettings) -> None:
    """Give the builder the timing cache, an empty one when there is no file yet."""
    path = settings.timing_cache
    if settings.locked and (path is None or not path.is_file()):
        raise ExportError(f"locked, and no timing cache at {path}; build once without --locked")
    if path is None:
        return
    cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    if not config.set_timing_cache(cache, ignore_mismatch=False):
        raise ExportError(f"{path} was made on another GPU or by another TensorRT; delete it or name another")


def _keep_cache(config: trt.IBuilderConfig, settings: PlanSettings) -> str | None:
    """Write what the builder has measured, unless the cache is locked, and return the hash of the file."""
    if settings.timing_cache is None:
        return None
    if not settings.locked:
        settings.timing_cache.write_bytes(bytes(config.get_timing_cache().serialize()))
    return sha256_file(settings.timing_cache)


def _inspect(plan: bytes, log: Any) -> dict[str, Any]:
    """Read the plan back: its tensors and its layers."""
    import tensorrt as trt

    engine = trt.Runtime(log).deserialize_cuda_engine(plan)
    if engine is None:
        raise ExportError(f"TensorRT cannot open the plan that it has just built: {log.errors[-1:]}")
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    tensors = [
        {
            "name": name,
            "mode": engine.get_tensor_mode(name).name.lower(),
            "dtype": engine.get_tensor_dtype(name).name.lower(),
            "shape": _sizes(engine.get_tensor_shape(name)),
        }
        for name in names
    ]
    text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    return {"tensors": tensors, "layers": [_layer(layer) for layer in json.loads(text).get("Layers", [])]}


def _layer(layer: Any) -> dict[str, Any]:
    """Keep a layer's name, its type and the formats of its outputs; a plan built without details has names only."""
    if isinstance(layer, str):
        return {"name": layer}
    formats = [str(output.get("Format/Datatype", "")) for output in layer.get("Outputs", [])]
    return {"name": layer.get("Name", ""), "type": layer.get("LayerType", ""), "outputs": formats}


def _sizes(dims: trt.Dims) -> list[int]:
    return [int(dims[i]) for i in range(len(dims))]


def _device() -> dict[str, str]:
    """Return the versions and the GPU that a plan belongs to; TensorRT does not tell the latter, the CUDA driver does."""
    import tensorrt as trt

    if int(trt.__version__.split(".")[0]) < _OLDEST:
        raise ExportError(f"TensorRT {trt.__version__} is too old; expected {_OLDEST} or later")
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise MissingDeviceError(f"no CUDA driver here ({error}); a plan is built on the GPU that runs it") from error
    version, major, minor, device = (ctypes.c_int() for _ in range(4))
    name = ctypes.create_string_buffer(256)
    calls = (
        driver.cuInit(0),
        driver.cuDriverGetVersion(ctypes.byref(version)),
        driver.cuDeviceGet(ctypes.byref(device), 0),
        driver.cuDeviceGetName(name, len(name), device),
        driver.cuDeviceGetAttribute(ctypes.byref(major), 75, device),  # COMPUTE_CAPABILITY_MAJOR
        driver.cuDeviceGetAttribute(ctypes.byref(minor), 76, device),  # COMPUTE_CAPABILITY_MINOR
    )
    if any(calls):
        raise MissingDeviceError(f"the CUDA driver answers with error {next(filter(None, calls))}; is a GPU visible?")
    return {
        "tensorrt": trt.__version__,
        "cuda": f"{version.value // 1000}.{version.value % 1000 // 10}",
        "gpu": name.value.decode(errors="replace"),
        "compute_capability": f"{major.value}.{minor.value}",
    }

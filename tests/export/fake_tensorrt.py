"""A double of the TensorRT module, for the logic around a build. It builds nothing: a "plan" is a line of text.

That the names used here exist in the real bindings is what test_tensorrt_conformance.py checks.
"""

from __future__ import annotations

import enum
import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx


class Severity(enum.Enum):
    INTERNAL_ERROR, ERROR, WARNING = range(3)


class BuilderFlag(enum.Enum):
    TF32, ERROR_ON_TIMING_CACHE_MISS = range(2)


class ILogger:
    Severity = Severity


class Cache:
    def __init__(self, times: bytes) -> None:
        self.times = times

    def serialize(self) -> bytes:
        return self.times


class Config:
    """Keeps what is set; TF32 is on by default, as in TensorRT."""

    def __init__(self) -> None:
        self.flags = {BuilderFlag.TF32}
        self.pools: dict[str, int] = {}
        self.cache = Cache(b"")
        self.profiles: list[SimpleNamespace] = []

    def set_memory_pool_limit(self, pool: str, size: int) -> None:
        self.pools[pool] = size

    def set_flag(self, flag: BuilderFlag) -> None:
        self.flags.add(flag)

    def clear_flag(self, flag: BuilderFlag) -> None:
        self.flags.discard(flag)

    def add_optimization_profile(self, profile: SimpleNamespace) -> None:
        self.profiles.append(profile)

    def create_timing_cache(self, times: bytes) -> Cache:
        return Cache(times)

    def set_timing_cache(self, cache: Cache, ignore_mismatch: bool) -> bool:
        self.cache = cache
        return ignore_mismatch or not cache.times.startswith(b"other gpu")

    def get_timing_cache(self) -> Cache:
        return self.cache


class FakeTensorRT:
    """Stands in for `import tensorrt`; `config` is the last one made, `flags` those of the last network."""

    float32 = "FLOAT"
    ILogger = ILogger
    BuilderFlag = BuilderFlag
    MemoryPoolType = SimpleNamespace(WORKSPACE="workspace")
    ProfilingVerbosity = SimpleNamespace(DETAILED="detailed")
    LayerInformationFormat = SimpleNamespace(JSON="json")

    def __init__(self, version: str = "11.4.0", *, needs: bytes = b"conv:12us;") -> None:
        self.__version__ = version
        self.needs = needs
        members = {"STRONGLY_TYPED": 1} if version < "12" else {}
        self.NetworkDefinitionCreationFlag = SimpleNamespace(__members__=members)
        self.config = Config()
        self.flags = -1

    def Builder(self, log: Any) -> SimpleNamespace:
        def build(network: SimpleNamespace, config: Config) -> bytes | None:
            if self.needs not in config.cache.times:
                if BuilderFlag.ERROR_ON_TIMING_CACHE_MISS in config.flags:
                    log.log(Severity.ERROR, "Timing cache miss\n for conv")
                    return None
                config.cache = Cache(config.cache.times + self.needs)
            return b"plan of " + network.source.encode()

        def create_network(flags: int) -> SimpleNamespace:
            self.flags = flags
            return SimpleNamespace(num_inputs=0)

        def create_builder_config() -> Config:
            self.config = Config()
            return self.config

        return SimpleNamespace(
            create_network=create_network,
            create_builder_config=create_builder_config,
            create_optimization_profile=profile,
            build_serialized_network=build,
        )

    def OnnxParser(self, network: SimpleNamespace, log: Any) -> SimpleNamespace:
        def parse_from_file(path: str) -> bool:
            try:
                model = onnx.load(path)
            except Exception:
                return False
            inputs = [tensor(value) for value in model.graph.input]
            network.source, network.num_inputs, network.get_input = path, len(inputs), inputs.__getitem__
            return True

        problem = SimpleNamespace(desc=lambda: "Failed to parse\n ONNX model")
        return SimpleNamespace(parse_from_file=parse_from_file, num_errors=1, get_error=lambda index: problem)

    def Runtime(self, log: Any) -> SimpleNamespace:
        return SimpleNamespace(deserialize_cuda_engine=lambda plan: engine())


def profile() -> SimpleNamespace:
    made = SimpleNamespace(shapes={})
    made.set_shape = lambda name, *shapes: made.shapes.update({name: shapes})
    return made


def tensor(value: onnx.ValueInfoProto) -> SimpleNamespace:
    kind = value.type.tensor_type
    shape = [dim.dim_value or -1 for dim in kind.shape.dim]
    return SimpleNamespace(name=value.name, shape=shape, dtype=onnx.TensorProto.DataType.Name(kind.elem_type))


def engine() -> SimpleNamespace:
    shapes = {"images": [-1, 3, 16, 16], "logits": [-1, 5]}
    layer = {"Name": "conv1", "LayerType": "CaskConvolution", "Outputs": [{"Format/Datatype": "Int8 NC/32HW32"}]}
    described = json.dumps({"Layers": [layer, "reshape"]})
    inspector = SimpleNamespace(get_engine_information=lambda format_: described)
    return SimpleNamespace(
        num_io_tensors=2,
        get_tensor_name=list(shapes).__getitem__,
        get_tensor_mode=lambda name: SimpleNamespace(name="INPUT" if name == "images" else "OUTPUT"),
        get_tensor_dtype=lambda name: SimpleNamespace(name=np.dtype(np.float32).name.upper()),
        get_tensor_shape=shapes.__getitem__,
        create_engine_inspector=lambda: inspector,
    )

"""The content of an OpenVINO IR, a pair of files: `.xml` (the graph) and `.bin` (the weights)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeproof.errors import ModelError
from edgeproof.onnx_files import GraphSummary, ValueInfo, files_of
from edgeproof.system.optional import require

_TYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16", "u8": "uint8", "i8": "int8", "i32": "int32"}
_METADATA = "edgeproof"  # the section in which our exporter keeps it


def read_ir(path: Path) -> GraphSummary:
    """Read inputs, outputs, precision and metadata, as `read_onnx` does of an ONNX file.

    Raises:
        ModelError: When OpenVINO cannot read it.
    """
    openvino = require("openvino", extra="openvino", purpose=f"open {path}")
    files_of(path)
    try:
        model = openvino.Core().read_model(path)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ModelError(f"{path} is not a readable OpenVINO IR ({reason}); convert it again") from error
    nodes = model.get_ops()
    stored = {_type(node.output(0)) for node in nodes if node.get_type_name() == "Constant"}
    quantized = any(node.get_type_name() == "FakeQuantize" for node in nodes)
    return GraphSummary(
        inputs=tuple(map(_value, model.inputs)),
        outputs=tuple(map(_value, model.outputs)),
        precision="int8"
        if quantized
        else "fp16"
        if "float16" in stored
        else "bf16"
        if "bfloat16" in stored
        else "fp32",
        metadata=_metadata(model),
    )


def _metadata(model: Any) -> dict[str, str]:
    if not model.has_rt_info(_METADATA):
        return {}
    return {f"{_METADATA}.{key}": str(value) for key, value in model.get_rt_info(_METADATA).value.items()}


def _value(port: Any) -> ValueInfo:
    shape = tuple(size.get_length() if size.is_static else "?" for size in port.get_partial_shape())
    return ValueInfo(port.get_any_name(), _type(port), shape)


def _type(port: Any) -> str:
    name = str(port.get_element_type().get_type_name())
    return _TYPES.get(name, name)

"""What stands in an OpenVINO IR, a pair of files: `.xml` (the graph) and `.bin` (the weights)."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

from edgeproof.engines.onnx_file import OnnxSummary, ValueInfo
from edgeproof.errors import ModelError
from edgeproof.system.optional import require

_TYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16", "u8": "uint8", "i8": "int8", "i32": "int32"}
_METADATA = "edgeproof"  # the section in which our exporter keeps it


def weights_of(path: Path) -> Path:
    """Return the file with the weights of an `.xml`.

    Raises:
        ModelError: When it is not there.
    """
    weights = path.with_suffix(".bin")
    if not weights.is_file():
        raise ModelError(f"{path} has no {weights.name} beside it, which holds its weights; copy both files")
    return weights


def hash_ir(path: Path) -> str:
    """Return the SHA-256 of the bytes of both files, the graph first."""
    digest = hashlib.sha256(path.read_bytes())
    digest.update(weights_of(path).read_bytes())
    return digest.hexdigest()


def read_ir(path: Path) -> OnnxSummary:
    """Read inputs, outputs, operators, types of the weights and metadata, as `read_onnx` does of an ONNX file.

    Raises:
        ModelError: When OpenVINO cannot read it.
    """
    openvino = require("openvino", extra="openvino", purpose=f"open {path}")
    weights_of(path)
    try:
        model = openvino.Core().read_model(path)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ModelError(f"{path} is not a readable OpenVINO IR ({reason}); convert it again") from error
    nodes = model.get_ops()
    stored = Counter(_type(node.output(0)) for node in nodes if node.get_type_name() == "Constant")
    return OnnxSummary(
        inputs=tuple(map(_value, model.inputs)),
        outputs=tuple(map(_value, model.outputs)),
        operators=dict(Counter(node.get_type_name() for node in nodes)),
        initializers=dict(stored),
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

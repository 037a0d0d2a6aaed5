"""An FP32 graph to one whose weights and arithmetic are FP16, with float32 images in and float32 logits out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from edgeproof.export.base import ExportError
from edgeproof.export.graph import Wiring, merge_metadata, save_graph
from edgeproof.onnx_files import hash_model, load_model

NOTE = (
    "FP16 arithmetic needs hardware for it; a CPU provider that lacks it widens to FP32, "
    "and then the graph shows the rounding of the weights only"
)


def convert_fp16(src: Path, dst: Path) -> None:
    """Write the FP16 twin of an FP32 graph. It keeps float32 inputs and outputs, so that engines need no other type.

    Raises:
        ExportError: When a weight is beyond FP16's range (65504) or the graph is quantised or FP16 already.
    """
    from onnxconverter_common import float16

    model = load_model(src)
    _check(model, src)
    # The converter's defaults raise small weights to 1e-7 and cut large ones at 1e4; these limits round only.
    half = float16.convert_float_to_float16(
        model, keep_io_types=True, min_positive_val=0.0, max_finite_val=float("inf")
    )
    merge_metadata(half, {"precision": "fp16", "source_sha256": hash_model(src), "note": NOTE})
    save_graph(half, dst)


def _check(model: onnx.ModelProto, src: Path) -> None:
    wiring = Wiring(model.graph)
    if any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        raise ExportError(f"{src.name} is quantised; expected an FP32 graph")
    if any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in model.graph.initializer):
        raise ExportError(f"{src.name} has FP16 weights; expected an FP32 graph")
    limit = float(np.finfo(np.float16).max)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and (array := wiring.constant(tensor.name)).size:
            largest = float(np.abs(array).max())
            if largest > limit:
                raise ExportError(
                    f"{src.name}: weight {tensor.name!r} reaches {largest:g}, beyond FP16's {limit:g}; leave FP16 out"
                )

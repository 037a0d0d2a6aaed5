"""Where an INT8 graph first leaves its FP32 source: the signal-to-noise ratio of every layer, on images of the caller's choice."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeproof.export.calibration import Images, open_with_outputs, run_in_chunks
from edgeproof.export.int8 import prepare, weighted_layers
from edgeproof.onnx_files import load_model


@dataclass(frozen=True)
class LayerNoise:
    """How far one layer's output is from the FP32 graph's.

    Attributes:
        layer: The tensor that the layer gives.
        operator: Conv, Gemm or MatMul.
        sqnr_db: 10 log10 of signal power over noise power; infinite where nothing differs.
    """

    layer: str
    operator: str
    sqnr_db: float


def layer_noise(fp32: Path, int8: Path, images: Iterable[Images]) -> list[LayerNoise]:
    """Compare the layers of an INT8 graph with those of the FP32 graph that it was made from, in their order.

    Args:
        fp32: The source.
        int8: The quantised graph; its layers give tensors of the same names.
        images: Batches (N, C, H, W) float32 in [0, 1]: clean ones, or adversaries.

    Raises:
        ExportError: When a graph cannot be read.
    """
    source, target = prepare(load_model(fp32), fp32), load_model(int8)
    operators = {str(node.output[0]): str(node.op_type) for node in source.graph.node}
    names = weighted_layers(source.graph)
    signal, noise = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    batches = [np.ascontiguousarray(batch) for batch in images]
    for one, other in zip(_outputs(source, names, batches), _outputs(target, names, batches), strict=True):
        for name in names:
            signal[name] += float(np.square(one[name], dtype=np.float64).sum())
            noise[name] += float(np.square(one[name] - other[name], dtype=np.float64).sum())
    return [LayerNoise(name, operators[name], _decibels(signal[name], noise[name])) for name in names]


def _outputs(
    model: onnx.ModelProto, names: list[str], batches: list[Images]
) -> Iterable[dict[str, NDArray[np.float32]]]:
    return run_in_chunks(open_with_outputs(model, names), batches)


def _decibels(signal: float, noise: float) -> float:
    if noise == 0:
        return float("inf")
    return float(10 * np.log10(signal / noise)) if signal else float("-inf")

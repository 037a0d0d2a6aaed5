"""ONNX Runtime as the tests use it: one thread, and the graph that it made on request."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray


def run_graph(path: Path, images: NDArray[np.float32], *, optimize: bool = True) -> NDArray[np.float32]:
    """Return the logits that ONNX Runtime's CPU provider computes."""
    session = _session(path, optimize=optimize)
    logits: NDArray[np.float32] = session.run(None, {"images": images})[0]
    return logits


def optimized_operators(path: Path, folder: Path) -> Counter[str]:
    """Count the operators of the graph that ONNX Runtime executes."""
    saved = folder / "optimized.onnx"
    _session(path, saved=saved)
    return Counter(node.op_type for node in onnx.load(str(saved)).graph.node)


def _session(path: Path, *, optimize: bool = True, saved: Path | None = None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    if saved:
        options.optimized_model_filepath = str(saved)
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

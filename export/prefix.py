"""A universal perturbation put in front of a graph, so that any engine that opens the file sees perturbed images."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgeproof.export.base import ExportError
from edgeproof.export.graph import merge_metadata, save_graph
from edgeproof.onnx_files import hash_model, load_model

_PERTURBED = "images_perturbed"


def prepend_perturbation(src: Path, dst: Path, *, delta: NDArray[np.float32]) -> None:
    """Write a graph that gives for `images` what the source gives for clip(images + delta, 0, 1), in any precision.

    Args:
        src: A graph whose input is float32 (N, C, H, W); FP16 and INT8 graphs of this project are such.
        dst: The file to write.
        delta: The perturbation, (C, H, W) float32 in [0, 1] pixel units.

    Raises:
        ExportError: When the perturbation does not fit the graph's input, is not finite, or the graph has a prefix already.
    """
    model = load_model(src)
    given = model.graph.input[0]
    shape = tuple(dim.dim_value for dim in given.type.tensor_type.shape.dim)[1:]
    if delta.dtype != np.float32 or delta.shape != shape or not np.isfinite(delta).all():
        raise ExportError(
            f"the perturbation is {delta.dtype} {delta.shape}; expected finite float32 {shape}, as the images"
        )
    if any(_PERTURBED in node.output for node in model.graph.node):
        raise ExportError(f"{src.name} has a perturbation in front already; start from the graph without")
    for node in model.graph.node:
        node.input[:] = [_PERTURBED if name == given.name else name for name in node.input]
    constants = {"perturbation": delta, "pixel_low": np.float32(0), "pixel_high": np.float32(1)}
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items())
    add = helper.make_node("Add", [given.name, "perturbation"], ["images_added"], name="perturb")
    clip = helper.make_node("Clip", ["images_added", "pixel_low", "pixel_high"], [_PERTURBED], name="perturb_clip")
    model.graph.node.insert(0, clip)
    model.graph.node.insert(0, add)
    digest = hashlib.sha256(np.ascontiguousarray(delta).tobytes()).hexdigest()
    merge_metadata(model, {"perturbation_sha256": digest, "source_sha256": hash_model(src)})
    save_graph(model, dst)

"""An ONNX graph to OpenVINO's own form, a pair of files: `.xml` (the graph) and `.bin` (the weights); without torch or onnx."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgeproof.export.base import ExportError

METADATA = "edgeproof"  # the section of the file's own information that holds the metadata


def convert_openvino(src: Path, dst: Path, *, metadata: Mapping[str, str] | None = None) -> None:
    """Write a graph as OpenVINO's IR; weights keep their type, so that precision stays in the graph.

    Args:
        src: The ONNX graph.
        dst: The `.xml` file; the weights go beside it, with the suffix `.bin`.
        metadata: The graph's own, since OpenVINO does not carry it over.

    Raises:
        ExportError: When OpenVINO cannot read the graph, or the name has another suffix.
    """
    import openvino

    if dst.suffix != ".xml":
        raise ExportError(f"OpenVINO writes .xml and .bin, not {dst.name}; name a file that ends in .xml")
    try:
        model = openvino.Core().read_model(src)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ExportError(f"OpenVINO {openvino.__version__} cannot read {src.name}: {reason}") from error
    for key, value in (metadata or {}).items():
        model.set_rt_info(value, [METADATA, key.removeprefix(f"{METADATA}.")])
    # Its default would round FP32 weights to FP16 without a word.
    openvino.save_model(model, dst, compress_to_fp16=False)

"""A torch module to an FP32 ONNX graph: `images` (N, C, H, W) to `logits` (N, K), any N, one file."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import onnx

from edgeproof.export.base import ExportError
from edgeproof.export.graph import INPUT, OUTPUT, merge_metadata, save_graph
from edgeproof.onnx_files import load_model, opset_of

if TYPE_CHECKING:
    from torch import nn

_DYNAMO_OPSET = 18  # asked for less, it converts downwards, which fails with a logged traceback and gives 18
Exporter = Literal["dynamo", "torchscript"]


def export_onnx(
    module: nn.Module,
    path: Path,
    *,
    input_shape: tuple[int, int, int],
    opset: int = 20,
    exporter: Exporter = "dynamo",
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a module as an FP32 ONNX graph.

    Args:
        module: In evaluation mode; maps images (N, C, H, W) float32 in [0, 1] to logits (N, K).
        path: The file to write.
        input_shape: (C, H, W).
        opset: Version of the ONNX operator set; 18 or later with the dynamo exporter.
        exporter: "dynamo" (torch.export) or "torchscript", PyTorch's older one, for what the former cannot trace.
        metadata: Text kept in the graph, its keys without prefix.

    Raises:
        ExportError: When the module is in training mode, cannot be traced, or the exporter wrote another operator set.
    """
    if module.training:
        raise ExportError(
            "the model is in training mode, in which dropout and batch norm differ; call .eval() before export"
        )
    if exporter == "dynamo" and opset < _DYNAMO_OPSET:
        raise ExportError(
            f"the dynamo exporter writes opset {_DYNAMO_OPSET} or later, not {opset}; ask for one, or for exporter=torchscript"
        )
    _trace(module, path, input_shape=input_shape, opset=opset, exporter=exporter)
    model = load_model(path)
    if opset_of(model) != opset:
        raise ExportError(
            f"the {exporter} exporter wrote opset {opset_of(model)} instead of {opset}; ask for opset {opset_of(model)}"
        )
    _strip_traces(model)
    merge_metadata(model, metadata or {})
    save_graph(model, path)


def _trace(module: nn.Module, path: Path, *, input_shape: tuple[int, int, int], opset: int, exporter: Exporter) -> None:
    import torch

    parameter = next(module.parameters(), torch.empty(0))
    example = torch.zeros((2, *input_shape), device=parameter.device)  # 2: a batch of 1 invites specialisation
    options: dict[str, Any] = (
        {"dynamo": True, "dynamic_shapes": ({0: "batch"},), "external_data": False}
        if exporter == "dynamo"
        else {"dynamo": False, "dynamic_axes": {INPUT: {0: "batch"}, OUTPUT: {0: "batch"}}}
    )
    try:
        with _prepared():
            torch.onnx.export(
                module,
                (example,),
                str(path),
                opset_version=opset,
                input_names=[INPUT],
                output_names=[OUTPUT],
                verbose=False,
                **options,
            )
    except ImportError:
        raise
    except Exception as error:  # tracing runs the model's own code, which can raise anything
        reason = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
        other = "torchscript" if exporter == "dynamo" else "dynamo"
        raise ExportError(
            f"the {exporter} exporter cannot trace the model ({reason[0]}); try exporter={other}"
        ) from error


@contextlib.contextmanager
def _prepared() -> Iterator[None]:
    """Prepare torch for tracing, and take it back at the end.

    What torch says about itself is held back: deprecations inside it and the absence of torchvision. Attention runs operator by
    operator: what it is fused to in evaluation mode has no ONNX form, and neither exporter takes it apart.
    """
    import torch

    fused = torch.backends.mha.get_fastpath_enabled()
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
        warnings.filterwarnings(
            "ignore", message=".*legacy TorchScript-based ONNX export.*", category=DeprecationWarning
        )
        warnings.filterwarnings("ignore", message="The feature will be removed.*", category=DeprecationWarning)
        # Of torch's own layers, whose checks of their arguments are no part of the graph; of a user's code it is said.
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning, module=r"torch\.nn\.")  # type: ignore[attr-defined]
        logger.setLevel(logging.ERROR)
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fused)
            logger.setLevel(level)


def _strip_traces(model: onnx.ModelProto) -> None:
    """Drop the source lines and paths that the exporter notes on every node: they are private and differ by machine."""
    model.graph.doc_string = ""
    for item in (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        item.doc_string = ""
        del item.metadata_props[:]
    del model.graph.metadata_props[:]

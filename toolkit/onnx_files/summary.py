"""What a graph takes, gives and computes in: one answer for whatever opens, attacks, converts or times it."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgeproof.errors import ModelError, nearest
from edgeproof.onnx_files.loading import free_inputs, opset_of, parse_model, type_name
from edgeproof.onnx_files.precision import precision_of
from edgeproof.system.untrusted import is_text

if TYPE_CHECKING:
    from onnx import ModelProto, ValueInfoProto

Layout = Literal["nchw", "nhwc", "flat"]
Shape = tuple[int, int, int]

_PREFIX = "edgeproof."
_MAX_IMAGE = 2**28  # numbers of one image: 1 GiB of float32
_MAX_CLASSES, _MAX_BATCH = 10**6, 2**16
_CONVERTIBLE = ("float16", "float64", "uint8")  # what export --from turns into float32
_SCORES = ("float32", "float16", "float64", "bfloat16")
_WANTED = "expected float32 (N, C, H, W) in [0, 1]"


@dataclass(frozen=True)
class ValueInfo:
    """An input or output of a graph: a dimension is a number, or a name where it is free."""

    name: str
    dtype: str
    shape: tuple[int | str, ...] | None

    def __str__(self) -> str:
        """Return it as messages have it."""
        return f"{self.name!r} {self.dtype} {self.shape if self.shape is not None else 'of unknown shape'}"


@dataclass(frozen=True)
class Signature:
    """A graph as an image classifier; `num_classes` and `batch` are None where the graph leaves them free."""

    input: str
    output: str
    input_shape: Shape
    num_classes: int | None
    batch: int | None


@dataclass(frozen=True)
class GraphSummary:
    """What a file says of its graph.

    Attributes:
        inputs: Without the initialisers that old files list among them.
        outputs: In the order of the file.
        precision: What it computes in, see `precision_of`.
        metadata: The file's metadata_props.
        opset: Version of ONNX's own operator set; 0 where it is no ONNX file.
    """

    inputs: tuple[ValueInfo, ...]
    outputs: tuple[ValueInfo, ...]
    precision: str
    metadata: Mapping[str, str]
    opset: int = 0

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names that our exporter has written, or ().

        Raises:
            ModelError: When something else stands there.
        """
        names = self.noted("classes") or ()
        if not isinstance(names, (list, tuple)) or not all(map(is_text, names)):
            raise ModelError("the metadata edgeproof.classes of the graph are no list of names; export it again")
        return tuple(names)

    def noted(self, key: str) -> Any:
        """Return what our exporter has written under a metadata key, read as JSON; None where there is nothing."""
        try:
            return json.loads(self.metadata.get(_PREFIX + key, "null"))
        except (ValueError, RecursionError):
            return None

    @property
    def takes_our_images(self) -> bool:
        """Whether edgeproof wrote it: then it takes images (N, C, H, W) in [0, 1], however its axes look."""
        return bool(self.noted("source_input") or self.noted("input_shape"))

    def only_input(self, path: Path) -> ValueInfo:
        """Return the input.

        Raises:
            ModelError: When there are several.
        """
        if len(self.inputs) != 1:
            names = ", ".join(value.name for value in self.inputs)
            raise ModelError(f"{path} takes {len(self.inputs)} inputs ({names}); expected one, images (N, C, H, W)")
        return self.inputs[0]

    def image_shape(self, path: Path, *, layout: Layout | None = None, input_shape: Shape | None = None) -> Shape:
        """Return the images' (C, H, W).

        Args:
            path: The file, for messages.
            layout: Of the input, where somebody says so; else it is taken for NCHW unless it looks like another one.
            input_shape: (C, H, W), where the graph leaves it open.

        Raises:
            ModelError: When the input does not say it, or has other axes; with the command that brings it to ours.
        """
        value = self.only_input(path)
        dims, takes = value.shape or (), f"{path} takes {value}"
        if layout is None and len(dims) == 2:
            raise ModelError(f"{takes}; {_WANTED}: {_bring(path, value, layout='flat', free=not input_shape)}")
        if (
            layout is None
            and len(dims) == 4
            and dims[3] in (1, 3, 4)
            and dims[1] not in (1, 3, 4)
            and not self.takes_our_images
        ):
            free = not all(isinstance(size, int) for size in dims[1:])
            raise ModelError(f"{takes}, which looks like NHWC; {_WANTED}: {_bring(path, value, 'nhwc', free=free)}")
        rank = 2 if layout == "flat" else 4
        if len(dims) not in (0, rank):
            raise ModelError(f"{takes}; expected {rank} axes for the layout {layout or 'nchw'}")
        own = dims[1:]
        if layout == "nhwc" and own:
            own = (own[2], own[0], own[1])
        if input_shape is not None:
            wanted = (math.prod(input_shape),) if layout == "flat" else input_shape
            if any(isinstance(n, int) and n != m for n, m in zip(own, wanted, strict=bool(own))):
                raise ModelError(f"{takes}; images of shape {input_shape} in the layout {layout or 'nchw'} do not fit")
            found: Any = list(input_shape)
        else:
            sizes = tuple(size for size in own if isinstance(size, int))
            found = list(sizes) if len(sizes) == 3 else self.noted("input_shape")
        if not isinstance(found, list) or len(found) != 3 or not all(isinstance(size, int) for size in found):
            raise ModelError(
                f"{takes}, which leaves C, H or W open; {_WANTED}: {_bring(path, value, layout, free=True)}"
            )
        if min(found) < 1 or math.prod(found) > _MAX_IMAGE:
            raise ModelError(f"{takes}; {_WANTED} with C * H * W from 1 to {_MAX_IMAGE}")
        return found[0], found[1], found[2]

    def signature(self, path: Path, *, output: str | None = None) -> Signature:
        """Return what the graph takes and gives, as an image classifier.

        Args:
            path: The file, for messages.
            output: Which output holds the scores of the classes, where there are several.

        Raises:
            ModelError: When it is none with a single float32 NCHW input; the message says what to change.
        """
        value, shape = self.only_input(path), self.image_shape(path)
        scores = choose_output(self.outputs, output, where=str(path))
        if value.dtype != "float32":
            change = _bring(path, value) if value.dtype in _CONVERTIBLE else "export it again"
            raise ModelError(f"{path} takes {value}; {_WANTED}: {change}")
        if scores.dtype != "float32" or len(scores.shape or (0, 0)) != 2:
            raise ModelError(f"{path} gives {scores}; expected float32 (N, K): {_bring(path, value)}")
        classes, batch = (scores.shape or ("?", "?"))[1], (value.shape or ("?",))[0]
        if isinstance(batch, int) and batch > _MAX_BATCH:
            raise ModelError(f"{path} says that it has {batch} images a call; expected 1 to {_MAX_BATCH}")
        return Signature(
            input=value.name,
            output=scores.name,
            input_shape=shape,
            num_classes=classes if isinstance(classes, int) else None,
            batch=batch if isinstance(batch, int) else None,
        )


def read_onnx(path: Path) -> GraphSummary:
    """Read what an ONNX file says of its graph.

    Raises:
        ModelError: As `parse_model` does.
    """
    return summarize(parse_model(path), path)


def summarize(model: ModelProto, path: Path) -> GraphSummary:
    """Return what a parsed graph says of itself.

    Raises:
        ModelError: When its nodes form a ring, or its functions cannot be inlined.
    """
    return GraphSummary(
        inputs=tuple(map(_value, free_inputs(model.graph))),
        outputs=tuple(map(_value, model.graph.output)),
        precision=precision_of(model, path),
        metadata={entry.key: entry.value for entry in model.metadata_props},
        opset=opset_of(model),
    )


def choose_output(outputs: Sequence[ValueInfo], wanted: str | None, *, where: str) -> ValueInfo:
    """Return the output that holds the scores of the classes.

    A single output is taken as it is. Of several it is the one of that name; without a name the one called "logits", else the
    only one that can be scores, floating (N, K).

    Args:
        outputs: All that there are.
        wanted: A name, which counts where there are several.
        where: Whose outputs they are, for messages.

    Raises:
        ModelError: When that leaves none or several, or it holds no scores of two classes or more.
    """
    listed, names = ", ".join(map(str, outputs)), [value.name for value in outputs]
    chosen = list(outputs)
    if len(outputs) > 1 and wanted is not None:
        chosen = [value for value in outputs if value.name == wanted]
        if not chosen:
            raise ModelError(f"{where} has no output {wanted!r}{nearest(wanted, names)}; it has {listed}")
    elif len(outputs) > 1:
        scores = [value for value in outputs if not _why_no_scores(value)]
        chosen = [value for value in scores if value.name == "logits"] or scores
        if len(chosen) > 1:
            raise ModelError(
                f"{where} has {len(outputs)} outputs ({listed}); name the scores of the classes with --output"
            )
        if not chosen:
            raise ModelError(f"{where} has {len(outputs)} outputs ({listed}); expected one of float32 (N, K), K from 2")
    if reason := _why_no_scores(chosen[0]):
        raise ModelError(f"{where} gives {chosen[0]}, {reason}")
    return chosen[0]


def _why_no_scores(value: ValueInfo) -> str:
    """Say why an output cannot hold the scores of classes, or nothing where it can."""
    if value.dtype in ("sequence", "map"):
        return "no array; expected float32 (N, K): convert it again, in skl2onnx with the option zipmap=False"
    if value.dtype not in _SCORES:
        return "no scores of classes; expected float32 (N, K)"
    if value.shape is None:
        return ""
    if len(value.shape) < 2 or value.shape[1] == 1:
        return ONE_NUMBER
    classes = value.shape[1]
    if any(size != 1 for size in value.shape[2:]) or (isinstance(classes, int) and classes > _MAX_CLASSES):
        return f"no scores of classes; expected float32 (N, K), K from 2 to {_MAX_CLASSES}"
    return ""


#: What a graph of two classes with one output is told.
ONE_NUMBER = (
    "one number an image, as a sigmoid gives it for the second of two classes; expected a column a class: let the graph give "
    "the scores of both, such as 1 - p and p"
)


def _bring(path: Path, value: ValueInfo, layout: Layout | None = None, *, free: bool = False) -> str:
    """Return the command that brings a graph to our input."""
    words = ["edgeproof export --from", shlex.quote(str(path))]
    words += ["--layout", layout] if layout else []
    words += ["--range 255"] if value.dtype == "uint8" else []
    words += ["--input-shape C,H,W"] if free else []
    return f"bring it to that with: {' '.join(words)}"


def _value(value: ValueInfoProto) -> ValueInfo:
    kind = (value.type.WhichOneof("value") or "unknown_type").removesuffix("_type")
    if kind != "tensor":
        return ValueInfo(value.name, kind, None)
    tensor = value.type.tensor_type
    shape = tuple(dim.dim_value if dim.dim_value > 0 else dim.dim_param or "?" for dim in tensor.shape.dim)
    return ValueInfo(value.name, type_name(tensor.elem_type), shape if tensor.HasField("shape") else None)

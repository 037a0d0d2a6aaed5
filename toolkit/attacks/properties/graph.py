"""A graph in its own units and its own shape: the runtime that has the last word, and a differentiable form to search with."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeproof.attacks.properties.regions import Vector
from edgeproof.engines.base import EngineOptions
from edgeproof.engines.onnxrt import CPU, open_session
from edgeproof.errors import ModelError
from edgeproof.models.imported import before_softmax
from edgeproof.models.onnx_import.translation import translate
from edgeproof.onnx_files import load_model, read_onnx
from edgeproof.source_model.probabilities import are_probabilities, log_probabilities
from edgeproof.system.optional import require

_ROUNDING = 1e-3  # as a share of the largest output; inputs in one call may differ by it from each alone
_TWIN = 0.05  # likewise; only ONNX Runtime decides, so the form to search with may round as INT8 does
_PROBES = 3


@dataclass(frozen=True)
class Graph:
    """A graph with one float32 input and one output, both seen as vectors.

    Attributes:
        session: ONNX Runtime on the CPU.
        input: The input's name.
        shape: Of one call's input, a free batch axis counted as 1.
        batched: Whether the first axis takes many inputs at once.
        probabilities: Whether the outputs are probabilities.
        twin: The graph in torch, or None where it cannot be translated. A softmax that ends the graph is left out of it.
        cut: Whether one was left out.
        why_no_twin: The reason then.
    """

    session: Any
    input: str
    shape: tuple[int, ...]
    batched: bool
    probabilities: bool = False
    twin: nn.Module | None = None
    cut: bool = False
    why_no_twin: str = ""

    @property
    def inputs(self) -> int:
        """How many numbers it takes."""
        return math.prod(self.shape)

    def run(self, x: NDArray[np.float32]) -> Vector:
        """Return the outputs (N, K) of inputs (N, n) on ONNX Runtime.

        Raises:
            ModelError: When ONNX Runtime fails on them.
        """
        sizes = [len(x)] if self.batched else [1] * len(x)
        calls = np.split(x, np.cumsum(sizes)[:-1])
        try:
            parts = [self.session.run(None, {self.input: part.reshape(-1, *self.shape[1:])})[0] for part in calls]
        except Exception as error:  # the runtime's own exceptions have no common root below Exception
            raise ModelError(f"ONNX Runtime failed on {len(x)} inputs: {str(error).splitlines()[0]}") from error
        rows = (row for part in parts for row in (part if self.batched else part[None]))
        return np.stack([row.astype(np.float64).ravel() for row in rows])

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the outputs (N, K) of inputs (N, n), and of a graph that ends in a softmax its logits, else the outputs again.

        By the twin, differentiably, else on ONNX Runtime.
        """
        if self.twin is None:
            given = torch.from_numpy(self.run(x.detach().numpy())).to(x.dtype)
        elif self.batched:
            given = self.twin(x.reshape(-1, *self.shape[1:])).flatten(1)
        else:
            given = torch.vmap(self.twin)(x.reshape(-1, *self.shape)).flatten(1)
        if self.twin is not None and self.cut:
            return given.softmax(1), given
        return given, log_probabilities(given) if self.probabilities else given


def open_graph(path: Path, *, threads: int | None = None) -> Graph:
    """Open an ONNX file, with a differentiable form where its operators are covered and agree with ONNX Runtime.

    Raises:
        ModelError: When it cannot be opened, or has several inputs or outputs, or inputs of free size.
        UnavailableError: Without onnxruntime.
    """
    require("onnxruntime", extra="cpu", purpose=f"search {path} for counterexamples")
    name, shape, free = _signature(path)
    session = open_session(path, provider=CPU, device="cpu", options=EngineOptions(threads=threads))
    single = Graph(session, name, shape, batched=False)
    probes = np.random.default_rng(0).random((_PROBES, single.inputs), np.float32)
    expected = single.run(probes)
    graph = replace(single, probabilities=are_probabilities(torch.from_numpy(expected)))
    if free:  # a free axis alone does not promise that many inputs in one call give what each gives alone
        try:
            together = replace(graph, batched=True)
            if _agree(together.run(probes), expected, within=_ROUNDING):
                graph = together
        except ModelError:
            pass
    try:
        model, output = load_model(path, inline=True), session.get_outputs()[0].name
        target = before_softmax(model.graph, output)
        twin = translate(model, source=name, target=target).requires_grad_(False)
        translated = replace(graph, twin=twin, cut=target != output)
        found = translated(torch.from_numpy(probes))[0].double().numpy()
    except (ModelError, RuntimeError) as error:
        return replace(graph, why_no_twin=str(error).splitlines()[0])
    if _agree(found, expected, within=_TWIN):
        return translated
    return replace(graph, why_no_twin="its form in torch differs from ONNX Runtime")


def _signature(path: Path) -> tuple[str, tuple[int, ...], bool]:
    """Return the input's name, the shape of one call, and whether the first axis is free."""
    summary = read_onnx(path)
    if len(summary.inputs) != 1 or len(summary.outputs) != 1:
        raise ModelError(
            f"{path} has {len(summary.inputs)} inputs and {len(summary.outputs)} outputs; expected one of each, "
            f"since X_i and Y_j number a single one"
        )
    value = summary.inputs[0]
    if value.dtype != "float32" or value.shape is None:
        raise ModelError(f"{path} takes {value.dtype} {value.shape}; expected float32 of known shape")
    first, rest = value.shape[:1], value.shape[1:]
    if not all(isinstance(size, int) for size in rest):
        raise ModelError(f"{path} takes {value.shape}; expected fixed sizes, only the first axis may be free")
    free = bool(first) and not isinstance(first[0], int)
    return value.name, tuple(1 if isinstance(size, str) else size for size in value.shape), free


def _agree(found: Vector, expected: Vector, *, within: float) -> bool:
    allowed = within * max(1e-6, float(np.abs(expected).max()))
    return found.shape == expected.shape and bool(np.abs(found - expected).max() <= allowed)

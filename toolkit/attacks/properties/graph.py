"""A graph in its own units and its own shape: the runtime that has the last word, and a differentiable form to search with."""

from __future__ import annotations

import math
from dataclasses import dataclass
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
from edgeproof.models.onnx_import.translation import translate
from edgeproof.onnx_files import load_model, read_onnx
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
        twin: The graph in torch, or None where it cannot be translated.
        why_no_twin: The reason then.
    """

    session: Any
    input: str
    shape: tuple[int, ...]
    batched: bool
    twin: nn.Module | None = None
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
        return np.stack([row.astype(np.float64).ravel() for part in parts for row in self._rows(part)])

    def __call__(self, x: Tensor) -> Tensor:
        """Return the outputs (N, K) of inputs (N, n): by the twin, differentiably, else on ONNX Runtime."""
        if self.twin is None:
            return torch.from_numpy(self.run(x.detach().numpy())).to(x.dtype)
        if self.batched:
            many: Tensor = self.twin(x.reshape(-1, *self.shape[1:]))
            return many.flatten(1)
        each: Tensor = torch.vmap(self.twin)(x.reshape(-1, *self.shape))
        return each.flatten(1)

    def _rows(self, outputs: NDArray[np.float32]) -> NDArray[np.float32]:
        return outputs if self.batched else outputs[None]


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
    graph = Graph(session, name, shape, batched=free and _takes_batches(session, name, shape, probes, expected))
    return _with_twin(graph, path, session.get_outputs()[0].name, probes, expected)


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


def _takes_batches(
    session: Any, name: str, shape: tuple[int, ...], probes: NDArray[np.float32], expected: Vector
) -> bool:
    """Whether many inputs in one call give what each gives alone: a free axis alone does not promise it."""
    try:
        together = Graph(session, name, shape, batched=True).run(probes)
    except ModelError:
        return False
    return together.shape == expected.shape and _agree(together, expected, within=_ROUNDING)


def _with_twin(graph: Graph, path: Path, output: str, probes: NDArray[np.float32], expected: Vector) -> Graph:
    try:
        twin = translate(load_model(path, inline=True), source=graph.input, target=output).requires_grad_(False)
        seen = Graph(graph.session, graph.input, graph.shape, graph.batched, twin)
        found = seen(torch.from_numpy(probes)).double().numpy()
    except (ModelError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        return Graph(graph.session, graph.input, graph.shape, graph.batched, why_no_twin=reason)
    if found.shape == expected.shape and _agree(found, expected, within=_TWIN):
        return seen
    reason = "its form in torch differs from ONNX Runtime"
    return Graph(graph.session, graph.input, graph.shape, graph.batched, why_no_twin=reason)


def _agree(found: Vector, expected: Vector, *, within: float) -> bool:
    return bool(np.abs(found - expected).max() <= within * max(1e-6, float(np.abs(expected).max())))

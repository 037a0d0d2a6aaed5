"""A translated graph: steps that run one after the other, and the weights that they share.

Interpreted, not compiled: no text from a stranger's file becomes source code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from edgeproof.errors import ModelError, first_line

#: What a function may raise on shapes or attributes that it cannot take.
FAILURES = (
    RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError, NotImplementedError, OverflowError,
    ZeroDivisionError,
)  # fmt: skip


@dataclass(frozen=True)
class Value:
    """What the graph's input or an earlier step has given."""

    name: str


@dataclass(frozen=True)
class Weight:
    """A stored tensor of floating numbers: a buffer of the module."""

    key: str


@dataclass(frozen=True)
class Step:
    """One call.

    Attributes:
        label: The ONNX node, for people.
        function: What is called.
        arguments: Each a `Value`, a `Weight`, Python numbers, None, or a tensor of integers, which stays on the CPU.
        keywords: Python values.
        outputs: Names of what it returns: a tuple where there are several.
        finished: Values that no later step needs.
    """

    label: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]
    outputs: tuple[str, ...]
    multiple: bool
    finished: tuple[str, ...] = field(default=())


class OnnxGraph(nn.Module):
    """A graph with one input and one output. It computes in the type of its buffers and of its input.

    Attributes:
        names: Buffer to the name that the file has for it.
    """

    def __init__(
        self,
        steps: Iterable[Step],
        weights: Mapping[str, Tensor],
        *,
        source: str,
        target: str,
        names: Mapping[str, str],
    ) -> None:
        super().__init__()
        self.names = dict(names)
        self.source = source
        self.target = target
        self.steps = _with_lifetimes(list(steps), keep=target)
        for key, value in weights.items():
            self.register_buffer(key, value)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output for the graph's input.

        Raises:
            ModelError: When a node cannot take what it is given; it is named.
        """
        values: dict[str, Any] = {self.source: x}
        for step in self.steps:
            results = self._call(step, values)
            values.update(zip(step.outputs, results, strict=False))
            for name in step.finished:
                del values[name]
        output: Tensor = values[self.target]
        return output

    @property
    def rounds(self) -> bool:
        """Whether it rounds to integers on the way, so that sums in another order may end a level apart."""
        return any("low" in step.keywords or step.function.__name__ == "dynamic_quantize_linear" for step in self.steps)

    def _call(self, step: Step, values: Mapping[str, Any]) -> tuple[Any, ...]:
        try:
            result = step.function(*(self._argument(value, values) for value in step.arguments), **step.keywords)
        except FAILURES as error:
            raise ModelError(f"{step.label} cannot be computed: {first_line(error)}") from error
        return tuple(result) if step.multiple else (result,)

    def _argument(self, value: Any, values: Mapping[str, Any]) -> Any:
        if isinstance(value, Value):
            return values[value.name]
        return self._buffers[value.key] if isinstance(value, Weight) else value


def _with_lifetimes(steps: list[Step], *, keep: str) -> list[Step]:
    """Note in each step which values are used for the last time, so that memory is given back as early as can be."""
    needed, noted = {keep}, []
    for step in reversed(steps):
        used = {value.name for value in step.arguments if isinstance(value, Value)}
        unused = set(step.outputs) - needed
        noted.append(replace(step, finished=tuple((used - needed) | unused)))
        needed |= used
    return noted[::-1]

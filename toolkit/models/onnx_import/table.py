"""The table of covered ONNX operators: each is one plain torch function."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Operator:
    """A torch function that computes what an ONNX operator computes.

    Its positional parameters are the operator's inputs, in order; its keywords are the attributes, with their ONNX
    defaults. An input that older opsets had as an attribute is one parameter of that name. An attribute that the
    function does not name is not covered. Three more keywords are filled in where a function names them: `opset`,
    `outputs` (how many the node has), and `low` and `high` (the range of the integer type that it quantises to).

    Attributes:
        function: Takes tensors, or None for omitted inputs.
        static: Inputs that are handed over as Python numbers where the graph gives them as constants.
        carried: Inputs whose constants are turned into floating numbers even when they are int32 (biases, not shapes).
        multiple: Whether it returns a tuple, one entry an output. Otherwise only the first output is covered.
    """

    function: Callable[..., Any]
    static: tuple[str, ...] = ()
    carried: tuple[str, ...] = ()
    multiple: bool = False

    def input_names(self, count: int) -> list[str]:
        """Return the parameter that each of `count` inputs goes to.

        Raises:
            NotImplementedError: When the function has fewer inputs.
        """
        names: list[str] = []
        for name, parameter in self._parameters.items():
            if parameter.kind is parameter.VAR_POSITIONAL:
                return names[:count] + [name] * (count - len(names))
            if parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
                names.append(name)
        if count > len(names):
            raise NotImplementedError(f"{count} inputs, of which {len(names)} are covered")
        return names[:count]

    def names(self, keyword: str) -> bool:
        """Tell whether the function has a parameter of this name."""
        return keyword in self._parameters

    def takes(self, keyword: str) -> bool:
        """Tell whether the function has a parameter of this name, or takes any keyword."""
        return self.names(keyword) or any(value.kind is value.VAR_KEYWORD for value in self._parameters.values())

    @cached_property
    def _parameters(self) -> Mapping[str, inspect.Parameter]:
        return inspect.signature(self.function).parameters


#: By operator type; those of other domains than ONNX's own as "domain.Type".
OPERATORS: dict[str, Operator] = {}


def operator(
    *names: str, static: tuple[str, ...] = (), carried: tuple[str, ...] = (), multiple: bool = False
) -> Callable[[F], F]:
    """Enter a function into the table under one or several operator types."""

    def enter(function: F) -> F:
        OPERATORS.update(dict.fromkeys(names, Operator(function, static, carried, multiple)))
        return function

    return enter


def integers(value: Any) -> tuple[int, ...]:
    """Return shapes, axes and the like as Python integers, whether they come as an attribute, a constant or a tensor."""
    if isinstance(value, int):
        return (value,)
    return tuple(int(number) for number in (value.tolist() if hasattr(value, "tolist") else value))

"""Reads a pickled dictionary of plain values and number arrays as data, without executing anything in it.

A pickle is a program. This interpreter knows only the instructions that build plain values; a function that the pickle
names is compared, as text, with the few that NumPy's arrays need, and none is ever imported or called.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgeproof.data.source import parsing
from edgeproof.errors import DataError
from edgeproof.types import Array

_ARRAY_FACTORIES = ("numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct")
_NAMES = (*_ARRAY_FACTORIES, "numpy ndarray", "numpy dtype")
_NUMBER_TYPE = re.compile(r"[biuf][1248]")


class _RefusedError(DataError):
    """An instruction, a name or a value that plain data do not need."""


@dataclass(frozen=True)
class _Name:
    """A function or class that the pickle names: "module name"."""

    text: str


@dataclass
class _Type:
    """An element type under construction."""

    code: str
    order: str = "|"


@dataclass
class _Array:
    """An array under construction."""

    value: Array | None = None


@dataclass
class _Machine:
    stack: list[Any] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def pop(self, count: int) -> list[Any]:
        """Take the last `count` values."""
        return self._cut(len(self.stack) - count)

    def pop_to_mark(self) -> list[Any]:
        """Take the values since the last mark."""
        return self._cut(self.marks.pop())

    def _cut(self, start: int) -> list[Any]:
        if start < 0:
            raise ValueError("it takes more values than it has made")
        values = self.stack[start:]
        del self.stack[start:]
        return values


def read_pickled_dict(data: bytes, *, what: str) -> dict[str, Any]:
    """Read a pickled dictionary of plain containers, text, numbers and number arrays.

    Args:
        data: The pickle, protocol 2 to 4.
        what: The file, for messages.

    Returns:
        The dictionary; keys and text that Python 2 wrote are text and bytes.

    Raises:
        DataError: When it is damaged or holds anything else; nothing of it has been executed then.
    """
    machine = _Machine()
    try:
        with parsing(what, kind="a pickle"):
            for operation, argument, _ in pickletools.genops(data):
                _step(operation.name)(machine, argument)
            [result] = machine.pop(1)
            if isinstance(result, dict):
                return {
                    _text(key): value.value if isinstance(value, _Array) else value for key, value in result.items()
                }
    except _RefusedError as error:
        raise DataError(f"{what} is refused, and nothing in it was executed: {error}; expected plain data") from error
    raise DataError(f"{what} holds a {type(result).__name__}; expected a dictionary")


def _step(operation: str) -> _Step:
    if operation not in _STEPS:
        raise _RefusedError(f"it uses the instruction {operation}")
    return _STEPS[operation]


def _text(value: Any) -> str:
    if not isinstance(value, (str, bytes, int)):  # the text of tuples that share their parts is endless
        raise _RefusedError(f"it has a {type(value).__name__} in the place of text")
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _push(machine: _Machine, value: Any) -> None:
    machine.stack.append(value)


def _push_python2_text(machine: _Machine, text: str) -> None:
    machine.stack.append(text.encode("latin-1"))  # pickletools has decoded these bytes so


def _tuple(count: int) -> _Step:
    return lambda machine, _: machine.stack.append(tuple(machine.pop(count)))


def _extend(machine: _Machine, values: list[Any]) -> None:
    machine.stack[-1].extend(values)


def _set_items(machine: _Machine, values: list[Any]) -> None:
    for key, value in zip(values[::2], values[1::2], strict=True):
        if not isinstance(key, (str, bytes, int)):
            raise _RefusedError(f"it has a dictionary key of type {type(key).__name__}")
        machine.stack[-1][key] = value


def _put(machine: _Machine, key: int) -> None:
    machine.memo[key] = machine.stack[-1]


def _name(machine: _Machine, text: str) -> None:
    if text not in _NAMES:
        raise _RefusedError(f"it asks for {text.replace(' ', '.')!r}")
    machine.stack.append(_Name(text))


def _reduce(machine: _Machine, _: Any) -> None:
    """Stand in for the call of one of the known functions."""
    function, arguments = machine.pop(2)
    text = function.text if isinstance(function, _Name) else type(function).__name__
    if text in _ARRAY_FACTORIES:
        machine.stack.append(_Array())
    elif text == "numpy dtype":
        machine.stack.append(_Type(_text(arguments[0])))
    else:
        raise _RefusedError(f"it calls {text.replace(' ', '.')!r}")


def _build(machine: _Machine, _: Any) -> None:
    """Complete an element type, or an array from its shape, type and bytes."""
    target, state = machine.stack[-2], machine.pop(1)[0]
    if isinstance(target, _Type):
        target.order = _text(state[1])
    elif isinstance(target, _Array):
        _, shape, kind, by_columns, content = state
        if not (isinstance(kind, _Type) and _NUMBER_TYPE.fullmatch(kind.code) and kind.order in "<>|="):
            named = repr(kind.code) if isinstance(kind, _Type) else type(kind).__name__
            raise _RefusedError(f"it holds an array of {named}")
        numbers = np.frombuffer(content, np.dtype(kind.order + kind.code))
        target.value = numbers.reshape(shape, order="F" if by_columns else "C")
    else:
        raise _RefusedError(f"it sets the state of a {type(target).__name__}")


_Step = Callable[[_Machine, Any], None]
_PLAIN = (
    "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
)  # fmt: skip
_STEPS: Mapping[str, _Step] = {
    **dict.fromkeys(_PLAIN, _push),
    **dict.fromkeys(("BINSTRING", "SHORT_BINSTRING"), _push_python2_text),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), _put),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda machine, key: machine.stack.append(machine.memo[key])),
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda machine, _: None),
    "NONE": lambda machine, _: machine.stack.append(None),
    "NEWTRUE": lambda machine, _: machine.stack.append(True),
    "NEWFALSE": lambda machine, _: machine.stack.append(False),
    "MARK": lambda machine, _: machine.marks.append(len(machine.stack)),
    "EMPTY_DICT": lambda machine, _: machine.stack.append({}),
    "EMPTY_LIST": lambda machine, _: machine.stack.append([]),
    "EMPTY_TUPLE": lambda machine, _: machine.stack.append(()),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.pop_to_mark())),
    "TUPLE1": _tuple(1),
    "TUPLE2": _tuple(2),
    "TUPLE3": _tuple(3),
    "APPEND": lambda machine, _: _extend(machine, machine.pop(1)),
    "APPENDS": lambda machine, _: _extend(machine, machine.pop_to_mark()),
    "SETITEM": lambda machine, _: _set_items(machine, machine.pop(2)),
    "SETITEMS": lambda machine, _: _set_items(machine, machine.pop_to_mark()),
    "MEMOIZE": lambda machine, _: _put(machine, len(machine.memo)),
    "GLOBAL": _name,
    "STACK_GLOBAL": lambda machine, _: _name(machine, " ".join(machine.pop(2))),
    "REDUCE": _reduce,
    "BUILD": _build,
}

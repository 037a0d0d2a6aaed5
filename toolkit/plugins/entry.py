"""What is known of a plug-in without importing it, and how it is imported."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeproof.errors import PluginError, first_line
from edgeproof.plugins.importing import import_source


class _Required:
    def __repr__(self) -> str:
        return "required"


REQUIRED = _Required()


@dataclass(frozen=True)
class Param:
    """One keyword-only parameter of a plug-in, as it stands in the source."""

    name: str
    annotation: str
    default: Any = REQUIRED


@dataclass(frozen=True)
class Entry:
    """What is known of a plug-in without importing it.

    Attributes:
        kind: "attack", "data", "model", "engine", "objective" or "study".
        name: Registry name.
        module: Where the function is imported from.
        function: Its name there.
        summary: The first line of its documentation.
        params: Its keyword-only parameters.
        options: The other arguments of its `register`.
        help: The whole docstring.
        file: Of a plug-in of the user's, the file that it stands in; None for ours.
        text: The source of one that stands in no file, such as a notebook's; else "".
    """

    kind: str
    name: str
    module: str
    function: str
    summary: str
    params: tuple[Param, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    help: str = ""
    file: Path | None = None
    text: str = ""

    @property
    def own(self) -> bool:
        """Whether it is part of this toolkit."""
        return self.file is None and not self.text

    def load(self) -> Callable[..., Any]:
        """Import the module and return the function.

        Raises:
            PluginError: When a plug-in of the user's cannot be imported.
        """
        if self.file is None:
            own: Callable[..., Any] = getattr(importlib.import_module(self.module), self.function)
            return own
        try:
            module = import_source(self.module, self.file)
        except (Exception, SystemExit) as error:
            raise PluginError(
                f"plug-in {self.file} cannot be imported ({type(error).__name__}: {first_line(error)}); fix it, or name it no longer"
            ) from error
        function: Callable[..., Any] | None = getattr(module, self.function, None)
        if function is None:
            raise PluginError(
                f"plug-in {self.file}: the imported module has no {self.function!r}; expected the function under @register"
            )
        return function

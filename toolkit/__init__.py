"""edgeproof: how a classifier holds up to adversarial inputs in the form in which it is deployed."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

#: The public names, with the module that each stands in; it is imported when the name is first used.
_LAZY = {"register": "edgeproof.plugins.registry"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)

"""Imports of optional packages, with the one line that installs what is missing."""

from __future__ import annotations

import importlib
from types import ModuleType

from edgeproof.errors import UnavailableError


def require(module: str, *, extra: str | None, purpose: str) -> ModuleType:
    """Import an optional module.

    Args:
        module: Import name, for instance "onnxruntime".
        extra: The extra of this distribution that installs it; None where none does, and its own name is given.
        purpose: What it is needed for, to finish the sentence "... is needed to".

    Raises:
        UnavailableError: When it is not installed, or is installed and cannot be loaded.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        install = f"'edgeproof[{extra}]'" if extra else module.partition(".")[0]
        raise UnavailableError(
            f"{module} is needed to {purpose} and cannot be imported ({error}); install it with: pip install {install}"
        ) from error

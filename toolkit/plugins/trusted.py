"""Which code of the user's may be run: `module:factory` that he has named.

He names it as the model on the command line, as the argument of a function, or in EDGEPROOF_FACTORIES, separated by commas. A checkpoint, a
manifest or a configuration file alone may be a stranger's, and runs no code.
"""

from __future__ import annotations

import os

from edgeproof.errors import ModelError
from edgeproof.plugins.registry import entries

FACTORIES = "EDGEPROOF_FACTORIES"


def is_factory(name: str) -> bool:
    """Return whether a model's name is `module:factory`, code that is not part of this toolkit."""
    kind, colon, _ = name.partition(":")
    return bool(colon) and kind not in entries("model")


def name_factory(name: str) -> None:
    """Note that the user has named a model, for this process and those that it starts."""
    if is_factory(name) and name not in _named():
        os.environ[FACTORIES] = ",".join([*_named(), name])


def check_named(name: str, *, source: object) -> None:
    """Refuse a factory that the user has not named.

    Args:
        name: Of a model, of whatever kind.
        source: What asks for it, for the message.

    Raises:
        ModelError: With the way to name it.
    """
    if is_factory(name) and name not in _named():
        raise ModelError(
            f"{source} asks for the network {name!r}, code that is not part of this toolkit and that would be run; if you trust it, name "
            f"it: {FACTORIES}={name}"
        )


def _named() -> list[str]:
    return [spec.strip() for spec in os.environ.get(FACTORIES, "").split(",") if spec.strip()]

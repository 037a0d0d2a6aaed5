"""edgeproof: how a classifier holds up to adversarial inputs in the form in which it is deployed.

The names below are the Python API (docs/api.md). They are imported when they are first used: `import edgeproof` loads neither
torch nor a runtime.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeproof.api.attacks import Adversarial as Adversarial
    from edgeproof.api.attacks import attack as attack
    from edgeproof.api.builds import build as build
    from edgeproof.api.images import Images as Images
    from edgeproof.api.images import images as images
    from edgeproof.api.listing import list_runs as list_runs
    from edgeproof.api.models import Model as Model
    from edgeproof.api.models import load as load
    from edgeproof.api.models import wrap as wrap
    from edgeproof.api.results import Comparison as Comparison
    from edgeproof.api.results import Results as Results
    from edgeproof.api.results import compare as compare
    from edgeproof.api.results import evaluate as evaluate
    from edgeproof.plugins.registry import register as register

__version__ = "0.1.0"

#: The public names, with the module that each stands in; it is imported when the name is first used.
_LAZY = {
    "Adversarial": "edgeproof.api.attacks",
    "Comparison": "edgeproof.api.results",
    "Images": "edgeproof.api.images",
    "Model": "edgeproof.api.models",
    "Results": "edgeproof.api.results",
    "attack": "edgeproof.api.attacks",
    "build": "edgeproof.api.builds",
    "compare": "edgeproof.api.results",
    "evaluate": "edgeproof.api.results",
    "images": "edgeproof.api.images",
    "list_runs": "edgeproof.api.listing",
    "load": "edgeproof.api.models",
    "register": "edgeproof.plugins.registry",
    "wrap": "edgeproof.api.models",
}

__all__ = ["__version__", *_LAZY]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})

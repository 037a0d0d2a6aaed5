"""Modules that may be missing, with the one line that installs them."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from edgeproof.errors import UnavailableError, first_line

#: The extra that installs each module; what is not here comes with the base install or is not ours to install.
EXTRAS = {
    "torch": "train",
    "safetensors": "train",
    "onnxscript": "train",
    "onnxconverter_common": "train",
    "sklearn": "data",
    "scipy": "data",
    "pooch": "data",
    "pyarrow": "data",
    "onnxruntime": "cpu",
    "openvino": "openvino",
    "tensorrt": "tensorrt",
    "pycuda": "cuda",
    "ray": "ray",
}
BASE = ("numpy", "onnx", "click", "pydantic", "pydantic_core", "rich", "jinja2", "PIL")


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
        what = _requirement(extra) if extra else module.partition(".")[0]
        raise UnavailableError(
            f"{module} is needed to {purpose} and cannot be imported ({first_line(error)}); {_install(what, error=error)}"
        ) from error


def check_installed(*modules: str, purpose: str) -> None:
    """Refuse to begin where modules are missing that will be needed later; none is imported.

    Raises:
        UnavailableError: With one line that installs all of them.
    """
    absent = [module for module in modules if not _found(module)]
    if absent:
        extras = ",".join(dict.fromkeys(EXTRAS[module] for module in absent))
        raise UnavailableError(
            f"{', '.join(absent)} not installed for {sys.executable}, and needed to {purpose}; {_install(_requirement(extras))}"
        )


def missing(error: ImportError) -> UnavailableError | None:
    """Return what to say of an import that has failed, or None where it is no matter of what is installed."""
    module = (error.name or "").partition(".")[0]
    if module in EXTRAS or module in BASE:
        advice = _install(_requirement(EXTRAS.get(module, "")), error=error)
    elif isinstance(error, ModuleNotFoundError) and module not in ("", "edgeproof"):
        advice = f"edgeproof does not install it: install the package that provides {module!r}"
    else:
        return None
    return UnavailableError(f"{module} cannot be imported by {sys.executable} ({first_line(error)}); {advice}")


def _found(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False


def _requirement(extras: str) -> str:
    return f"'edgeproof[{extras}]'" if extras else "edgeproof"


def _install(what: str, *, error: ImportError | None = None) -> str:
    again = "" if error is None or isinstance(error, ModuleNotFoundError) else "--force-reinstall "
    line = f"install it with: pip install {again}{what}"
    venv = Path(__file__).resolve().parents[2] / ".venv"  # in a checkout, what `make` has set up
    elsewhere = (venv / "bin" / "activate").is_file() and Path(sys.prefix).resolve() != venv
    return f"run `. {venv}/bin/activate`, or {line}" if elsewhere else line

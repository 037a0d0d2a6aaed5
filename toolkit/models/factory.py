"""A user's own network: `module:factory`, imported from the current directory or from what is installed.

It is run when the user names it (`edgeproof.plugins.trusted`).
"""

from __future__ import annotations

import importlib
import inspect
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from edgeproof.errors import ModelError, nearest
from edgeproof.plugins.importing import import_source, module_file
from edgeproof.plugins.trusted import name_factory

LOG = logging.getLogger(__name__)


def load_factory(spec: str, *, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """Import a factory and call it. This runs the user's code, and says so on stderr.

    Args:
        spec: `package.module:factory`; the factory is a function or an `nn.Module` class. It is given `input_shape` and
            `num_classes` where it has parameters of these names, and nothing else.
        input_shape: (C, H, W).
        num_classes: K.

    Raises:
        ModelError: When it cannot be imported or called, or returns no `nn.Module`.
    """
    name_factory(spec)  # whoever asks for it by name here has named it; what a file asks for is checked before
    factory = _find_factory(spec)
    offered = {"input_shape": input_shape, "num_classes": num_classes}
    try:
        known = inspect.signature(factory).parameters
        network = factory(**{name: value for name, value in offered.items() if name in known})
    except Exception as error:
        raise ModelError(f"{spec} failed ({type(error).__name__}: {error}); {_EXPECTED}") from error
    if not isinstance(network, nn.Module):
        raise ModelError(f"{spec} returned a {type(network).__name__}; {_EXPECTED}")
    return network


_EXPECTED = "expected a function or class that gives an nn.Module and needs at most input_shape and num_classes"


def _find_factory(spec: str) -> Callable[..., Any]:
    module_name, _, attribute = spec.partition(":")
    here = str(Path.cwd())
    LOG.warning(f"edgeproof: importing {spec}: this runs its code")
    if here not in sys.path:
        sys.path.append(here)  # appended, so that a file of the user's cannot stand in for an installed package
    try:
        file = module_file(module_name)
        module = import_source(module_name, file) if file else importlib.import_module(module_name)
    except Exception as error:
        raise ModelError(
            f"{spec}: {module_name!r} cannot be imported from {here} or from the environment ({type(error).__name__}: {error})"
        ) from error
    factory = getattr(module, attribute, None)
    if not (inspect.isfunction(factory) or (inspect.isclass(factory) and issubclass(factory, nn.Module))):
        hint = nearest(attribute, vars(module))
        raise ModelError(f"{spec}: {module_name} has no function or nn.Module class {attribute!r}{hint}")
    found: Callable[..., Any] = factory
    return found

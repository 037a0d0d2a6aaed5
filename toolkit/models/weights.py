"""Weights that other code has written, read without executing anything in them."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from edgeproof.errors import ModelError

_WRAPPERS = ("module.", "_orig_mod.", "model.")  # DataParallel, torch.compile, Lightning


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file, or a torch file that holds tensors and plain values only.

    Args:
        path: `*.safetensors`, or what `torch.save` made of a state dict, alone or as one entry of a checkpoint
            (`{"state_dict": ..., "epoch": ...}`).

    Raises:
        ModelError: When it is missing or unreadable, holds code, or holds no state dict or several.
    """
    if not path.is_file():
        raise ModelError(f"no weights at {path}; expected a .safetensors file or a torch checkpoint")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path} cannot be read as safetensors ({error}); is it truncated?") from error
    return _state_dict(_read_torch_file(path), path=path)


def fit_names(weights: Mapping[str, Tensor], wanted: Collection[str]) -> dict[str, Tensor]:
    """Take off the prefixes that wrappers put before every name (`module.` and the like), where the network has none."""
    fitted = dict(weights)
    while not fitted.keys() & set(wanted):
        prefix = next((p for p in _WRAPPERS if fitted and all(key.startswith(p) for key in fitted)), None)
        if prefix is None:
            break
        fitted = {key.removeprefix(prefix): value for key, value in fitted.items()}
    return fitted


def _read_torch_file(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of the pickle protocol, in front of the refusal
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"(?:GLOBAL|class|function) [`'\"]?([\w.]+)", str(error))
        what = f"names {found[1]!r}, code" if found else "needs code"
        raise ModelError(
            f"{path} {what} that would be executed on reading: refused, nothing was run; "
            "save the tensors alone, with torch.save(network.state_dict(), FILE)"
        ) from error
    except (
        Exception
    ) as error:  # torch's reader raises what its damaged input leads it to, AssertionError and struct.error too
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"{path} cannot be read as a torch checkpoint ({reason}); is it truncated?") from error


def _state_dict(content: Any, *, path: Path) -> dict[str, Tensor]:
    if _is_state_dict(content):
        return dict(content)
    entries = content if isinstance(content, Mapping) else {}
    found = [key for key, value in entries.items() if _is_state_dict(value)]
    if "state_dict" in found:
        return dict(entries["state_dict"])
    if len(found) != 1:
        seen = f"has the state dicts {', '.join(map(repr, found))}" if found else "holds no state dict"
        raise ModelError(f"{path} {seen}; expected one; save it with torch.save(network.state_dict(), FILE)")
    return dict(entries[found[0]])


def _is_state_dict(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(tensor, Tensor) for tensor in value.values())

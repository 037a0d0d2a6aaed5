"""Weights that other code has written, read without executing anything in them."""

from __future__ import annotations

import logging
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from edgeproof.errors import ModelError, one_line

LOG = logging.getLogger(__name__)
_ENTRIES = (
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
    "weights",
)  # of a checkpoint, the usual ones first
_WRAPPERS = re.compile(r"((module|_orig_mod|model|net|network)\.)+")  # DataParallel, torch.compile, Lightning
_COUNTER = "num_batches_tracked"  # of a batch norm, unused in eval mode; checkpoints from before PyTorch 0.4.1 lack it


def read_weights(path: Path, *, key: str | None = None) -> dict[str, Tensor]:
    """Read a safetensors file, or a torch file that holds tensors and plain values only.

    Args:
        path: `*.safetensors`, or what `torch.save` made of a state dict, alone or as an entry of a checkpoint
            (`{"state_dict": ..., "epoch": ...}`).
        key: Which entry of a checkpoint, an index of a list, or the names' part before the network's, as in `ema_model`.
            Without it the usual entry of several is taken, and said.

    Raises:
        ModelError: When it is missing or unreadable, holds code, or holds no state dict or several unusual ones.
    """
    if not path.is_file():
        raise ModelError(f"no weights at {path}; expected a .safetensors file or a torch checkpoint")
    if path.suffix == ".safetensors":
        try:
            content: Any = load_file(path)
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path} cannot be read as safetensors ({error}); is it truncated?") from error
    else:
        content = _read_torch_file(path)
    weights, used = _state_dict(content, key, path=path)
    if key is None or used:
        return weights
    start = f"{key.rstrip('.')}."
    if found := {name.removeprefix(start): value for name, value in weights.items() if name.startswith(start)}:
        return found
    starts = sorted({name.partition(".")[0] for name in weights if "." in name})
    raise ModelError(
        f"{path} has no entry {key!r} and no weights {start}*; its weights begin with {', '.join(starts[:10])}"
    )


def fit_names(weights: Mapping[str, Tensor], network: Mapping[str, Tensor], *, source: str) -> dict[str, Tensor]:
    """Bring the names of weights to those of a network, whose state dict is given.

    A prefix is taken off under which every weight of the network is found: what wrappers such as DataParallel and Lightning put
    before it. Weights outside the prefix, of a loss for instance, are left out and named. A batch norm's counter may be missing.

    Raises:
        ModelError: When there are several such prefixes, none of which is a usual one.
    """
    wanted = {name for name in network if not name.endswith(_COUNTER)} or set(network)
    anchor = max(wanted, key=len, default="")
    starts = {
        name.removesuffix(anchor) for name in weights if anchor and (name == anchor or name.endswith(f".{anchor}"))
    }
    complete = sorted(start for start in starts if all(f"{start}{name}" in weights for name in wanted))
    usual = [start for start in complete if not start or _WRAPPERS.fullmatch(start)]
    if len(complete) > 1 and len(usual) != 1 and "" not in usual:
        listed = ", ".join(f"{start}*" for start in complete)
        raise ModelError(
            f"{source} holds the network's weights more than once, as {listed}; choose one with --weights-key"
        )
    start = "" if "" in usual or not complete else (usual or complete)[0]
    inside = {name.removeprefix(start): value for name, value in weights.items() if name.startswith(start)}
    outside = [name for name in weights if not name.startswith(start)]
    if start:
        left = f"; left out: {', '.join(outside[:3])}{', ...' if len(outside) > 3 else ''}" if outside else ""
        LOG.info(one_line(f"edgeproof: {source}: the network's weights are those named {start}*{left}"))
    counters = {name: value for name, value in network.items() if name.endswith(_COUNTER)}
    return {**counters, **inside}


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
        if "TorchScript" in str(error):
            raise ModelError(
                f"{path} is a TorchScript archive, a program and not weights alone; save those where you trust it, with "
                f"torch.save(torch.jit.load({path.name!r}).state_dict(), 'weights.pt')"
            ) from error
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"{path} cannot be read as a torch checkpoint ({reason}); is it truncated?") from error


def _state_dict(content: Any, key: str | None, *, path: Path) -> tuple[dict[str, Tensor], bool]:
    """Return the state dict of a file, and whether `key` has chosen it."""
    if _is_state_dict(content):
        return dict(content), False
    if isinstance(content, (list, tuple)):
        content = {str(number): value for number, value in enumerate(content)}
    entries = content if isinstance(content, Mapping) else {}
    found = {str(name): value for name, value in entries.items() if _is_state_dict(value)}
    if key in found:
        return dict(found[key]), True
    if not found:
        raise ModelError(
            f"{path} holds no state dict; expected one; save it with torch.save(network.state_dict(), FILE)"
        )
    listed = ", ".join(map(repr, found))
    usual = next(
        (name for name in (*_ENTRIES, *found) if name in found and (name in _ENTRIES or len(found) == 1)), None
    )
    if usual is None:
        raise ModelError(
            f"{path} has the state dicts {listed}; choose one with --weights-key, such as {next(iter(found))}"
        )
    if len(found) > 1:
        LOG.info(
            one_line(
                f"edgeproof: {path} has the state dicts {listed}; {usual!r} is taken; --weights-key chooses another"
            )
        )
    return dict(found[usual]), False


def _is_state_dict(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(tensor, Tensor) for tensor in value.values())

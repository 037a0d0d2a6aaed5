"""One command on the processes that torchrun has started: which one this is, and what they send each other.

The first process alone writes the run folder and reports; the others work for it. Without torchrun there is one process,
everything here gives back what it was given, and torch is not imported. What is sent is JSON, arrays or tensors, no pickle.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from datetime import timedelta
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from edgeproof.errors import ConfigError, ProcessError

if TYPE_CHECKING:
    from torch import Tensor

    from edgeproof.types import Array

V = TypeVar("V")

PATIENCE = "EDGEPROOF_PATIENCE"
_KEPT = "what is finished is kept, and the same command continues it"


def world_size() -> int:
    """Return how many processes carry out this command."""
    return int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else 1


def rank() -> int:
    """Return which of them this is, from 0."""
    return int(os.environ["RANK"]) if world_size() > 1 else 0


def first() -> bool:
    """Return whether this process writes and reports."""
    return rank() == 0


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Join the processes of this command for the block; all but the first are silent in it.

    Raises:
        ConfigError: When EDGEPROOF_PATIENCE is no number of seconds.
        ProcessError: When the others are not there.
    """
    if world_size() == 1:
        yield
        return
    import torch.distributed as dist

    signal.signal(signal.SIGTERM, _stopped)
    with contextlib.ExitStack() as silence:
        if not first():
            nothing = silence.enter_context(open(os.devnull, "w", encoding="utf-8"))
            silence.enter_context(contextlib.redirect_stdout(nothing))
            silence.enter_context(contextlib.redirect_stderr(nothing))
        with _talking():
            dist.init_process_group(_backend(), timeout=timedelta(seconds=_patience()))
        yield
        dist.destroy_process_group()


def tell(text: str) -> None:
    """Write of an error to stderr, unless another process of this command has written of one before."""
    if text and _first_to_tell():
        print(text, file=sys.stderr, flush=True)


def leave(status: int) -> NoReturn:
    """End this process after an error; of several, at once, since the usual end would wait for those that have gone."""
    if world_size() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def share(value: V) -> V:
    """Return the first process's value, plain JSON, in all of them."""
    if world_size() == 1:
        return value
    shared: V = json.loads(share_bytes(json.dumps(value).encode()))
    return shared


def share_arrays(arrays: Mapping[str, Array]) -> Mapping[str, Array]:
    """Return the first process's arrays in all of them."""
    return arrays if world_size() == 1 else _unpacked(share_bytes(_packed(arrays) if first() else b""))


def share_bytes(payload: bytes) -> bytes:
    """Return the first process's bytes in all of them."""
    if world_size() == 1:
        return payload
    import torch.distributed as dist

    with _talking():
        size = _number(len(payload))
        dist.broadcast(size, src=0)
        content = _tensor(payload) if first() else _room(int(size))
        dist.broadcast(content, src=0)
    return content.numpy().tobytes()


def collect_arrays(arrays: Mapping[str, Array]) -> list[Mapping[str, Array]]:
    """Return what each process has given, in their order; in all but the first, nothing."""
    if world_size() == 1:
        return [arrays]
    import torch.distributed as dist

    with _talking():
        if not first():
            content = _tensor(_packed(arrays))
            dist.send(_number(content.numel()), dst=0)
            dist.send(content, dst=0)
            return []
        received = []
        for sender in range(1, world_size()):
            dist.recv(size := _number(0), src=sender)
            dist.recv(content := _room(int(size)), src=sender)
            received.append(_unpacked(content.numpy().tobytes()))
    return [arrays, *received]


def total(values: Tensor) -> Tensor:
    """Return the sum of a tensor over the processes, in all of them, in its own memory."""
    import torch.distributed as dist

    with _talking():
        dist.all_reduce(values)
    return values


def collect_rows(rows: Tensor, *, count: int) -> Tensor:
    """Return the rows of all processes together, in all of them.

    Args:
        rows: This process's share, as `own_rows` gives it.
        count: Rows of all.
    """
    import torch
    import torch.distributed as dist

    longest = -(-count // world_size())
    padded = rows.new_zeros(longest, *rows.shape[1:])
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in range(world_size())]
    with _talking():
        dist.all_gather(parts, padded)
    shares = [own_rows(count, number=number) for number in range(world_size())]
    return torch.cat([part[: share.stop - share.start] for part, share in zip(parts, shares, strict=True)])


def own_rows(count: int, *, number: int | None = None) -> slice:
    """Return which of `count` rows are a process's (default: this one's): consecutive, and none has two more than another."""
    which = rank() if number is None else number
    least, more = divmod(count, world_size())
    start = which * least + min(which, more)
    return slice(start, start + least + (which < more))


def _backend() -> str:
    """Choose NCCL where every process of this machine has a GPU of its own, which it asks for; else gloo."""
    import torch

    devices = torch.cuda.device_count()
    if devices:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % devices)
    return "cpu:gloo,cuda:nccl" if devices >= int(os.environ["LOCAL_WORLD_SIZE"]) else "gloo"


def _patience() -> float:
    """Return how many seconds the others are waited for: more than the slowest batch takes the slowest of them."""
    text = os.environ.get(PATIENCE, "600")
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e7:
        raise ConfigError(f"{PATIENCE} = {text!r} is no number of seconds; expected one such as 600")
    return seconds


@contextlib.contextmanager
def _talking() -> Iterator[None]:
    """Say in one line what torch.distributed means by its errors."""
    try:
        yield
    except RuntimeError as error:
        place, _, said = str(error).partition("] ")  # gloo begins with the line of its source
        reason = (said if place.startswith("[") else str(error)).split(". ")[0].split("\n")[0]
        raise ProcessError(f"another process of this run has ended or does not answer ({reason}); {_KEPT}") from error


def _stopped(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough to leave by
    raise ProcessError(f"stopped by SIGTERM, as torchrun does when another process of this run has ended; {_KEPT}")


def _first_to_tell() -> bool:
    if world_size() == 1:
        return True
    import torch.distributed as dist

    alone = os.environ["LOCAL_RANK"] == "0"
    if not dist.is_initialized():
        return alone
    answers: list[bool] = []
    store = dist.distributed_c10d._get_default_store()
    # The host of the store may be the one that has gone, and then the question is never answered.
    asking = threading.Thread(target=lambda: answers.append(store.add("told", 1) == 1), daemon=True)
    asking.start()
    asking.join(5)
    return answers[0] if answers else alone


def _packed(arrays: Mapping[str, Array]) -> bytes:
    import numpy as np

    file = io.BytesIO()
    np.savez(file, **dict[str, Any](arrays))
    return file.getvalue()


def _unpacked(payload: bytes) -> dict[str, Array]:
    import numpy as np

    with np.load(io.BytesIO(payload), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _tensor(payload: bytes) -> Tensor:
    import torch

    return torch.frombuffer(bytearray(payload), dtype=torch.uint8) if payload else _room(0)


def _room(size: int) -> Tensor:
    import torch

    return torch.empty(size, dtype=torch.uint8)


def _number(value: int) -> Tensor:
    import torch

    return torch.tensor([value])

"""Crafting in shards, one a batch: what is finished survives an interruption, and nothing else is repeated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from edgeproof.attacks.base import AttackSpec, Draws, distance
from edgeproof.attacks.choice import Attack, run_sweep
from edgeproof.attacks.gradients import observe
from edgeproof.attacks.losses import cross_entropy
from edgeproof.attacks.queries import QueryTrace, query_counts
from edgeproof.config import format_eps
from edgeproof.data.arrays import read_npz, write_npz
from edgeproof.data.base import LabelledImages
from edgeproof.system.distributed import collect_arrays, first, rank, share, world_size
from edgeproof.system.out_of_memory import BatchSize, in_pieces
from edgeproof.system.progress import progress
from edgeproof.types import Array, Labels

if TYPE_CHECKING:
    from edgeproof.types import LogitsFn

_SATURATED = 1e-6  # a cross-entropy below it is lost in the rounding of a float32 softmax


@dataclass(frozen=True)
class Source:
    """The model that is attacked.

    Attributes:
        model: Asked for the logits that the set records.
        follow: The same model in the form that the attack asks, for instance with its batch norms folded.
        device: Where both are.
        seed: Of the attack's draws.
    """

    model: LogitsFn
    follow: LogitsFn
    device: str
    seed: int


def write_shards(
    attacks: Sequence[Attack], folders: Sequence[Path], source: Source, data: LabelledImages, *, batch_size: int
) -> None:
    """Attack a data set batch by batch; a batch whose shards are there already is left out.

    Where memory runs out a batch is crafted in halves; the draws belong to the images, and the shards are the same ones.
    Several processes take whole batches in turn, so that these are the same as those of one process, and the first writes.

    Args:
        attacks: One attack at several budgets, or one.
        folders: Where the shards of each go.
        source: The model that is attacked.
        data: Clean images.
        batch_size: Images a step.
    """
    title = f"{attacks[0].spec.name} {', '.join(format_eps(attack.eps) for attack in attacks)}"
    size = BatchSize(batch_size)
    missing = [n for n in range(0, len(data), batch_size) if not all(_file(at, n).exists() for at in folders)]
    starts = share(missing)  # the first process has the folders
    left = sum(min(batch_size, len(data) - start) for start in starts)
    with progress(title, len(data), done=len(data) - left) as advance:
        for turn in range(0, len(starts), world_size()):
            now = starts[turn : turn + world_size()]  # a batch each, and in the last turn none for some
            shards: list[dict[str, Array]] = [{} for _ in attacks]
            if rank() < len(now):
                rows = np.arange(now[rank()], min(now[rank()] + batch_size, len(data)))
                shards = _craft_in_pieces(attacks, source, data.take(rows), size)
            for folder, shard in zip(folders, shards, strict=True):
                for start, made in zip(now, collect_arrays(shard), strict=False):
                    write_npz(_file(folder, start), made)
            if first():
                crafted = sum(min(batch_size, len(data) - start) for start in now)
                advance(crafted, note=f"{100 * float(shards[-1]['fooled'].mean()):.0f} % misclassified")


def read_shards(folder: Path, *, count: int) -> dict[str, Array]:
    """Join the shards of `count` images into one array a name, holding one shard at a time beside the result."""
    joined: dict[str, Array] = {}
    row = 0
    for file in sorted(folder.glob("*.npz")):
        shard = read_npz(file)
        for name, rows in shard.items():
            joined.setdefault(name, np.empty((count, *rows.shape[1:]), rows.dtype))[row : row + len(rows)] = rows
        row += len(shard["x_adv"])
    return joined


def indicators(found: Mapping[str, Array], *, radius: float) -> dict[str, float]:
    """Return what hints at hidden gradients or at an attack that did not do its work, as shares of the images."""
    shares = ("zero_gradients", "non_finite_gradients", "saturated_loss")
    measured = {name: float(found[name].mean()) for name in shares if name in found}
    if radius > 0:
        measured["budget_used"] = float(found["moved"].mean() / radius)
    return measured


def findings(found: Mapping[str, Array], *, labels: Labels) -> dict[str, Any]:
    """Return what the shards say beyond images: for a query attack its success against queries."""
    if "queries_found" not in found:
        return {}
    wrong = found["clean_logits"].argmax(1) != labels
    return {"queries": query_counts(found["queries_found"], found["queries_asked"], wrong)}


def _file(folder: Path, start: int) -> Path:
    return folder / f"{start:09d}.npz"


def _craft_in_pieces(
    attacks: Sequence[Attack], source: Source, batch: LabelledImages, size: BatchSize
) -> list[dict[str, Array]]:
    made = in_pieces(
        len(batch), size, lambda start, stop: _craft_batch(attacks, source, batch.take(np.arange(start, stop)))
    )
    return [
        {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} for parts in zip(*made, strict=True)
    ]


def _craft_batch(attacks: Sequence[Attack], source: Source, batch: LabelledImages) -> list[dict[str, Array]]:
    """Return the arrays of a shard for each attack, one row an image."""
    x = torch.from_numpy(batch.images).to(source.device)
    y = torch.from_numpy(batch.labels).to(source.device)
    clean = _look_at_clean(attacks[0].spec, source.model, x, y)
    draws = Draws(seed=source.seed, index=batch.index)
    traces = [QueryTrace(len(x)) for _ in attacks] if attacks[0].spec.takes("trace") else None
    crafted = run_sweep(attacks, source.follow, x, y, draws=draws, traces=traces)
    shards = [_shard(source.model, x, y, x_adv, clean, spec=attacks[0].spec) for x_adv in crafted]
    for shard, trace in zip(shards, traces or (), strict=False):
        shard.update(queries_asked=trace.asked, queries_found=trace.found)
    return shards


def _look_at_clean(spec: AttackSpec, model: LogitsFn, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Return the logits on the clean images, and where the attack follows gradients what may hide them."""
    if spec.access != "gradients":
        with torch.no_grad():
            return {"clean_logits": model(x).float()}
    seen = observe(model, x, y, loss=cross_entropy)
    size = seen.grad.abs().flatten(1).amax(1)
    return {
        "clean_logits": seen.logits.float(),
        "zero_gradients": size == 0,
        "non_finite_gradients": ~torch.isfinite(size) | ~torch.isfinite(seen.losses),
        "saturated_loss": seen.losses < _SATURATED,
    }


def _shard(
    model: LogitsFn, x: Tensor, y: Tensor, x_adv: Tensor, clean: Mapping[str, Tensor], *, spec: AttackSpec
) -> dict[str, Array]:
    with torch.no_grad():
        logits = model(x_adv)
    found = {
        "x_adv": x_adv,
        "logits": logits.float(),
        "fooled": logits.argmax(1) != y,
        "moved": distance(x, x_adv, norm=spec.norm),
        **clean,
    }
    return {name: value.cpu().numpy() for name, value in found.items()}

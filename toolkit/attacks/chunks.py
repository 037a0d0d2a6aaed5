"""Crafting in chunks, one per batch: what is finished survives an interruption, and nothing else is repeated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgeproof.attacks.base import Draws, distance
from edgeproof.attacks.configured import Attack, run_sweep
from edgeproof.attacks.losses import cross_entropy
from edgeproof.attacks.queries import QueryTrace, query_counts
from edgeproof.config import format_eps
from edgeproof.data.arrays import read_npz, write_npz
from edgeproof.data.base import LabelledImages
from edgeproof.source_model.base import SourceModel
from edgeproof.system.distributed import collect_arrays, first, rank, share, world_size
from edgeproof.system.out_of_memory import BatchSize, in_pieces
from edgeproof.system.progress import progress
from edgeproof.types import Array, Labels

_SATURATED = 1e-6  # a cross-entropy below it is lost in the rounding of a float32 softmax


def write_chunks(
    attacks: Sequence[Attack],
    folders: Sequence[Path],
    source: SourceModel,
    data: LabelledImages,
    *,
    batch_size: int,
    seed: int,
) -> None:
    """Attack a data set batch by batch; a batch whose chunks are there already is left out.

    Where memory runs out a batch is crafted in halves; the draws belong to the images, and the chunks are the same ones.
    Several processes take whole batches in turn, so that these are the same as those of one process, and the first writes.

    Args:
        attacks: One attack at several budgets, or one.
        folders: Where the chunks of each go.
        source: The model that is attacked.
        data: Clean images.
        batch_size: Images a step.
        seed: Of the attack's draws.
    """
    title = f"{attacks[0].spec.name} {', '.join(format_eps(attack.eps) for attack in attacks)}"
    size = BatchSize(batch_size)
    missing = [n for n in range(0, len(data), batch_size) if not all(_file(at, n).exists() for at in folders)]
    starts = share(missing)  # the first process has the folders
    left = sum(min(batch_size, len(data) - start) for start in starts)
    with progress(title, len(data), done=len(data) - left) as advance:
        for turn in range(0, len(starts), world_size()):
            now = starts[turn : turn + world_size()]  # a batch each, and in the last turn none for some
            chunks: list[dict[str, Array]] = [{} for _ in attacks]
            if rank() < len(now):
                rows = np.arange(now[rank()], min(now[rank()] + batch_size, len(data)))
                pieces = in_pieces(len(rows), size, partial(craft_batch, attacks, source, data.take(rows), seed))
                chunks = [
                    {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
                    for parts in zip(*pieces, strict=True)
                ]
            for folder, chunk in zip(folders, chunks, strict=True):
                for start, made in zip(now, collect_arrays(chunk), strict=False):
                    write_npz(_file(folder, start), made)
            if first():
                crafted = sum(min(batch_size, len(data) - start) for start in now)
                advance(crafted, note=f"{100 * float(chunks[-1]['fooled'].mean()):.0f} % misclassified")


def read_chunks(folder: Path, *, count: int) -> dict[str, Array]:
    """Join the chunks of `count` images into one array per name, holding one chunk at a time next to the result."""
    joined: dict[str, Array] = {}
    row = 0
    for file in sorted(folder.glob("*.npz")):
        chunk = read_npz(file)
        for name, rows in chunk.items():
            joined.setdefault(name, np.empty((count, *rows.shape[1:]), rows.dtype))[row : row + len(rows)] = rows
        row += len(chunk["x_adv"])
    return joined


def craft_batch(
    attacks: Sequence[Attack], source: SourceModel, data: LabelledImages, seed: int, start: int, stop: int
) -> list[dict[str, Array]]:
    """Attack the rows from `start` to `stop`; return the arrays of a chunk for each attack, one row per image.

    These are `x_adv`, `logits`, `clean_logits`, `fooled` and `moved` (the distance from the clean image); for attacks that follow
    gradients what may hide them on the clean image: `zero_gradients`, `non_finite_gradients`, `saturated_loss`; and for attacks
    by queries `queries_asked` and `queries_found`.
    """
    spec, batch = attacks[0].spec, data.take(np.arange(start, stop))
    x, y = torch.from_numpy(batch.images).to(source.device), torch.from_numpy(batch.labels).to(source.device)
    if spec.access == "gradients":
        seen = source.value_and_grad(x, y, loss=cross_entropy)
        size = seen.grad.abs().flatten(1).amax(1)
        clean = {
            "clean_logits": seen.logits.float(),
            "zero_gradients": size == 0,
            "non_finite_gradients": ~torch.isfinite(size) | ~torch.isfinite(seen.losses),
            "saturated_loss": seen.losses < _SATURATED,
        }
    else:
        clean = {"clean_logits": source.logits(x).float()}
    traces = [QueryTrace(len(x)) if spec.takes("trace") else None for _ in attacks]
    draws = Draws(seed=seed, index=batch.index)
    swept = run_sweep(attacks, source.follow, x, y, draws=draws) if spec.nested and len(attacks) > 1 else None
    chunks = []
    for number, (attack, trace) in enumerate(zip(attacks, traces, strict=True)):
        x_adv = swept[number] if swept else attack.run(source.follow, x, y, draws=draws, trace=trace)
        logits = source.logits(x_adv)
        found = {
            "x_adv": x_adv,
            "logits": logits.float(),
            "fooled": logits.argmax(1) != y,
            "moved": distance(x, x_adv, norm=spec.norm),
            **clean,
        }
        chunks.append({name: value.cpu().numpy() for name, value in found.items()})
        if trace:
            chunks[-1] |= {"queries_asked": trace.asked, "queries_found": trace.found}
    return chunks


def indicators(found: Mapping[str, Array], *, radius: float) -> dict[str, float]:
    """Return what hints at hidden gradients or at an attack that did not do its work, as shares of the images."""
    shares = ("zero_gradients", "non_finite_gradients", "saturated_loss")
    measured = {name: float(found[name].mean()) for name in shares if name in found}
    if radius > 0:
        measured["budget_used"] = float(found["moved"].mean() / radius)
    return measured


def findings(found: Mapping[str, Array], *, labels: Labels) -> dict[str, Any]:
    """Return what the chunks say beyond images: for a query attack its success against queries."""
    if "queries_found" not in found:
        return {}
    wrong = found["clean_logits"].argmax(1) != labels
    return {"queries": query_counts(found["queries_found"], found["queries_asked"], wrong)}


def _file(folder: Path, start: int) -> Path:
    return folder / f"{start:09d}.npz"

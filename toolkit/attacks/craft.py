"""The attack stage: a whole data set through one attack, in shards that survive an interruption."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from toolkit.attacks.base import AttackSpec, Draws, distance, find_attack
from toolkit.attacks.choice import Attack, choose_attack
from toolkit.attacks.gradients import observe
from toolkit.attacks.losses import cross_entropy
from toolkit.config import AttackConfig, DataConfig, format_eps
from toolkit.data.arrays import read_npz, to_storage, write_npz
from toolkit.data.base import AdversarialSet, LabelledImages, load_part, save_adversarial_set
from toolkit.errors import DataError
from toolkit.models.base import Classifier, load_classifier
from toolkit.progress import progress
from toolkit.runs import Run
from toolkit.types import Array, Pixels

if TYPE_CHECKING:
    from toolkit.types import LogitsFn

SHARDS = "shards"
_SATURATED = 1e-6  # a cross-entropy below it is lost in the rounding of a float32 softmax


def attack(config: AttackConfig, out: Run) -> None:
    """Run the attack stage: open the source model and its data, craft, write the adversarial set and finish the run.

    Raises:
        ToolkitError: For a model, data or parameters that cannot be used.
    """
    source = Run.open(config.model, kind="train")
    model = load_classifier(source.file("model.safetensors"), device=config.device)
    data = _clean_images(config, source)
    _check_fit(model, data)
    adversaries = craft(
        find_attack(config.attack),
        model,
        data,
        eps=config.eps,
        params=config.params,
        batch_size=config.batch_size,
        seed=config.seed,
        device=config.device,
        out=out,
        pixels=config.pixels,
        stop=config.stop,
        source=source.path.name,
    )
    save_adversarial_set(out, adversaries)
    out.finish(discard=(SHARDS,))


def craft(
    spec: AttackSpec,
    model: LogitsFn,
    data: LabelledImages,
    *,
    eps: float,
    params: Mapping[str, Any],
    batch_size: int,
    seed: int,
    device: str,
    out: Run,
    pixels: Pixels = "float",
    stop: str = "never",
    source: str = "",
) -> AdversarialSet:
    """Attack every image of a data set.

    What is finished stands in `shards/` of the run, so that a killed process is continued by the next one, and the result
    is the same to the byte. In memory are one batch with its gradients, and the output.

    Args:
        spec: The attack.
        model: The source model: images (N, C, H, W) in [0, 1] on `device` to logits, in eval mode.
        data: Clean images with their labels.
        eps: Budget in [0, 1] pixel units.
        params: The attack's parameters, as text or values.
        batch_size: Images a step. Random draws do not depend on it.
        seed: Of the draws.
        device: Where the attack runs.
        out: The run that is being written.
        pixels: "uint8" brings the adversaries to the 8-bit grid, inside the budget.
        stop: "never", "first" or "margin=K": when an image has been attacked enough.
        source: Name of the source model, for people.

    Raises:
        ConfigError: For parameters that the attack does not have or that contradict each other.
        DataError: For clean images that the 8-bit grid cannot serve.
        AttackContractError: When the attack breaks its promise.
    """
    chosen = choose_attack(spec, eps=eps, params=params, pixels=pixels, stop=stop)
    _check_grid_possible(chosen, data)
    files = _craft_shards(
        chosen, model, data, batch_size=batch_size, seed=seed, device=device, folder=out.path / SHARDS
    )
    found = _join(files, count=len(data))
    return AdversarialSet(
        name=f"{spec.name} {format_eps(eps)}",
        attack=spec.name,
        norm=spec.norm,
        eps=eps,
        images=found["x_adv"],
        clean=data,
        source=source,
        source_logits=found["logits"],
        source_clean_logits=found["clean_logits"],
        params={**chosen.params, "stop": stop, "seed": seed},
        pixels=pixels,
        indicators=_indicators(found, radius=chosen.radius),
        clipped=spec.box,
    )


def _craft_shards(
    chosen: Attack, model: LogitsFn, data: LabelledImages, *, batch_size: int, seed: int, device: str, folder: Path
) -> list[Path]:
    starts = range(0, len(data), batch_size)
    files = [folder / f"{start:09d}-{min(start + batch_size, len(data)):09d}.npz" for start in starts]
    done = sum(min(batch_size, len(data) - start) for start, file in zip(starts, files, strict=True) if file.exists())
    title = f"{chosen.spec.name} {format_eps(chosen.eps)}"
    with progress(title, len(data), done=done) as advance:
        for start, file in zip(starts, files, strict=True):
            if not file.exists():
                batch = data.take(np.arange(start, min(start + batch_size, len(data))))
                shard = _craft_batch(chosen, model, batch, seed=seed, device=device)
                write_npz(file, shard)
                advance(len(batch), note=f"{100 * float(shard['broken'].mean()):.0f} % misclassified")
    return files


def _craft_batch(chosen: Attack, model: LogitsFn, batch: LabelledImages, *, seed: int, device: str) -> dict[str, Array]:
    """Return the arrays of a shard, each with one row an image."""
    x = torch.from_numpy(batch.images).to(device)
    y = torch.from_numpy(batch.labels).to(device)
    clean = _look_at_clean(chosen.spec, model, x, y)
    x_adv = chosen.run(model, x, y, draws=Draws(seed=seed, index=batch.index))
    with torch.no_grad():
        logits = model(x_adv)
    found = {
        "x_adv": x_adv,
        "logits": logits.float(),
        "broken": logits.argmax(1) != y,
        "moved": distance(x, x_adv, norm=chosen.spec.norm),
        **clean,
    }
    return {name: value.cpu().numpy() for name, value in found.items()}


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


def _join(files: Sequence[Path], *, count: int) -> dict[str, Array]:
    """Read the shards into one array a name, one shard at a time."""
    joined: dict[str, Array] = {}
    row = 0
    for file in files:
        shard = read_npz(file)
        for name, rows in shard.items():
            joined.setdefault(name, np.empty((count, *rows.shape[1:]), rows.dtype))[row : row + len(rows)] = rows
        row += len(shard["x_adv"])
    return joined


def _indicators(found: Mapping[str, Array], *, radius: float) -> dict[str, float]:
    """Return what hints at hidden gradients or an attack that did not do its work, as shares of the images."""
    shares = ("zero_gradients", "non_finite_gradients", "saturated_loss")
    indicators = {name: float(found[name].mean()) for name in shares if name in found}
    if radius > 0:
        indicators["budget_used"] = float(found["moved"].mean() / radius)
    return indicators


def _clean_images(config: AttackConfig, source: Run) -> LabelledImages:
    trained_on = DataConfig.model_validate(source.config["data"])
    chosen = trained_on if config.data is None else DataConfig(name=config.data)
    data = load_part(chosen, config.split).head(config.limit, seed=config.seed)
    if not len(data):
        raise DataError(f"the {config.split} split of {chosen.name} is empty; choose another --split or --data")
    return data


def _check_fit(model: Classifier, data: LabelledImages) -> None:
    if tuple(model.input_shape) != data.input_shape or model.num_classes != data.num_classes:
        raise DataError(
            f"{data.name} has images {data.input_shape} of {data.num_classes} classes; "
            f"the source model {model.name!r} takes {tuple(model.input_shape)} and {model.num_classes} classes"
        )


def _check_grid_possible(chosen: Attack, data: LabelledImages) -> None:
    # Towards a clean pixel that is itself off the grid there may be no level, and an L2 budget cannot tell in advance.
    if chosen.pixels == "uint8" and chosen.spec.norm == "l2" and to_storage(data.images).dtype != np.uint8:
        raise DataError(
            f"{data.name}: the clean images are no 8-bit ones, so an L2 attack cannot keep to the grid; use pixels = float"
        )

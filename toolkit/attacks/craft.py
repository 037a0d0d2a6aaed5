"""The attack stage: a whole data set through one attack, at one budget or at several."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from toolkit.attacks.base import AttackSpec, Draws, find_attack
from toolkit.attacks.choice import Attack, choose_attack
from toolkit.attacks.shards import Source, indicators, read_shards, write_shards
from toolkit.attacks.source import fast_source
from toolkit.attacks.twin import Network, check_twin, chosen_data, confirm, open_source
from toolkit.config import AttackConfig, DataConfig, format_eps
from toolkit.data.arrays import to_storage
from toolkit.data.base import AdversarialSet, LabelledImages, load_splits, save_adversarial_set
from toolkit.errors import ConfigError, DataError
from toolkit.runs import Run
from toolkit.types import Pixels

if TYPE_CHECKING:
    from toolkit.types import LogitsFn

SHARDS = "shards"


def attack(config: AttackConfig, out: Run) -> None:
    """Run the attack stage: open the source model and its data, craft, write the adversarial set and finish the run.

    Raises:
        ToolkitError: For a model, data or parameters that cannot be used.
    """
    attack_sweep([config], [out])


def attack_sweep(configs: Sequence[AttackConfig], outs: Sequence[Run]) -> None:
    """Run the attack stage at several budgets and share what can be shared; each run holds what it would hold alone.

    Args:
        configs: They differ in `eps` alone.
        outs: A run for each. Those that are done stay as they are.

    Raises:
        ConfigError: When the configurations differ in more.
        ToolkitError: For a model, data or parameters that cannot be used.
    """
    config = configs[0]
    if any(other.model_copy(update={"eps": config.eps}) != config for other in configs):
        raise ConfigError("the attacks of a sweep differ in more than eps; run them one by one")
    origin = open_source(Path(config.model), device=config.device)
    model = origin.model
    data = _clean_images(config, chosen_data(origin, config.data))
    _check_fit(model, data)
    checked = check_twin(origin, data, batch_size=config.batch_size)
    todo = {out: _choose(each) for each, out in zip(configs, outs, strict=True) if not out.done}
    for chosen in todo.values():
        _check_grid_possible(chosen, data)
    follow = _follow(model, data, config, list(todo.values()))
    source = Source(model, follow, device=config.device, seed=config.seed)
    write_shards(list(todo.values()), [out.path / SHARDS for out in todo], source, data, batch_size=config.batch_size)
    for out, chosen in todo.items():
        settings = {"stop": config.stop, "seed": config.seed, "gradients": config.gradients}
        made = _assemble(chosen, data, out, source=origin.name, settings=settings)
        save_adversarial_set(out, confirm(made, origin, checked=checked, batch_size=config.batch_size))
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
    attacked = Source(model, model, device=device, seed=seed)
    write_shards([chosen], [out.path / SHARDS], attacked, data, batch_size=batch_size)
    return _assemble(chosen, data, out, source=source, settings={"stop": stop, "seed": seed})


def _assemble(
    chosen: Attack, data: LabelledImages, out: Run, *, source: str, settings: Mapping[str, Any]
) -> AdversarialSet:
    """Make the adversarial set of the finished shards of a run."""
    found = read_shards(out.path / SHARDS, count=len(data))
    return AdversarialSet(
        name=f"{chosen.spec.name} {format_eps(chosen.eps)}",
        attack=chosen.spec.name,
        norm=chosen.spec.norm,
        eps=chosen.eps,
        images=found["x_adv"],
        clean=data,
        source=source,
        source_logits=found["logits"],
        source_clean_logits=found["clean_logits"],
        params={**chosen.params, **settings},
        pixels=chosen.pixels,
        indicators=indicators(found, radius=chosen.radius),
        clipped=chosen.spec.box,
    )


def _choose(config: AttackConfig) -> Attack:
    spec = find_attack(config.attack)
    return choose_attack(spec, eps=config.eps, params=config.params, pixels=config.pixels, stop=config.stop)


def _follow(model: Network, data: LabelledImages, config: AttackConfig, attacks: Sequence[Attack]) -> LogitsFn:
    """Return the form of the model that the attacks ask, and say what bf16 costs them."""
    first = data.take(np.arange(min(config.batch_size, len(data))))
    x = torch.from_numpy(first.images).to(config.device)
    follow = fast_source(model, x[:8], mode=config.gradients)
    if config.gradients == "bf16" and attacks:
        y = torch.from_numpy(first.labels).to(config.device)
        draws = Draws(seed=config.seed, index=first.index)
        success = [
            float((model(attacks[-1].run(form, x, y, draws=draws)).argmax(1) != y).float().mean())
            for form in (follow, model)
        ]
        print(
            f"bf16 gradients: {100 * success[0]:.1f} % misclassified, float32: {100 * success[1]:.1f} %, "
            f"of the first {len(first)} images",
            file=sys.stderr,
        )
    return follow


def _clean_images(config: AttackConfig, chosen: DataConfig) -> LabelledImages:
    data = load_splits(chosen).part(config.split).head(config.limit, seed=config.seed)
    if not len(data):
        raise DataError(f"the {config.split} split of {chosen.name} is empty; choose another --split or --data")
    return data


def _check_fit(model: Network, data: LabelledImages) -> None:
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

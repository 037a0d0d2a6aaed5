"""The attack stage: a whole data set through one attack, at one budget or at several."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from edgeproof.attacks.base import Access, AttackSpec, Draws, find_attack
from edgeproof.attacks.builds import combine, compare_builds, confirm_on_each
from edgeproof.attacks.choice import Attack, choose_attack
from edgeproof.attacks.perturbed import FIT, fit_on_training
from edgeproof.attacks.probes import DEFAULT_COUNT, Probe, choose_probe, look_for_masking
from edgeproof.attacks.queries import QueriedEngine
from edgeproof.attacks.shards import Source, findings, indicators, read_shards, write_shards
from edgeproof.attacks.source import fast_source
from edgeproof.attacks.twin import Network, Origin, check_twin, chosen_data, open_queried, open_source
from edgeproof.config import AttackConfig, DataConfig, format_eps
from edgeproof.data.arrays import to_storage
from edgeproof.data.base import AdversarialSet, LabelledImages, load_part, load_splits, save_adversarial_set
from edgeproof.data.shard import parse_shard
from edgeproof.errors import ConfigError, DataError, one_line
from edgeproof.evaluation.findings import finding_sentences
from edgeproof.runs import Run
from edgeproof.system.distributed import first
from edgeproof.types import Pixels

if TYPE_CHECKING:
    from edgeproof.types import LogitsFn

LOG = logging.getLogger(__name__)
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
    spec = find_attack(config.attack)
    with ExitStack() as opened:
        origins = [
            open_origin(path, config, opened, access=spec.access)
            for path in (config.model, *(config.ensemble_builds or ()))
        ]
        images_of = chosen_data(origins[0], config.data)
        data = _clean_images(config, images_of)
        left = [(each, out) for each, out in zip(configs, outs, strict=True) if not out.done]
        sets = craft_sets(
            [each for each, _ in left],
            [out.path for _, out in left],
            spec=spec,
            origins=origins,
            data=data,
            load_train=lambda: load_splits(images_of).train,
        )
        for (_, out), made in zip(left, sets, strict=False):  # only the first process has the sets
            save_adversarial_set(out, made)
            out.intermediate(SHARDS, FIT)


def craft_sets(
    configs: Sequence[AttackConfig],
    folders: Sequence[Path],
    *,
    spec: AttackSpec,
    origins: Sequence[Origin],
    data: LabelledImages,
    load_train: Callable[[], LabelledImages],
) -> Iterator[AdversarialSet]:
    """Craft the adversarial sets of one attack at several budgets, one at a time, of models that are open.

    Args:
        configs: They differ in `eps` alone; their `attack`, `model` and `data` have been opened.
        folders: A folder for each, where what is finished of it stands, so that it can be continued.
        spec: The attack.
        origins: What is attacked: one model, or several builds of it.
        data: Clean images.
        load_train: Reads the training images, for an attack that is fitted on them.

    Raises:
        DataError: For images that the model does not take.
        ToolkitError: For parameters that cannot be used.
    """
    config = configs[0]
    for origin in origins:
        _check_fit(origin.model, data)
    checked = [check_twin(origin, data, batch_size=config.batch_size) for origin in origins]
    second = _open_deployed(config, data)
    deployed = None if second is None else _follow(second.model, data, config, [])
    todo = [
        choose_attack(spec, eps=each.eps, params=each.params, pixels=each.pixels, stop=each.stop, deployed=deployed)
        for each in configs
    ]
    for chosen in todo:
        _check_grid_possible(chosen, data)
    follow = combine([_follow(origin.model, data, config, todo) for origin in origins])
    source = Source(combine([origin.model for origin in origins]), follow, device=config.device, seed=config.seed)
    todo = [fit_on_training(chosen, source, load_train, at) for chosen, at in zip(todo, folders, strict=True)]
    write_shards(todo, [at / SHARDS for at in folders], source, data, batch_size=config.batch_size)
    if not first():
        return  # what is left is to look at the whole set
    probe = _probe(source, origins, data, config)
    settings = {"stop": config.stop, "seed": config.seed, "gradients": config.gradients}
    for at, chosen in zip(folders, todo, strict=True):
        made = _assemble(chosen, data, at, source=" + ".join(origin.name for origin in origins), settings=settings)
        masking = look_for_masking(probe, chosen, made.images) if probe else {}
        # An attack on the difference of two builds is no measure of what knowing either of them gains.
        hashes = () if second else tuple(origin.sha256 for origin in origins)
        seen = replace(made, source_sha256=hashes, indicators={**made.indicators, **masking})
        confirmed = confirm_on_each(seen, origins, checked=checked, batch_size=config.batch_size, folder=at)
        judged = compare_builds(confirmed, second, batch_size=config.batch_size) if second else confirmed
        for sentence in finding_sentences(judged.findings):
            LOG.info(one_line(f"{judged.name}: {sentence}"))
        yield judged


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
    return _assemble(chosen, data, out.path, source=source, settings={"stop": stop, "seed": seed})


def _assemble(
    chosen: Attack, data: LabelledImages, folder: Path, *, source: str, settings: Mapping[str, Any]
) -> AdversarialSet:
    """Make the adversarial set of the finished shards in a folder."""
    found = read_shards(folder / SHARDS, count=len(data))
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
        access=chosen.spec.access,
        findings=findings(found, labels=data.labels),
    )


def open_origin(text: str, config: AttackConfig, opened: ExitStack, *, access: Access) -> Origin:
    """Open a source: what runs itself for an attack by queries, unless it is a checkpoint; else what has gradients."""
    if access == "queries" and not Path(text).is_dir():
        return opened.enter_context(open_queried(text, device=config.device, batch_size=config.batch_size))
    return open_source(Path(text), device=config.device)


def _open_deployed(config: AttackConfig, data: LabelledImages) -> Origin | None:
    if config.deployed is None:
        return None
    second = open_source(Path(config.deployed), device=config.device)
    _check_fit(second.model, data)
    check_twin(second, data, batch_size=config.batch_size)
    return second


def _follow(model: Network, data: LabelledImages, config: AttackConfig, attacks: Sequence[Attack]) -> LogitsFn:
    """Return the form of the model that the attacks ask, and say what bf16 costs them."""
    if isinstance(model, QueriedEngine):
        return model
    first = data.take(np.arange(min(config.batch_size, len(data))))
    x = torch.from_numpy(first.images).to(config.device)
    follow = fast_source(model, x[:8], mode=config.gradients)
    if config.gradients == "bf16" and attacks and attacks[-1].spec.access != "data":
        y = torch.from_numpy(first.labels).to(config.device)
        draws = Draws(seed=config.seed, index=first.index)
        success = [
            float((model(attacks[-1].run(form, x, y, draws=draws)).argmax(1) != y).float().mean())
            for form in (follow, model)
        ]
        LOG.info(
            f"bf16 gradients: {100 * success[0]:.1f} % misclassified, float32: {100 * success[1]:.1f} %, "
            f"of the first {len(first)} images"
        )
    return follow


def _probe(source: Source, origins: Sequence[Origin], data: LabelledImages, config: AttackConfig) -> Probe | None:
    """Choose the images on which masking is looked for; a graph's surrogate is the checkpoint that it was exported from."""
    if any(isinstance(origin.model, QueriedEngine) for origin in origins):
        return None  # masking is about gradients, and an engine has none
    count = DEFAULT_COUNT if config.probe is None else config.probe
    checkpoint = origins[0].checkpoint if len(origins) == 1 else None
    surrogate = open_source(checkpoint, device=config.device).model if checkpoint and count else None
    return choose_probe(source, data, count=count, surrogate=surrogate) if count else None


def _clean_images(config: AttackConfig, chosen: DataConfig) -> LabelledImages:
    data = load_part(chosen, config.split).head(config.limit, seed=config.seed)
    if config.shard is not None:
        data = data.take(parse_shard(config.shard).rows(len(data)))
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

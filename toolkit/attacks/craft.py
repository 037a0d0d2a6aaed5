"""The attack stage: a whole data set through one attack, at one budget or at several."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from edgeproof.attacks.base import AttackSpec, Draws, find_attack
from edgeproof.attacks.chunks import findings, indicators, read_chunks, write_chunks
from edgeproof.attacks.configured import Attack, choose_attack
from edgeproof.attacks.confirm import compare_builds, confirm
from edgeproof.attacks.perturbed import FIT, fit_on_training
from edgeproof.attacks.probes import DEFAULT_COUNT, choose_probe, look_for_masking
from edgeproof.config import AttackConfig, DataConfig, format_eps
from edgeproof.data.arrays import to_storage
from edgeproof.data.base import AdversarialSet, LabelledImages, load_part, load_splits, save_adversarial_set
from edgeproof.data.shard import parse_shard
from edgeproof.errors import ConfigError, DataError, one_line
from edgeproof.evaluation.findings import finding_sentences
from edgeproof.runs import Run
from edgeproof.source_model.base import SourceModel
from edgeproof.source_model.opening import open_source, open_sources
from edgeproof.system.distributed import first

LOG = logging.getLogger(__name__)
CHUNKS = "chunks"
_CHUNKS_BEFORE = "shards"  # their former name, in unfinished runs that were begun with it


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
    spec, texts = find_attack(config.attack), (config.model, *(config.ensemble_builds or ()))
    queries = spec.access == "queries"
    with open_sources(
        texts,
        queries=queries,
        device=config.device,
        batch_size=config.batch_size,
        output=config.output,
        classes_file=config.classes_file,
    ) as source:
        images_of = source.data(config.data)
        data = _clean_images(config, images_of)
        left = {out: each for each, out in zip(configs, outs, strict=True) if not out.done}
        sets = craft_sets(
            list(left.values()),
            [out.path for out in left],
            spec=spec,
            source=source,
            data=data,
            load_train=lambda: load_splits(images_of).train,
        )
        for out, made in zip(left, sets, strict=False):  # only the first process has the sets
            save_adversarial_set(out, made)
            out.intermediate(CHUNKS, FIT)


def craft_sets(
    configs: Sequence[AttackConfig],
    folders: Sequence[Path],
    *,
    spec: AttackSpec,
    source: SourceModel,
    data: LabelledImages,
    load_train: Callable[[], LabelledImages],
) -> Iterator[AdversarialSet]:
    """Craft the adversarial sets of one attack at several budgets, one at a time, of a model that is open.

    What is finished stands in `chunks/` of each folder, so that a killed process is continued by the next one, and the result
    is the same to the byte. In memory are one batch with its gradients, and the output.

    Args:
        configs: They differ in `eps` alone; their `attack`, `model` and `data` have been opened.
        folders: A folder for each, where what is finished of it stands.
        spec: The attack.
        source: What is attacked.
        data: Clean images.
        load_train: Reads the training images, for an attack that is fitted on them.

    Yields:
        The adversarial set of each; of several processes only the first gets any.

    Raises:
        DataError: For images that the model does not take, or that the 8-bit grid cannot serve.
        ConfigError: For parameters that the attack does not have or that contradict each other.
        AttackContractError: When the attack breaks its promise.
    """
    config, size, seed = configs[0], configs[0].batch_size, configs[0].seed
    data = source.fitted(data)
    checked = source.self_check(data, batch_size=size)
    deployed = _open_deployed(config, data)
    second = deployed and deployed.follow
    attacks = [
        choose_attack(spec, eps=each.eps, params=each.params, pixels=each.pixels, stop=each.stop, deployed=second)
        for each in configs
    ]
    for chosen in attacks:
        # Towards a clean pixel that is itself off the grid there may be no level, and an L2 budget cannot tell in advance.
        if chosen.pixels == "uint8" and spec.norm == "l2" and to_storage(data.images).dtype != np.uint8:
            raise DataError(
                f"{data.name}: the clean images are no 8-bit ones, so an L2 attack cannot keep to the grid; use pixels = float"
            )
    source = _prepared(source, data, config)
    if config.gradients == "bf16" and source.has_gradients and spec.access != "data":
        _report_bf16(source, attacks[-1], data, config)
    attacks = [
        fit_on_training(each, source, lambda: source.fitted(load_train(), quiet=True), at, seed=seed)
        for each, at in zip(attacks, folders, strict=True)
    ]
    chunks = [_chunks_of(folder) for folder in folders]
    write_chunks(attacks, chunks, source, data, batch_size=size, seed=seed)
    if not first():
        return  # what is left is to look at the whole set
    count = DEFAULT_COUNT if config.probe is None else config.probe
    probe = choose_probe(source, data, count=count, seed=seed) if count and source.has_gradients else None
    for folder, stored, chosen in zip(folders, chunks, attacks, strict=True):
        made = _assemble(chosen, source, data, stored, config)
        masking = look_for_masking(probe, chosen, made.images) if probe else {}
        # An attack on the difference of two builds is no measure of what knowing either of them gains.
        hashes = () if deployed else source.sha256
        made = replace(made, source_sha256=hashes, indicators={**made.indicators, **masking})
        made = confirm(made, source, checked=checked, batch_size=size, folder=folder)
        if deployed:
            made = compare_builds(made, deployed, batch_size=size)
        for sentence in finding_sentences(made.findings):
            LOG.info(one_line(f"{made.name}: {sentence}"))
        yield made


def _assemble(
    chosen: Attack, source: SourceModel, data: LabelledImages, chunks: Path, config: AttackConfig
) -> AdversarialSet:
    """Make the adversarial set of the finished chunks in a folder."""
    found = read_chunks(chunks, count=len(data))
    return AdversarialSet(
        name=f"{chosen.spec.name} {format_eps(chosen.eps)}",
        attack=chosen.spec.name,
        norm=chosen.spec.norm,
        eps=chosen.eps,
        images=found["x_adv"],
        clean=data,
        source=source.name,
        source_logits=found["logits"],
        source_clean_logits=found["clean_logits"],
        params={**chosen.params, "stop": config.stop, "seed": config.seed, "gradients": config.gradients},
        pixels=chosen.pixels,
        indicators=indicators(found, radius=chosen.radius),
        clipped=chosen.spec.box,
        access=chosen.spec.access,
        findings=findings(found, labels=data.labels),
    )


def _open_deployed(config: AttackConfig, data: LabelledImages) -> SourceModel | None:
    """Open the second build of an attack on the difference of two, checked as the first one is."""
    if config.deployed is None:
        return None
    deployed = open_source(
        Path(config.deployed), device=config.device, output=config.output, classes_file=config.classes_file
    )
    if deployed.fitted(data, quiet=True).classes != data.classes:
        raise DataError(f"{config.deployed} orders its classes differently than the source model; export both again")
    deployed.self_check(data, batch_size=config.batch_size)
    return _prepared(deployed, data, config)


def _prepared(source: SourceModel, data: LabelledImages, config: AttackConfig) -> SourceModel:
    few = torch.from_numpy(data.take(np.arange(min(8, config.batch_size, len(data)))).images)
    few = few.to(source.device)
    return source.as_logits(few).prepared(few, mode=config.gradients)


def _report_bf16(source: SourceModel, attack: Attack, data: LabelledImages, config: AttackConfig) -> None:
    """Say what bf16 gradients cost an attack, on the first batch."""
    part = data.take(np.arange(min(config.batch_size, len(data))))
    x, y = torch.from_numpy(part.images).to(source.device), torch.from_numpy(part.labels).to(source.device)
    draws = Draws(seed=config.seed, index=part.index)
    bf16, float32 = (
        100 * float((source.logits(attack.run(form, x, y, draws=draws)).argmax(1) != y).float().mean())
        for form in (source.follow, source)
    )
    LOG.info(f"bf16 gradients: {bf16:.1f} % misclassified, float32: {float32:.1f} %, of the first {len(part)} images")


def _clean_images(config: AttackConfig, chosen: DataConfig) -> LabelledImages:
    data = load_part(chosen, config.split).head(config.limit, seed=config.seed)
    if config.shard is not None:
        data = data.take(parse_shard(config.shard).rows(len(data)))
    if not len(data):
        raise DataError(f"the {config.split} split of {chosen.name} is empty; choose another --split or --data")
    return data


def _chunks_of(folder: Path) -> Path:
    """Return where the chunks of a run lie; an unfinished run that calls them otherwise is continued."""
    before = folder / _CHUNKS_BEFORE
    if before.is_dir() and first():
        before.rename(folder / CHUNKS)
    return folder / CHUNKS

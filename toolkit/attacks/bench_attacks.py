"""How fast attacks are on a user's own source model: adversarial images a second, and end to end with their evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from edgeproof.attacks.base import Draws, find_attack
from edgeproof.attacks.configured import Attack, choose_attack
from edgeproof.config import BenchAttacksConfig
from edgeproof.data.base import LabelledImages, load_splits
from edgeproof.evaluation.bench import (
    BenchCase,
    BenchReport,
    bench_report,
    compare_sides,
    take_turns_twice,
    watch_other_programs,
)
from edgeproof.runs import Run, write_text
from edgeproof.source_model.opening import open_source
from edgeproof.system.progress import progress
from edgeproof.types import LogitsFn


def bench_attacks(config: BenchAttacksConfig, out: Run) -> BenchReport:
    """Time attacks in turns and write `bench.json`; the first side is the baseline. The run is left unfinished.

    A side is an attack with a rule when to stop (where it has steps) and a form of the gradients. `quality` of each case holds
    the share of images misclassified.

    Raises:
        ToolkitError: For a model, data or parameters that cannot be used.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    source = open_source(Path(config.model), device=config.device, output=config.output)
    data = load_splits(source.data(config.data)).test.head(config.limit, seed=config.seed)
    probe = torch.from_numpy(data.images[:8]).to(config.device)
    source = source.as_logits(probe)
    forms: dict[str, LogitsFn] = {mode: source.prepared(probe, mode=mode).follow for mode in config.gradients}
    sides = _sides(config, forms)
    work = _Work(source.network, data, config)
    with watch_other_programs() as others:
        cases = _time(sides, work, rounds=config.rounds)
    settings: dict[str, int | float | str] = {
        "model": source.name,
        "images": len(data),
        "eps": config.eps,
        "threads": torch.get_num_threads(),
    }
    settings |= {"batch_size": config.batch_size, "device": config.device, "rounds": config.rounds, **others}
    report = bench_report("attacks", settings=settings, cases=cases)
    write_text(out.path / "bench.json", report.model_dump_json(indent=1) + "\n")
    return report


class _Work:
    """The images that every side attacks, and the model that judges the result."""

    def __init__(self, model: LogitsFn, data: LabelledImages, config: BenchAttacksConfig) -> None:
        self._model, self._config, self._index = model, config, data.index
        self.x = torch.from_numpy(data.images).to(config.device)
        self.y = torch.from_numpy(data.labels).to(config.device)

    def craft(self, attack: Attack, form: LogitsFn) -> Tensor:
        """Attack all images, a batch at a time."""
        size, seed = self._config.batch_size, self._config.seed
        parts = [slice(start, start + size) for start in range(0, len(self.x), size)]
        draws = [Draws(seed=seed, index=self._index[part]) for part in parts]
        found = [
            attack.run(form, self.x[part], self.y[part], draws=draw) for part, draw in zip(parts, draws, strict=True)
        ]
        if found[0].is_cuda:
            torch.cuda.synchronize()
        return torch.cat(found)

    @torch.no_grad()
    def misclassified(self, x_adv: Tensor) -> float:
        """Return the share of adversaries that the model itself gets wrong."""
        pieces = [self._model(part).argmax(1) for part in torch.split(x_adv, self._config.batch_size)]
        return float((torch.cat(pieces) != self.y).float().mean())


def _sides(config: BenchAttacksConfig, forms: Mapping[str, LogitsFn]) -> dict[str, tuple[Attack, LogitsFn]]:
    sides = {}
    for name, stop, (mode, form) in product(config.attacks, config.stops, forms.items()):
        spec = find_attack(name)
        if stop != "never" and not spec.takes("stop"):
            continue  # a single step has no moment at which an image could leave
        title = ", ".join(
            [name, *([f"stop {stop}"] if spec.takes("stop") else []), *([mode] if len(forms) > 1 else [])]
        )
        sides[title] = (choose_attack(spec, eps=config.eps, params={}, stop=stop), form)
    return sides


def _time(sides: Mapping[str, tuple[Attack, LogitsFn]], work: _Work, *, rounds: int) -> list[BenchCase]:
    quality = {}
    crafters = {name: partial(work.craft, *side) for name, side in sides.items()}
    with progress("bench attacks", (rounds + 1) * len(sides)) as advance:

        def judge(name: str, x_adv: Tensor) -> None:
            quality[name] = {"misclassified": work.misclassified(x_adv)}
            advance(note=name)

        crafting, both = take_turns_twice(crafters, judge, rounds=rounds)
    compare = partial(
        compare_sides, items=dict.fromkeys(sides, len(work.x)), quality=quality, baseline=next(iter(sides))
    )
    return [*compare("craft", crafting), *compare("craft and evaluate", both)]

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch

from edgeproof.attacks.base import find_attack
from edgeproof.attacks.configured import choose_attack, run_sweep
from edgeproof.attacks.craft import attack, attack_sweep
from edgeproof.config import AttackConfig
from edgeproof.data.base import load_adversarial_set
from edgeproof.errors import ConfigError
from edgeproof.plugins.registry import entries
from edgeproof.runs import Run
from tests.attacks.test_craft import digests, train_run
from tests.oracles import draws, images, small_network

SPECS = [find_attack(name) for name in entries("attack")]
NESTED = [spec for spec in SPECS if spec.nested]
BUDGETS = [k / 255 for k in (1, 2, 4, 8)]
Y = torch.arange(16) % 5


@pytest.mark.parametrize("spec", NESTED, ids=[spec.name for spec in NESTED])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_search_gives_each_budget_what_it_would_have_alone(spec, dtype) -> None:  # type: ignore[no-untyped-def]
    scale = 20 if spec.norm == "l2" else 1
    params = {name: value for name, value in {"steps": 8, "searches": 2}.items() if spec.takes(name)}
    attacks = [choose_attack(spec, eps=eps * scale, params=params) for eps in BUDGETS]
    calls: list[int] = []
    network = small_network().to(dtype)

    def model(x):  # type: ignore[no-untyped-def]
        calls.append(len(x))
        return network(x)

    x = images().to(dtype)
    together = run_sweep(attacks, model, x, Y, draws=draws(16))
    shared, calls = len(calls), []
    alone = [chosen.run(model, x, Y, draws=draws(16)) for chosen in attacks]
    for one, other in zip(together, alone, strict=True):
        assert torch.allclose(one, other, atol=0 if spec.norm == "linf" else 1e-6, rtol=0)
    assert 4 * shared == len(calls)


def test_a_sweep_of_runs_holds_the_bytes_of_runs_made_one_by_one(tmp_path: Path) -> None:
    source = train_run(tmp_path / "train")
    configs = [
        AttackConfig(attack="fgsm", model=str(source), eps=eps, limit=20, batch_size=8, pixels="uint8")
        for eps in (0.05, 0.1)
    ]

    def start(folder: Path, config: AttackConfig) -> Run:
        return Run.start("attack", "x", config=config.model_dump(mode="json"), inputs={"model": source}, out=folder)

    for n, config in enumerate(configs):
        with start(tmp_path / f"alone{n}", config) as out:
            attack(config, out)
    with ExitStack() as held:
        outs = [held.enter_context(start(tmp_path / f"swept{n}", config)) for n, config in enumerate(configs)]
        attack_sweep(configs, outs)
    for n in range(2):
        assert digests(tmp_path / f"swept{n}") == digests(tmp_path / f"alone{n}")
    images = [load_adversarial_set(Run.open(tmp_path / f"swept{n}")).images for n in range(2)]
    assert not np.array_equal(*images)


def test_a_sweep_over_more_than_eps_is_refused() -> None:
    configs = [AttackConfig(attack=name, model="a run", eps=0.1) for name in ("fgsm", "pgd-linf")]
    with pytest.raises(ConfigError, match="differ in more than eps; run them one by one"):
        attack_sweep(configs, [])

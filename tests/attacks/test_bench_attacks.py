"""bench attacks: which sides are timed and what is recorded of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeproof.attacks.bench_attacks import bench_attacks
from edgeproof.config import BenchAttacksConfig
from edgeproof.errors import ConfigError
from edgeproof.runs import Run
from tests.attacks.test_craft import train_run


def bench(model: Path, out: Path, **options: object) -> dict[str, object]:
    config = BenchAttacksConfig.model_validate({"model": str(model), "limit": 20, "rounds": 2, **options})
    with Run.start("bench", "attacks", config=config.model_dump(mode="json"), out=out) as run:
        bench_attacks(config, run)
        run.finish()
    return dict(json.loads((out / "bench.json").read_text()))


def test_a_single_step_is_timed_once_and_an_iterative_attack_with_every_stop(tmp_path: Path) -> None:
    written = bench(train_run(tmp_path / "model"), tmp_path / "bench", attacks=["fgsm", "pgd-linf"], eps=0.1)
    cases = written["cases"]
    assert isinstance(cases, list)
    assert [(case["group"], case["name"]) for case in cases] == [
        (group, name)
        for group in ("craft", "craft and evaluate")
        for name in ("fgsm", "pgd-linf, stop never", "pgd-linf, stop first")
    ]
    for case in cases:
        assert len(case["seconds"]) == 2
        assert case["items"] == 20
        assert 0 <= case["quality"]["misclassified"] <= 1
    crafted, both = cases[:3], cases[3:]
    assert all(
        a < b
        for one, two in zip(crafted, both, strict=True)
        for a, b in zip(one["seconds"], two["seconds"], strict=True)
    )
    assert cases[1]["quality"]["misclassified"] >= cases[0]["quality"]["misclassified"]


def test_an_unknown_attack_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="pgd-linf"):
        bench(train_run(tmp_path / "model"), tmp_path / "bench", attacks=["pgd-lin"])

"""Several builds of one network as one source."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edgeproof.attacks.base import draws_of, find_attack
from edgeproof.attacks.configured import choose_attack
from edgeproof.attacks.confirm import BUILDS
from edgeproof.attacks.craft import attack
from edgeproof.attacks.losses import LOSSES
from edgeproof.config import AttackConfig
from edgeproof.data.arrays import read_npz
from edgeproof.data.base import load_adversarial_set
from edgeproof.runs import Run, sha256_file
from edgeproof.source_model.gradients import Averaged, value_and_grad
from tests.oracles import images, small_network
from tests.source_model.test_graph import data, engine_logits, graphs, npz_of

__all__ = ["graphs"]
EPS = 8 / 255


@pytest.mark.parametrize("loss", ["ce", "margin", "dlr"])
def test_gradient_is_the_mean_of_the_builds_gradients(loss: str) -> None:
    builds = [small_network(seed=seed) for seed in range(3)]
    x, y = images(6), torch.arange(6) % 5
    seen = value_and_grad(Averaged(builds), x, y, loss=LOSSES[loss])
    alone = [value_and_grad(build, x, y, loss=LOSSES[loss]) for build in builds]
    torch.testing.assert_close(seen.grad, torch.stack([each.grad for each in alone]).mean(0))
    torch.testing.assert_close(seen.losses, torch.stack([each.losses for each in alone]).mean(0))
    torch.testing.assert_close(seen.logits, torch.stack([each.logits for each in alone]).mean(0))


def test_what_fools_both_networks_is_found_where_one_alone_does_not_lead() -> None:
    builds = [small_network(seed=seed) for seed in (0, 1)]
    x = images(300)
    y = builds[0](x).argmax(1)
    same = builds[1](x).argmax(1) == y
    x, y = x[same], y[same]
    chosen = choose_attack(find_attack("pgd-linf"), eps=EPS, params={"steps": 10})
    both = []
    for source in (builds[0], Averaged(builds)):
        x_adv = chosen.run(source, x, y, draws=draws_of(None, x))
        both.append(float(torch.stack([build(x_adv).argmax(1) != y for build in builds]).all(0).double().mean()))
    assert both[1] > 1.5 * both[0]


def test_stage_asks_every_build_image_by_image(graphs: Path, tmp_path: Path) -> None:
    files = [graphs / f"model.{name}.onnx" for name in ("fp32", "int8-trt")]
    config = AttackConfig(
        model=str(files[0]), ensemble_builds=(str(files[1]),), data=npz_of(data(), tmp_path / "own.npz"), eps=EPS, params={"steps": 5},
    )  # fmt: skip
    with Run.start("attack", "x", config=config.model_dump(mode="json"), out=tmp_path / "a") as out:
        attack(config, out)
    run = Run.open(tmp_path / "a", kind="attack")
    made = load_adversarial_set(run)
    assert made.source_sha256 == tuple(map(sha256_file, files))
    assert made.access == "gradients"
    assert made.source == "model.fp32.onnx + model.int8-trt.onnx"
    found = read_npz(run.file(BUILDS))
    wrong = []
    for file in files:
        theirs = engine_logits(file, made.images).argmax(1)
        np.testing.assert_array_equal(found[f"pred/{file.name}"], theirs)
        wrong.append(theirs != made.clean.labels)
    assert made.indicators["confirmed"] > 0.9
    assert made.indicators["confirmed"] <= made.indicators["confirmed_by model.int8-trt.onnx"]
    np.testing.assert_array_equal(made.source_logits, engine_logits(files[0], made.images))
    assert made.indicators["temperature_gain"] < 0.1

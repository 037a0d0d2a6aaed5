"""DIVA: right in one build and wrong in the other, counted on what really runs."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from edgeproof.attacks.base import find_attack
from edgeproof.attacks.configured import choose_attack
from edgeproof.attacks.craft import attack
from edgeproof.attacks.diva import diva, gap, lead
from edgeproof.config import AttackConfig
from edgeproof.data.base import load_adversarial_set
from edgeproof.errors import ConfigError
from edgeproof.runs import Run
from tests.oracles import draws, images, small_network
from tests.source_model.test_graph import data, engine_logits, graphs, npz_of

__all__ = ["graphs"]


def pixel(number: int, x: Tensor) -> Tensor:
    """Class 0 where this pixel is above one half."""
    value = 10 * (x.flatten(1)[:, number] - 0.5)
    return torch.stack([value, -value], dim=1)


def test_two_builds_that_look_at_two_pixels_are_parted_exactly_at_the_budget_that_crosses_the_second() -> None:
    x, y = torch.full((2, 1, 2, 2), 0.6, dtype=torch.float64), torch.tensor([0, 0])
    model, deployed = partial(pixel, 0), partial(pixel, 1)
    for eps, parted in ((0.101, True), (0.099, False)):
        x_adv = diva(model, x, y, eps=eps, deployed=deployed)
        assert bool((model(x_adv).argmax(1) == y).all())
        assert bool((deployed(x_adv).argmax(1) != y).all()) == parted
    assert x_adv[:, 0, 0, 0].tolist() == pytest.approx([0.699] * 2)


def test_loss_and_lead_are_the_papers_probabilities_and_both_margins() -> None:
    one, other = small_network()(images(6)), small_network(seed=1)(images(6))
    y, both = torch.arange(6) % 5, torch.stack([one, other], 1)
    own = [logits.softmax(1)[torch.arange(6), y] for logits in (one, other)]
    torch.testing.assert_close(gap(both, y, c=0.5), own[0] - 0.5 * own[1])
    parted = (one.argmax(1) == y) & (other.argmax(1) != y)
    assert torch.equal(lead(both, y) > 0, parted)


def test_one_step_follows_the_gradient_of_the_difference() -> None:
    one, other, x, y = small_network(), small_network(seed=1), images(6), torch.arange(6) % 5
    z = x.clone().requires_grad_()
    rows = torch.arange(6)
    (grad,) = torch.autograd.grad((one(z).softmax(1)[rows, y] - other(z).softmax(1)[rows, y]).sum(), z)
    by_hand = (x + 0.02 * grad.sign()).clamp(0, 1)
    found = diva(one, x, y, eps=0.02, deployed=other, steps=1, step_size=0.02)
    kept = lead(torch.stack([one(x), other(x)], 1), y) >= lead(torch.stack([one(by_hand), other(by_hand)], 1), y)
    torch.testing.assert_close(found, torch.where(kept[:, None, None, None], x, by_hand))


def test_it_parts_more_builds_than_an_attack_on_the_deployed_one_alone() -> None:
    one, x = small_network(), images(40)
    other = small_network()
    generator = torch.Generator().manual_seed(0)
    weight = next(other.parameters()).data
    weight += 0.02 * torch.randn(weight.shape, generator=generator, dtype=torch.float64)
    y = one(x).argmax(1)
    plain = choose_attack(find_attack("pgd-linf"), eps=0.05, params={}).run(other, x, y, draws=draws(40))
    ours = diva(one, x, y, eps=0.05, deployed=other)
    parted = [int(((one(z).argmax(1) == y) & (other(z).argmax(1) != y)).sum()) for z in (ours, plain)]
    assert parted[0] > parted[1]


def test_second_build_is_asked_for_and_refused_where_none_belongs() -> None:
    with pytest.raises(
        ConfigError, match=r"'diva' is between two builds; name the second one with --deployed FILE\.onnx"
    ):
        choose_attack(find_attack("diva"), eps=0.1, params={})
    with pytest.raises(ConfigError, match="'fgsm' takes one source model; drop --deployed"):
        choose_attack(find_attack("fgsm"), eps=0.1, params={}, deployed=lambda x: x)


def test_stage_counts_what_both_engines_say(graphs: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    float_, int8 = graphs / "model.fp32.onnx", graphs / "model.int8-trt.onnx"
    config = AttackConfig(
        model=str(float_),
        deployed=str(int8),
        data=npz_of(data(), tmp_path / "own.npz"),
        attack="diva",
        eps=0.1,
        batch_size=32,
    )
    with Run.start("attack", "x", config=config.model_dump(mode="json"), out=tmp_path / "a") as out:
        attack(config, out)
    read = load_adversarial_set(Run.open(tmp_path / "a", kind="attack"))
    labels = read.clean.labels
    right = {
        (graph, kind): engine_logits(graph, x).argmax(1) == labels
        for graph in (float_, int8)
        for kind, x in (("attacked", read.images), ("clean", read.clean.images))
    }
    parted = right[float_, "attacked"] & ~right[int8, "attacked"]
    before = right[float_, "clean"] & right[int8, "clean"]
    counts = read.findings["builds"]
    assert counts["deployed"] == "model.int8-trt.onnx"
    assert (counts["images"], counts["right_before"]) == (60, before.sum())
    assert (counts["found"], counts["missed"]) == ((before & parted).sum(), parted.sum())
    assert counts["found"] + counts["not_found"] == before.sum()
    assert (counts["source_right"], counts["deployed_right"]) == (
        right[float_, "attacked"].sum(), right[int8, "attacked"].sum(),
    )  # fmt: skip
    assert np.isfinite(counts["missed"])

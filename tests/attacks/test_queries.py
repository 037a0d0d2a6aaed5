"""Attacks by queries: what is counted, engines as sources, and HopSkipJump against closed forms and foolbox."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from edgeproof.attacks.craft import attack
from edgeproof.attacks.hop_skip_jump import hop_skip_jump, hop_skip_jump_l2
from edgeproof.attacks.queries import QueryTrace, query_counts
from edgeproof.attacks.square import square
from edgeproof.config import AttackConfig
from edgeproof.data.base import AdversarialSet, load_adversarial_set
from edgeproof.errors import ConfigError
from edgeproof.runs import Run
from edgeproof.source_model.engine import open_engine_source
from tests.oracles import Linear, draws, foolbox_minimum, images, labelled_images, small_network
from tests.source_model.test_graph import data, engine_logits, graphs, npz_of

pytestmark = pytest.mark.usefixtures("fake_engine")

__all__ = ["graphs"]
pytest.importorskip("onnxruntime")


class Counting:
    """A model that counts the images that it is shown."""

    def __init__(self, model: Callable[[Tensor], Tensor]) -> None:
        self.model, self.shown = model, 0

    def __call__(self, x: Tensor) -> Tensor:
        self.shown += len(x)
        return self.model(x)


@pytest.mark.parametrize(("walk", "norm"), [(hop_skip_jump, "linf"), (hop_skip_jump_l2, "l2")])
def test_hop_skip_jump_comes_near_the_closed_form_within_its_queries(walk, norm: str) -> None:  # type: ignore[no-untyped-def]
    linear, x = Linear(classes=2), images(6) * 0.5 + 0.25
    w, offset = (parameter.detach()[0] - parameter.detach()[1] for parameter in (linear.weight, linear.bias))
    exact = (x.flatten(1) @ w + offset).abs() / (w.norm() if norm == "l2" else w.abs().sum())
    model, trace = Counting(linear), QueryTrace(6)
    y = linear(x).argmax(1)
    x_adv = walk(model, x, y, eps=1.0 if norm == "linf" else 50.0, queries=1500, draws=draws(6), trace=trace)
    delta = (x_adv - x).flatten(1)
    ratio = (delta.norm(dim=1) if norm == "l2" else delta.abs().amax(1)) / exact
    assert bool((linear(x_adv).argmax(1) != y).all())
    assert float(ratio.min()) >= 1 - 1e-9
    assert float(ratio.max()) < (1.3 if norm == "l2" else 1.6)
    assert model.shown == trace.asked.sum() <= 6 * 1500
    assert trace.asked.max() <= 1500


@pytest.mark.slow
def test_hop_skip_jump_comes_as_near_as_foolbox() -> None:
    network, x = small_network().float(), images(8).float()
    y = network(x).argmax(1)
    model = Counting(network)
    torch.manual_seed(0)
    module = torch.nn.Module()
    module.forward = model
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = foolbox_minimum("HopSkipJumpAttack", module.eval(), x, y, steps=6)
    ours = hop_skip_jump_l2(network, x, y, eps=50.0, queries=model.shown // 8, draws=draws(8))
    far = [(found - x).flatten(1).norm(dim=1) for found in (ours, theirs)]
    assert float((far[0] / far[1]).log().mean().exp()) < 1.15


def test_image_leaves_when_its_adversary_is_within_the_budget() -> None:
    linear, x = Linear(classes=2), images(6)
    y = linear(x).argmax(1)
    stopped, whole = QueryTrace(6), QueryTrace(6)
    for trace, stop in ((stopped, "first"), (whole, "never")):
        x_adv = hop_skip_jump(linear, x, y, eps=0.3, queries=800, stop=stop, draws=draws(6), trace=trace)
        assert bool((linear(x_adv).argmax(1) != y).all())
    np.testing.assert_array_equal(stopped.found, whole.found)
    assert (stopped.asked < whole.asked).all()
    with pytest.raises(ConfigError, match="stop = 'margin=2'; a decision has no margin"):
        hop_skip_jump(linear, x, y, eps=0.3, stop="margin=2")


def test_trace_of_square_is_its_queries() -> None:
    network, x = small_network(), images(20)
    y = network(x).argmax(1)
    found = []
    for budget in (1, 5, 40):
        trace = QueryTrace(20)
        x_adv = square(network, x, y, eps=0.1, queries=budget, stop="first", draws=draws(20), trace=trace)
        np.testing.assert_array_equal(trace.found > 0, (network(x_adv).argmax(1) != y).numpy())
        assert (np.where(trace.found > 0, trace.found, budget) == trace.asked).all()
        found.append(int((trace.found > 0).sum()))
    assert found[0] < found[2]


def test_curve_is_in_counts() -> None:
    counts = query_counts(
        np.array([1, 3, -1, 7, 2]), np.array([1, 3, 9, 7, 2]), np.array([True, False, False, False, False])
    )
    assert counts == {
        "images": 5, "wrong_before": 1, "found": 3, "not_found": 1, "spent": 22, "median": 3.0,
        "curve": [[1, 0], [2, 1], [5, 2], [9, 3]],
    }  # fmt: skip
    nothing = query_counts(np.array([-1]), np.array([0]), np.array([False]))
    assert (nothing["median"], nothing["curve"]) == (None, [])


def crafted(config: AttackConfig, out: Path) -> AdversarialSet:
    with Run.start("attack", "x", config=config.model_dump(mode="json"), out=out) as run:
        attack(config, run)
    return load_adversarial_set(Run.open(out, kind="attack"))


@pytest.mark.parametrize("name", ["square", "hop-skip-jump"])
def test_stage_asks_the_engine_itself(name: str, graphs: Path, tmp_path: Path) -> None:
    graph, images_ = graphs / "model.int8-cpu.onnx", npz_of(data(), tmp_path / "own.npz")
    config = AttackConfig(
        model=f"onnxruntime:{graph}",
        data=images_,
        attack=name,
        eps=0.1,
        params={"queries": 60},
        batch_size=16,
        stop="first",
    )
    read = crafted(config, tmp_path / "run")
    assert (read.source, read.access) == ("onnxruntime:model.int8-cpu.onnx", "queries")
    assert read.source_logits is not None
    np.testing.assert_array_equal(read.source_logits.argmax(1), engine_logits(graph, read.images).argmax(1))
    wrong = read.source_logits.argmax(1) != read.clean.labels
    counts = read.findings["queries"]
    assert counts["images"] == 60
    assert counts["wrong_before"] + counts["found"] >= wrong.sum() > counts["wrong_before"]
    assert counts["curve"][-1] == [60, counts["found"]]
    assert "zero_gradients" not in read.indicators


def test_engine_without_an_import_is_attacked_in_full_batches(tmp_path: Path) -> None:
    weights = np.random.default_rng(0).normal(size=(3, 3, 8, 8)).astype(np.float32)
    path = tmp_path / "m.fake"
    path.write_text(json.dumps({"weights": weights.tolist(), "max_batch": 32}))
    part = labelled_images(20, classes=3)
    with open_engine_source(str(path), device="cpu", batch_size=256) as source:
        x, y = torch.from_numpy(part.images), torch.from_numpy(part.labels)
        hop_skip_jump(source.follow, x, y, eps=0.1, queries=300, draws=draws(20))
        calls = source.network.calls
        assert max(calls) == 32
        assert 32 * calls[32] > 0.8 * sum(size * count for size, count in calls.items())


def test_several_graphs_are_no_source(tmp_path: Path) -> None:
    with Run.start("export", "e", config={}, out=tmp_path / "e") as run:
        for name in ("model.fp32.fake", "model.int8.fake"):
            (tmp_path / "e" / name).write_text("{}")
        run.finish()
    with (
        pytest.raises(ConfigError, match="stands for 2 graphs; name the one to attack"),
        open_engine_source(f"fake:{tmp_path / 'e'}", device="cpu", batch_size=8),
    ):
        pass

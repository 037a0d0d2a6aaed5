"""No attack says `sat` where robustness is proved, and nearly all counterexamples that are known to exist are found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeproof.attacks.properties.falsify import Answer, falsify
from edgeproof.attacks.properties.graph import Graph, open_graph
from edgeproof.attacks.properties.vnnlib import parse_vnnlib
from tests.attacks.properties.relu_networks import ReluNetwork, Vector, local_robustness

pytest.importorskip("onnxruntime")
pytest.importorskip("scipy")
OUTPUTS = 3


def centres(network: ReluNetwork, count: int, *, seed: int) -> list[tuple[Vector, int]]:
    """Return points in units of their own, with the classes that the network gives them."""
    x = np.random.default_rng(seed).uniform(-20, 50, size=(count, network.layers[0][0].shape[1]))
    return list(zip(x, network(x).argmax(1).tolist(), strict=True))


def search(graph: Graph, x: Vector, radius: Vector, label: int, **options) -> Answer:  # type: ignore[no-untyped-def]
    asked = parse_vnnlib(local_robustness(x - radius, x + radius, label=label, outputs=OUTPUTS))
    answer = falsify(graph, asked, **{"timeout": 20, "rounds": 2, **options})
    if answer.verdict == "sat":
        assert answer.x is not None
        assert answer.y is not None
        assert ((x - radius <= answer.x) & (answer.x <= x + radius)).all()
        assert answer.y.argmax() != label or np.sum(answer.y == answer.y[label]) > 1
    return answer


def largest(holds, *, below: float = 1e3) -> float:  # type: ignore[no-untyped-def]
    """Return by bisection nearly the largest size at which something holds, which it does up to there."""
    low, high = 0.0, below
    while high - low > 1e-4 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


@pytest.mark.parametrize("seed", range(3))
def test_box_around_a_linear_classifier_breaks_exactly_where_the_closed_form_says(seed: int, tmp_path: Path) -> None:
    network = ReluNetwork.random(8, OUTPUTS, seed=seed)
    graph = open_graph(network.save(tmp_path / "linear.onnx"), threads=1)
    (x, label), scale = centres(network, 1, seed=seed)[0], np.linspace(0.1, 3, 8)  # each input has a width of its own
    weights, _ = network.layers[0]
    gaps = np.delete(network(x)[label] - network(x), label)
    critical = min(gaps / (np.abs(np.delete(weights, label, 0) - weights[label]) @ scale))
    assert search(graph, x, scale * critical * 0.999, label, rounds=1).verdict == "unknown"
    assert search(graph, x, scale * critical * 1.001, label, rounds=1).verdict == "sat"


def certified_answers(count: int, folder: Path, **options) -> list[str]:  # type: ignore[no-untyped-def]
    """Return what is said of boxes that interval bounds certify, each nearly as large as they allow."""
    network = ReluNetwork.random(6, 24, 24, OUTPUTS, seed=1)
    graph = open_graph(network.save(folder / "relu.onnx"), threads=1)
    said: list[str] = []
    for x, label in centres(network, count, seed=2):
        radius = np.ones_like(x) * largest(lambda r: network.interval_margin(x - r, x + r, label) > 1e-4)  # noqa: B023
        assert network.interval_margin(x - radius, x + radius, label) > 0
        said.append(search(graph, x, radius, label, **options).verdict)
    return said


def test_certified_box_is_never_said_to_break(tmp_path: Path) -> None:
    assert certified_answers(3, tmp_path, rounds=1) == ["unknown"] * 3


@pytest.mark.slow
def test_no_certified_box_of_many_is_said_to_break(tmp_path: Path) -> None:
    assert certified_answers(60, tmp_path) == ["unknown"] * 60


def hardest(network: ReluNetwork, x: Vector, label: int) -> tuple[float, float]:
    """Return a box that the exact minimum certifies, and one at most a third larger that is known to break, by their radii."""
    radius = held = largest(lambda r: network.interval_margin(x - r, x + r, label) > 1e-3)
    while (margin := network.exact_margin(x - radius, x + radius, label)) >= -1e-3:
        held = radius if margin > 1e-3 else held
        radius *= 1.15
    return held, radius


def exact_answers(count: int, folder: Path) -> list[tuple[str, str]]:
    """Return what is said just inside and just outside of what mixed-integer programming proves."""
    network = ReluNetwork.random(8, 8, OUTPUTS, seed=3)
    graph = open_graph(network.save(folder / "relu.onnx"), threads=1)
    said: list[tuple[str, str]] = []
    for x, label in centres(network, count, seed=4):
        held, broken = hardest(network, x, label)
        one = np.ones_like(x)
        inside = search(graph, x, one * held, label, rounds=1).verdict
        said.append((inside, search(graph, x, one * broken, label, rounds=None).verdict))
    return said


def test_box_that_is_known_to_break_is_found_and_one_just_inside_is_not(tmp_path: Path) -> None:
    assert exact_answers(1, tmp_path) == [("unknown", "sat")]


@pytest.mark.slow
def test_nearly_all_boxes_that_are_known_to_break_are_found(tmp_path: Path) -> None:
    said = exact_answers(60, tmp_path)
    assert [inside for inside, _ in said] == ["unknown"] * 60
    assert sum(outside == "sat" for _, outside in said) >= 57  # 95 %, within 20 seconds each

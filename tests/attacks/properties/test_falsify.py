"""The search itself: what it answers for graphs of every shape, with and without gradients, and what it refuses."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edgeproof.attacks.properties.falsify import Answer, falsify
from edgeproof.attacks.properties.graph import Graph, open_graph
from edgeproof.attacks.properties.instances import format_answer
from edgeproof.attacks.properties.vnnlib import parse_vnnlib
from edgeproof.errors import DataError, ModelError
from tests.attacks.properties.relu_networks import ReluNetwork, declarations, local_robustness

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
NETWORK = ReluNetwork.random(6, 12, 3, seed=5)
CENTRE = np.linspace(100, 250, 6)  # units far from [0, 1]
LABEL = int(NETWORK(CENTRE).argmax())


def answer(graph: Graph, *, radius: float, **options) -> Answer:  # type: ignore[no-untyped-def]
    asked = parse_vnnlib(local_robustness(CENTRE - radius, CENTRE + radius, label=LABEL, outputs=3))
    return falsify(graph, asked, **{"timeout": 20, "rounds": 1, **options})


def convolution(folder: Path, *, shape: list[int | str]) -> Path:
    """Write a convolution of one channel into a single logit pair, for images of a fixed batch, flattened behind it."""
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    tensors = [
        numpy_helper.from_array(random.normal(size=(2, 1, 3, 3)).astype(np.float32), "w"),
        numpy_helper.from_array(random.normal(size=(32, 2)).astype(np.float32), "v"),
        numpy_helper.from_array(np.array([1, 32]), "flat"),
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Sign", ["c"], ["s"]),
        helper.make_node("Reshape", ["s", "flat"], ["f"]),
        helper.make_node("MatMul", ["f", "v"], ["y"]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [value("x", TensorProto.FLOAT, shape)], [value("y", TensorProto.FLOAT, [1, 2])], tensors
    )
    path = folder / "convolution.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


@pytest.mark.parametrize("batch", ["n", 1])
def test_graph_in_its_own_units_is_broken_with_and_without_a_free_batch(batch: int | str, tmp_path: Path) -> None:
    graph = open_graph(NETWORK.save(tmp_path / "g.onnx", batch=batch), threads=1)
    assert (graph.batched, graph.inputs, graph.why_no_twin) == (batch == "n", 6, "")
    found = answer(graph, radius=120)
    assert found.verdict == "sat"
    assert found.x is not None
    assert found.y is not None
    np.testing.assert_array_equal(found.x, found.x.astype(np.float32))
    np.testing.assert_array_equal(found.y, graph.run(found.x.astype(np.float32)[None])[0])
    np.testing.assert_allclose(found.y, NETWORK(found.x), rtol=1e-5)


def test_counterexample_that_only_torch_sees_is_rejected(tmp_path: Path) -> None:
    graph = open_graph(NETWORK.save(tmp_path / "g.onnx"), threads=1)
    other = ReluNetwork.random(6, 12, 3, seed=0)
    assert other(CENTRE).argmax() != LABEL
    shifted = open_graph(other.save(tmp_path / "other.onnx"), threads=1)
    small = answer(replace(graph, twin=shifted.twin), radius=1e-3)
    assert (small.verdict, small.x) == ("unknown", None)
    assert small.rejected > 0


# ONNX Runtime's float32 softmax ends near exp(-88), so without a form in torch nothing shows logits that are farther apart.
@pytest.mark.parametrize(("blind", "scale"), [(False, 1000), (True, 100)])
def test_softmax_that_is_sure_of_itself_hides_no_counterexample(blind: bool, scale: int, tmp_path: Path) -> None:
    *before, (weights, bias) = ReluNetwork.random(60, 30, 3, seed=5).layers
    sure = ReluNetwork((*before, (weights * scale, bias * scale)))
    graphs = [open_graph(sure.save(tmp_path / "g.onnx", end=end), threads=1) for end in ("", "Softmax")]
    centre = np.linspace(0, 1, 60)
    label = int(sure(centre).argmax())
    assert [(graph.probabilities, graph.cut) for graph in graphs] == [(False, False), (True, True)]
    assert float(graphs[1].run(centre[None].astype(np.float32)).max()) == 1
    if blind:
        graphs = [replace(graph, twin=None) for graph in graphs]
    for radius, verdict in ((0.06, "unknown"), (0.1, "sat"), (0.2, "sat")):
        asked = parse_vnnlib(local_robustness(centre - radius, centre + radius, label=label, outputs=3))
        assert [falsify(graph, asked, timeout=20, rounds=1).verdict for graph in graphs] == [verdict, verdict]


def test_search_repeats_itself(tmp_path: Path) -> None:
    graph = open_graph(NETWORK.save(tmp_path / "g.onnx"), threads=1)
    once, again = (answer(graph, radius=120, seed=7) for _ in range(2))
    np.testing.assert_array_equal(once.x, again.x)


@pytest.mark.parametrize("blind", [False, True])
def test_graph_of_signs_is_broken_with_and_without_a_form_in_torch(blind: bool, tmp_path: Path) -> None:
    graph = open_graph(convolution(tmp_path, shape=[1, 1, 4, 4]), threads=1)
    assert not graph.batched
    if blind:
        graph = replace(graph, twin=None, why_no_twin="no such operator")
    x = np.random.default_rng(1).normal(size=16)
    y = graph.run(x.astype(np.float32)[None])[0]
    label = int(y.argmax())
    asked = parse_vnnlib(local_robustness(x - 0.6, x + 0.6, label=label, outputs=2))
    found = falsify(graph, asked, timeout=20, points=16)
    assert found.verdict == "sat"
    assert found.note == ("no such operator" if blind else "")


def test_free_axis_that_takes_no_batch_is_asked_one_by_one(tmp_path: Path) -> None:
    graph = open_graph(convolution(tmp_path, shape=["n", 1, 4, 4]), threads=1)
    assert not graph.batched  # its Reshape is to one row
    assert graph(torch.zeros(3, 16))[0].shape == (3, 2)


def test_operator_that_torch_lacks_leaves_the_search_without_gradients(tmp_path: Path) -> None:
    graph = open_graph(NETWORK.save(tmp_path / "g.onnx", operator="ThresholdedRelu"), threads=1)
    assert graph.twin is None
    assert "ThresholdedRelu" in graph.why_no_twin
    found = answer(graph, radius=120)
    assert found.verdict == "sat"
    assert found.note == graph.why_no_twin


def test_conjunction_and_an_empty_box() -> None:
    graph = Graph(session=Doubling(), input="x", shape=(1, 2), batched=True)
    box = declarations(2, 2) + "(assert (and (>= X_0 -1) (<= X_0 1) (>= X_1 -1) (<= X_1 1)))"
    both = box + "(assert (and (>= Y_0 1.9) (<= Y_1 -1.9)))"
    found = falsify(graph, parse_vnnlib(both), timeout=20, rounds=1)
    assert found.verdict == "sat"
    assert found.x is not None
    assert found.x[0] >= 0.95
    assert found.x[1] <= -0.95
    assert falsify(graph, parse_vnnlib(box + "(assert (>= Y_0 2.1))"), timeout=20, rounds=1).verdict == "unknown"
    nowhere = falsify(graph, parse_vnnlib(box + "(assert (>= X_0 2))"), timeout=20)
    assert (nowhere.verdict, nowhere.rounds) == ("unknown", 0)


class Doubling:
    """A session that gives 2 x."""

    def run(self, outputs: None, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        return [feed["x"] * 2]


def test_time_limit_ends_the_search() -> None:
    graph = Graph(session=Doubling(), input="x", shape=(1, 2), batched=True)
    text = declarations(2, 2) + "(assert (and (>= X_0 -1) (<= X_0 1) (>= X_1 -1) (<= X_1 1) (>= Y_0 2.1)))"
    out = falsify(graph, parse_vnnlib(text), timeout=0.1)
    assert out.verdict == "unknown"
    assert 0.1 < out.seconds < 30  # without the limit it would never end; a busy machine takes its time


def test_property_of_another_graph_and_other_graphs_are_refused(tmp_path: Path) -> None:
    graph = open_graph(NETWORK.save(tmp_path / "g.onnx"), threads=1)
    text = declarations(5, 3) + "".join(f"(assert (and (>= X_{k} 0) (<= X_{k} 1)))" for k in range(5))
    with pytest.raises(DataError, match="about 5 inputs and 3 outputs and the graph has 6 and 3"):
        falsify(graph, parse_vnnlib(text), timeout=1)
    with pytest.raises(ModelError, match=r"takes \(1, 1, 'h', 4\); expected fixed sizes"):
        open_graph(convolution(tmp_path, shape=[1, 1, "h", 4]))


def test_answer_is_written_as_vnn_comp_has_it_and_reads_back_exactly() -> None:
    x, y = np.array([0.1, -3], np.float32).astype(np.float64), np.array([1e-9, 2.0])
    text = format_answer("sat", x, y)
    assert text == "sat\n((X_0 0.10000000149011612)\n (X_1 -3.0)\n (Y_0 1e-09)\n (Y_1 2.0))\n"
    assert [float(word) for word in re.findall(r"\(X_\d+ ([^)]+)\)", text)] == x.tolist()
    assert format_answer("unknown") == "unknown\n"

"""Strangers' classifiers as the source of an attack: several architectures in several styles of export, held to their engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import helper
from torch import nn

from edgeproof.attacks.craft import attack
from edgeproof.config import AttackConfig
from edgeproof.data.base import load_adversarial_set
from edgeproof.engines.base import open_engine, predict_all
from edgeproof.export.standard import standardize_graph
from edgeproof.runs import Run
from tests.models.test_imported import IMAGE, Dense, Transformer, export, fresh, graph_model, images, normal, saved

pytest.importorskip("onnxruntime")
EPS = 8 / 255


class Flat(nn.Module):
    """A multilayer perceptron that wants its images as rows."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(768, 32), nn.ReLU(), nn.Linear(32, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x.flatten(1))


def keras(folder: Path) -> Path:
    """Bytes in channels last, a padded convolution and a softmax, as tf2onnx writes them."""
    make = helper.make_node
    nodes = [
        make("Transpose", ["x"], ["nchw"], perm=[0, 3, 1, 2]),
        make("Conv", ["nchw", "w", "b"], ["c"], auto_pad="SAME_UPPER", strides=[2, 2]),
        make("Relu", ["c"], ["r"]),
        make("Transpose", ["r"], ["nhwc"], perm=[0, 2, 3, 1]),
        make("Reshape", ["nhwc", "rows"], ["flat"]),
        make("MatMul", ["flat", "k"], ["logits"]),
        make("Softmax", ["logits"], ["y"], axis=-1),
    ]
    stored = {"w": normal(8, 3, 3, 3), "b": normal(8), "rows": np.array([-1, 512]), "k": normal(512, 10)}
    given = saved(graph_model(nodes, shape=("n", 16, 16, 3), stored=stored), folder)
    standardize_graph(
        given,
        folder / "standard.onnx",
        input_shape=IMAGE,
        layout="nhwc",
        input_range=255,
        mean=[127.5] * 3,
        std=[127.5] * 3,
    )
    return folder / "standard.onnx"


def perceptron(folder: Path) -> Path:
    make = helper.make_node
    nodes = [make("Gemm", ["x", "w", "b"], ["h"]), make("Relu", ["h"], ["r"]), make("Gemm", ["r", "k", "c"], ["y"])]
    stored = {"w": normal(768, 32), "b": normal(32), "k": normal(32, 10), "c": normal(10)}
    given = saved(graph_model(nodes, shape=("n", 768), stored=stored), folder)
    standardize_graph(
        given, folder / "standard.onnx", input_shape=IMAGE, layout="flat", mean=[0.5, 0.4, 0.3], std=[0.2] * 3
    )
    return folder / "standard.onnx"


STYLES: dict[str, Callable[[Path], Path]] = {
    "convnet, older exporter, opset 11": lambda folder: export(fresh(Dense), folder / "m.onnx", opset=11),
    "transformer, older exporter, opset 17": lambda folder: export(fresh(Transformer), folder / "m.onnx", opset=17),
    "perceptron, older exporter, opset 13": lambda folder: export(fresh(Flat), folder / "m.onnx", opset=13),
    "keras, channels last, bytes, softmax": keras,
    "perceptron of rows": perceptron,
}
SLOW: dict[str, Callable[[Path], Path]] = {
    "convnet, newer exporter, opset 20": lambda folder: export(fresh(Dense), folder / "m.onnx", opset=20, dynamo=True),
    "transformer, newer exporter, opset 21": lambda folder: export(
        fresh(Transformer), folder / "m.onnx", opset=21, dynamo=True
    ),
}


def outputs(graph: Path, fed: np.ndarray) -> np.ndarray:
    with open_engine(graph) as engine:
        return predict_all(engine, fed, batch_size=24)


def lead(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How far the class is ahead of the best other one; of probabilities their logarithms."""
    scores = np.log(logits) if np.allclose(logits.sum(1), 1) else logits
    rows = np.arange(len(labels))
    others = scores.copy()
    others[rows, labels] = -np.inf
    lead: np.ndarray = scores[rows, labels] - others.max(1)
    return lead


@pytest.mark.parametrize("style", [*STYLES, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_attack_on_a_strangers_graph_is_confirmed_by_its_engine(style: str, tmp_path: Path) -> None:
    graph = {**STYLES, **SLOW}[style](tmp_path)
    clean = images(24).numpy()
    before = outputs(graph, clean)
    labels = before.argmax(1)
    classes = np.array([str(label) for label in range(10)])
    np.savez(tmp_path / "own.npz", x_test=clean, y_test=labels, classes=classes)
    config = AttackConfig(model=str(graph), data=f"npz:{tmp_path / 'own.npz'}", eps=EPS, params={"steps": 4}, probe=0)
    with Run.start("attack", "x", config=config.model_dump(mode="json"), out=tmp_path / "a") as out:
        attack(config, out)
    made = load_adversarial_set(Run.open(tmp_path / "a"))
    after = outputs(graph, made.images)
    np.testing.assert_array_equal(made.source_logits, after)
    assert (lead(after, labels) < lead(before, labels)).mean() > 0.9
    assert made.indicators["zero_gradients"] == 0
    assert made.indicators["import_flips"] < 0.01

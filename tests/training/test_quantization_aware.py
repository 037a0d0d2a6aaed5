"""Quantisation-aware training: what is trained is what is stored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from edgeproof.config import DataConfig, QatConfig
from edgeproof.data.base import LabelledImages, load_splits
from edgeproof.engines.base import open_engine, predict_all
from edgeproof.export.int8 import quantize_int8
from edgeproof.export.qdq_rules import violations
from edgeproof.export.requantize import store_parameters, stored_parameters
from edgeproof.export.to_onnx import export_onnx
from edgeproof.models.imported import import_onnx
from edgeproof.training.quantization_aware import Rounding, TrainableGraph, fine_tune
from tests.test_deployment import DATA, fit


@pytest.fixture(scope="module")
def images() -> LabelledImages:
    return load_splits(DataConfig.model_validate(DATA)).train


@pytest.fixture(scope="module", params=["trt", "cpu"])
def graph(request: pytest.FixtureRequest, images: LabelledImages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An INT8 graph of a network that has only begun to learn."""
    folder = tmp_path_factory.mktemp("graphs")
    export_onnx(
        fit(), folder / "fp32.onnx", input_shape=images.input_shape, exporter="torchscript", opset=20, metadata={}
    )
    quantize_int8(folder / "fp32.onnx", folder / "int8.onnx", calibration=[images.images[:64]], recipe=request.param)
    return folder / "int8.onnx"


def trainable(path: Path) -> TrainableGraph:
    grids = stored_parameters(path).items()
    roundings = {
        name: Rounding(torch.from_numpy(grid.scale.copy()), grid.axis, grid.low, grid.high) if grid else None
        for name, grid in grids
    }
    return TrainableGraph(import_onnx(path), roundings)


def mean_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    return float(torch.nn.functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels)))


@pytest.mark.parametrize("eps", [None, 0.01])
def test_the_stored_graph_is_the_network_that_was_trained(
    graph: Path, images: LabelledImages, tmp_path: Path, eps: float | None
) -> None:
    network = trainable(graph)
    config = QatConfig(epochs=2, lr=1e-3, batch_size=20, eps=eps, steps=1)
    store_parameters(graph, tmp_path / "tuned.onnx", fine_tune(network, images, config))
    with torch.no_grad():
        trained = network(torch.from_numpy(images.images)).numpy()
    with open_engine(graph) as before, open_engine(tmp_path / "tuned.onnx") as after:
        old, new = (predict_all(engine, images.images, batch_size=64) for engine in (before, after))
    top = np.sort(trained, axis=1)
    clear = top[:, -1] - top[:, -2] > 2 * np.abs(new - trained).max()
    assert clear.mean() > 0.5
    assert np.array_equal(new.argmax(1)[clear], trained.argmax(1)[clear])
    assert mean_loss(new, images.labels) < mean_loss(old, images.labels) / 2


def test_weights_on_their_grid_are_stored_as_they_were(graph: Path, tmp_path: Path) -> None:
    network = trainable(graph)
    values = {name: parameter.detach().numpy() for name, parameter in network.parameters.items()}
    store_parameters(graph, tmp_path / "same.onnx", values)
    one, other = (onnx.load(path).graph for path in (graph, tmp_path / "same.onnx"))
    assert len(values) == 10  # a weight and a bias of each of the five operators
    assert [tensor.SerializeToString() for tensor in one.initializer] == [
        tensor.SerializeToString() for tensor in other.initializer
    ]


def test_a_tuned_graph_keeps_to_tensorrts_rules(graph: Path, images: LabelledImages, tmp_path: Path) -> None:
    before = len(violations(onnx.load(graph)))
    tuned = fine_tune(trainable(graph), images.head(50), QatConfig(lr=1e-2))
    store_parameters(graph, tmp_path / "tuned.onnx", tuned)
    assert len(violations(onnx.load(tmp_path / "tuned.onnx"))) == before

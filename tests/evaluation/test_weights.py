"""The Min-Max property as numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from edgeproof.commands import cli
from edgeproof.errors import ModelError
from edgeproof.evaluation.weights import became_min_max, layer_names, measure_layer, measure_layers, read_weights
from edgeproof.reports.weights import histogram


def test_kurtosis_is_that_of_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    for draw in ("normal", "uniform", "laplace"):
        w = getattr(np.random.default_rng(0), draw)(size=(6, 1, 5, 5))
        assert measure_layer(w, layer="conv1").kurtosis == pytest.approx(stats.kurtosis(w.ravel()))


def test_one_weight_alone_is_the_extreme_of_every_measure() -> None:
    one = np.zeros((4, 25), np.float32)
    one[1, 3] = -2
    record = measure_layer(one, layer="conv1")
    assert (record.hoyer, record.near_zero, record.max_abs, record.penalty) == (1, 0.99, 2, 0)
    assert record.max_over_median is None
    equal = measure_layer(np.full(100, 0.5), layer="conv1")
    assert (equal.hoyer, equal.near_zero, equal.penalty, equal.max_over_median) == (0, 0, 45, 1)
    assert equal.kurtosis is None


def test_a_layer_of_zeros_and_an_empty_one_are_measured_too() -> None:
    zeros = measure_layer(np.zeros(9), layer="conv1")
    assert (zeros.kurtosis, zeros.hoyer, zeros.near_zero, zeros.max_abs) == (None, None, 1, 0)
    assert measure_layer(np.zeros(0), layer="conv1").count == 0


def test_shape_does_not_change_with_scale_and_shrinkage_alone_is_not_min_max() -> None:
    w = np.random.default_rng(0).laplace(size=500)
    before, after = (measure_layer(w * scale, layer="conv1") for scale in (1.0, 0.25))
    assert before.kurtosis == pytest.approx(after.kurtosis)
    assert before.hoyer == pytest.approx(after.hoyer)
    (shrunk,) = became_min_max([before], [after])
    assert shrunk.max_falls
    assert not shrunk.holds


def test_a_layer_becomes_min_max_when_its_small_weights_vanish_and_the_large_ones_stay() -> None:
    w = np.random.default_rng(0).normal(size=500)
    sparse = np.where(np.abs(w) < np.quantile(np.abs(w), 0.9), 0.01 * w, w)
    before, after = (measure_layer(each, layer="conv1") for each in (w, sparse))
    assert became_min_max([before], [after])[0].holds
    assert not became_min_max([after], [before])[0].holds
    assert not became_min_max([before], [measure_layer(0.5 * sparse, layer="conv1")])[0].holds


def test_layers_are_named_by_their_kind_and_order() -> None:
    weights = {"0.weight": np.ones((2, 1, 3, 3)), "5.weight": np.ones((4, 8)), "2.weight": np.ones((3, 2, 3, 3))}
    assert layer_names(weights) == {"conv1": "0.weight", "conv2": "2.weight", "linear1": "5.weight"}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LeNet as checkpoint, FP32, FP16 and INT8 graph."""
    pytest.importorskip("onnxruntime")
    torch = pytest.importorskip("torch")
    from edgeproof.export.fp16 import convert_fp16
    from edgeproof.export.int8 import quantize_int8
    from edgeproof.export.to_onnx import export_onnx
    from edgeproof.models.base import build_classifier, save_classifier

    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    model = build_classifier("lenet", input_shape=(1, 28, 28), classes=list("abc"), mean=[0.1], std=[0.3])
    save_classifier(folder / "model.safetensors", model)
    export_onnx(model.eval(), folder / "model.onnx", input_shape=model.input_shape, exporter="torchscript")
    convert_fp16(folder / "model.onnx", folder / "model.fp16.onnx")
    images = np.random.default_rng(0).random((32, 1, 28, 28), dtype=np.float32)
    quantize_int8(
        folder / "model.onnx", folder / "model.int8.onnx", calibration=[images], recipe="trt", method="minmax"
    )
    return folder


def test_a_graph_has_the_layers_of_its_checkpoint(exported: Path) -> None:
    mine = measure_layers(read_weights(exported / "model.safetensors"))
    assert [record.layer for record in mine] == ["conv1", "conv2", "linear1", "linear2", "linear3"]
    for name, tolerance in (("model.onnx", 1e-6), ("model.fp16.onnx", 1e-3), ("model.int8.onnx", 0.02)):
        theirs = measure_layers(read_weights(exported / name))
        assert [record.layer for record in theirs] == [record.layer for record in mine]
        for one, other in zip(mine, theirs, strict=True):
            assert other.count == one.count
            assert other.max_abs == pytest.approx(one.max_abs, rel=tolerance)
            assert other.hoyer == pytest.approx(one.hoyer, rel=tolerance, abs=1e-6)


def test_int8_weights_are_read_as_they_are_computed_with(exported: Path) -> None:
    (plain, *_), (coarse, *_) = (
        list(read_weights(exported / name).values()) for name in ("model.onnx", "model.int8.onnx")
    )
    steps = np.abs(plain).reshape(6, -1).max(1) / 127  # a scale an output channel
    assert (np.abs(coarse - plain).reshape(6, -1) <= steps[:, None] * 0.501).all()
    assert not np.array_equal(coarse, plain)


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    (tmp_path / "no.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="cannot be read as safetensors"):
        read_weights(tmp_path / "no.safetensors")


def test_inspect_prints_a_table_a_file_and_json(exported: Path) -> None:
    runner = CliRunner()
    table = runner.invoke(cli, ["inspect", str(exported / "model.int8.onnx")])
    assert table.exit_code == 0
    assert "Hoyer sparsity" in table.stdout
    printed = runner.invoke(cli, ["inspect", str(exported / "model.safetensors"), "--json"])
    (layers,) = json.loads(printed.stdout).values()
    assert [(layer["layer"], layer["count"]) for layer in layers][:2] == [("conv1", 150), ("conv2", 2400)]


def test_a_histogram_says_in_words_what_it_shows() -> None:
    figure = histogram(np.array([0.0] * 9 + [-2.0]), title="conv1 of a")
    assert "Share of 10 weights in 41 bins from -2 to 2; the fullest holds 90%." in figure.svg
    assert figure.svg.count("<rect") == 42
    assert "nan" not in histogram(np.zeros(3), title="nothing").svg

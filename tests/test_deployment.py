from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from edgeproof.config import ExportConfig, ParityLimits, TrainConfig
from edgeproof.data.base import load_splits
from edgeproof.deployment.export import ParityReport, export_model, failed_limits, list_targets
from edgeproof.engines.base import open_engine, predict_all
from edgeproof.errors import ConfigError, GateError, ModelError, RunError
from edgeproof.evaluation.metrics import accuracy, predictions
from edgeproof.evaluation.parity import compare_logits
from edgeproof.models.base import Classifier, build_classifier, load_classifier, save_classifier
from edgeproof.runs import Run, sha256_file

DATA = {"name": "synthetic", "calibration": 32, "validation": 0.25}
FILES = ["model.fp16.onnx", "model.fp32.onnx", "model.int8-cpu.onnx", "model.int8-trt.onnx", "parity.json"]


@functools.cache
def fit() -> Classifier:
    """Return a network that has had a dozen steps on the training images."""
    images = load_splits(TrainConfig.model_validate({"data": DATA}).data).train
    torch.manual_seed(0)
    model = build_classifier(
        "small-cnn", input_shape=images.input_shape, classes=images.classes, mean=[0.5], std=[0.25]
    )
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    x, y = torch.from_numpy(images.images), torch.from_numpy(images.labels)
    for _ in range(12):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return model.eval()


def train_run(folder: Path, data: dict[str, Any] = DATA) -> Path:
    config = TrainConfig.model_validate({"data": data, "model": "small-cnn"})
    with Run.start("train", "toy", config=config.model_dump(mode="json"), out=folder) as run:
        save_classifier(run.path / "model.safetensors", fit())
        run.finish()
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_run(tmp_path_factory.mktemp("runs") / "train-toy")


def export(model: Path, folder: Path, **options: Any) -> Run:
    config = ExportConfig.model_validate({"model": str(model), "exporter": "torchscript", **options})
    run = Run.start("export", "toy", config=config.model_dump(mode="json"), inputs={"model": model}, out=folder)
    with run:
        export_model(config, run)
    return run


def read_report(folder: Path) -> ParityReport:
    return ParityReport.model_validate_json((folder / "parity.json").read_bytes())


@pytest.fixture(scope="module")
def exported(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return export(trained, tmp_path_factory.mktemp("runs") / "export-toy")


def test_an_export_run_holds_every_graph_and_its_parity(exported: Run) -> None:
    assert exported.done
    assert exported.outputs() == FILES
    report = read_report(exported.path)
    assert [graph.file for graph in report.graphs] == [FILES[1], FILES[0], FILES[3], FILES[2]]
    for graph in report.graphs:
        assert graph.sha256 == sha256_file(exported.file(graph.file))
        assert graph.failures == ()


def test_the_numbers_are_those_of_the_graphs_on_the_recorded_images(exported: Run, trained: Path) -> None:
    report = read_report(exported.path)
    whole = load_splits(TrainConfig.model_validate({"data": DATA}).data)
    chosen = whole.validation.take(np.searchsorted(whole.validation.index, report.images.index))
    assert chosen.index.tolist() == list(report.images.index)
    with torch.inference_mode():
        reference = load_classifier(trained / "model.safetensors")(torch.from_numpy(chosen.images)).numpy()
    assert report.checkpoint_accuracy.hits == accuracy(predictions(reference), chosen.labels).hits
    for graph in report.graphs:
        with open_engine(exported.path / graph.file, backend="onnxruntime") as engine:
            parity = compare_logits(reference, predict_all(engine, chosen.images, batch_size=64), chosen.labels)
        assert graph.max_abs_diff == pytest.approx(parity.max_abs_diff, rel=0.05, abs=1e-6)
        assert graph.accuracy.hits == parity.accuracy.hits
        assert graph.agreement.hits == parity.agreement.hits


def test_the_gate_uses_validation_images_and_the_calibration_its_own(exported: Run) -> None:
    report = read_report(exported.path)
    assert report.calibration is not None
    assert (report.images.split, report.calibration.split) == ("validation", "calibration")
    assert not set(report.images.index) & set(report.calibration.index)
    labels = np.arange(256)[list(report.calibration.index)] % 4
    assert np.bincount(labels).tolist() == [8, 8, 8, 8]


def test_what_a_cpu_does_with_fp16_is_said(exported: Run) -> None:
    half = read_report(exported.path).graphs[1]
    assert half.note == "weights rounded to FP16, arithmetic in FP32 on this provider"


def test_graphs_carry_the_model_their_origin_and_their_classes(exported: Run, trained: Path) -> None:
    def about(name: str) -> dict[str, str]:
        return {p.key: p.value for p in onnx.load(str(exported.path / name)).metadata_props}

    full, eight = about("model.fp32.onnx"), about("model.int8-trt.onnx")
    assert full["edgeproof.source_sha256"] == sha256_file(trained / "model.safetensors")
    assert eight["edgeproof.source_sha256"] == sha256_file(exported.path / "model.fp32.onnx")
    assert json.loads(eight["edgeproof.classes"]) == [f"class-{label}" for label in range(4)]
    assert json.loads(eight["edgeproof.input_shape"]) == [1, 16, 16]
    assert (full["edgeproof.precision"], eight["edgeproof.precision"]) == ("fp32", "int8")
    assert eight["edgeproof.recipe"] == "trt"


def test_int8_ranges_follow_the_method_that_is_asked_for(trained: Path, exported: Run, tmp_path: Path) -> None:
    other = export(trained, tmp_path / "out", calibration_method="mse", precisions=("int8",), recipes=("cpu",))
    assert other.outputs() == ["model.fp32.onnx", "model.int8-cpu.onnx", "parity.json"]
    record = read_report(other.path).graphs[-1].int8
    assert record is not None
    assert (record.method, record.calibration_count, record.unquantized) == ("mse", 32, ())
    assert sha256_file(other.path / "model.int8-cpu.onnx") != sha256_file(exported.path / "model.int8-cpu.onnx")


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (
            {"fp32_max_diff": 1e-9},
            r"model\.fp32\.onnx: max \|logit difference\| .* > 1e-09 \(--set parity\.fp32_max_diff\)",
        ),
        ({"int8_min_agreement": 1.0}, r"agreement \d+ of \d+ = 0\.\d+ < 1 \(--set parity\.int8_min_agreement\)"),
    ],
)
def test_outside_a_limit_is_an_error_with_the_numbers_and_nothing_is_lost(
    limits: dict[str, float], message: str, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "int8_min_agreement" in limits:
        coarsen_calibration(monkeypatch)
        limits = {**limits, "int8_accuracy_drop": 1.0}
    with pytest.raises(GateError, match=message) as caught:
        export(trained, tmp_path / "out", parity=limits)
    assert caught.value.exit_code == 1
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if not path.name.startswith(".")) == FILES
    assert any(graph.failures for graph in read_report(tmp_path / "out").graphs)
    with pytest.raises(RunError, match="was not finished"):
        Run.open(tmp_path / "out")


def coarsen_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every activation's range so wide that eight bits round all of it to zero."""
    import edgeproof.export.int8
    from edgeproof.export.calibration import Range, calibrate

    def coarse(*args: Any, **options: Any) -> dict[str, Range]:
        return {name: Range(4000 * r.low, 4000 * r.high) for name, r in calibrate(*args, **options).items()}

    monkeypatch.setattr(edgeproof.export.int8, "calibrate", coarse)


def test_a_bad_int8_graph_is_stopped_by_its_accuracy(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coarsen_calibration(monkeypatch)
    with pytest.raises(
        GateError, match=r"accuracy \d+ -> \d+ of \d+, a drop of 0\.\d+ > 0\.01 \(--set parity\.int8_acc"
    ):
        export(trained, tmp_path / "out")


def test_logits_that_are_not_finite_are_outside_every_limit() -> None:
    logits = np.array([[1.0, 0.0]], np.float32)
    parity = compare_logits(logits, logits * np.nan, np.array([0]))
    assert "its logits are not finite; check the model's weights" in list(failed_limits(parity, "fp16", ParityLimits()))


def test_the_fp32_graph_is_always_written_first() -> None:
    targets = list_targets(ExportConfig(model="m", precisions=("int8",), recipes=("cpu",)))
    assert [(target.file, target.precision) for target in targets] == [
        ("model.fp32.onnx", "fp32"), ("model.int8-cpu.onnx", "int8"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"validation": 0.0}, "no validation images.*train with data.validation above 0"),
        ({"calibration": 0}, "no calibration images.*data.calibration above 0.*or leave int8 out"),
    ],
)
def test_data_without_images_for_the_gate_or_the_calibration_are_refused(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        export(train_run(tmp_path / "train", {**DATA, **change}), tmp_path / "out")


def test_int8_may_be_left_out_when_there_is_nothing_to_calibrate_with(tmp_path: Path) -> None:
    model = train_run(tmp_path / "train", {**DATA, "calibration": 0})
    run = export(model, tmp_path / "out", precisions=("fp32", "fp16"))
    assert run.outputs() == [*FILES[:2], "parity.json"]
    assert read_report(run.path).calibration is None


def test_an_operator_that_stays_in_float_is_named_on_stderr_and_in_the_report(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(
        "edgeproof.export.int8.quantized_operators", lambda model: ({"Conv": 2}, {"Conv": 3}, ("stem",))
    )
    run = export(trained, tmp_path / "out", precisions=("int8",), recipes=("trt",))
    assert "model.int8-trt.onnx leaves in float: stem" in caplog.text
    record = read_report(run.path).graphs[-1].int8
    assert record is not None
    assert (record.quantized, record.total, record.unquantized) == ({"Conv": 2}, {"Conv": 3}, ("stem",))


def write_npz(path: Path, side: int = 16) -> Path:
    x = np.random.default_rng(0).integers(0, 256, (40, side, side), dtype=np.uint8)
    np.savez(path, x_test=x, y_test=np.arange(40) % 4)
    return path


def test_calibration_images_may_be_brought_along(trained: Path, tmp_path: Path) -> None:
    path = write_npz(tmp_path / "own.npz")
    run = export(
        trained, tmp_path / "out", calibration=f"npz:{path}", calibration_limit=12, precisions=("int8",), recipes=("trt",),
        parity={"int8_min_agreement": 0, "int8_accuracy_drop": 1},
    )  # fmt: skip
    used = read_report(run.path).calibration
    assert used is not None
    assert (used.data, used.count, len(set(used.index))) == ("npz:own.npz", 12, 12)
    assert np.bincount(np.array(used.index) % 4).tolist() == [3, 3, 3, 3]


def test_calibration_images_of_another_size_are_refused(trained: Path, tmp_path: Path) -> None:
    path = write_npz(tmp_path / "own.npz", side=8)
    with pytest.raises(
        ModelError, match=r"calibration images are float32 \(40, 1, 8, 8\); expected float32 \(N, 1, 16, 16\)"
    ):
        export(trained, tmp_path / "out", calibration=f"npz:{path}")


def test_an_export_that_cannot_be_made_is_an_error_of_the_model(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="dynamo exporter writes opset 18 or later, not 17"):
        export(trained, tmp_path / "out", exporter="dynamo", opset=17)


def test_only_a_train_run_can_be_exported(exported: Run, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is the run of a 'export' stage; expected one of 'train'"):
        export(exported.path, tmp_path / "out")


def test_training_for_int8_without_int8_is_refused(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="int8 is not among the precisions; add it or leave qat out"):
        export(trained, tmp_path / "out", precisions=("fp32",), qat={"epochs": 1})

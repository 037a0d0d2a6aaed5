from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edgeproof.attacks.base import find_attack
from edgeproof.attacks.confirm import confirm
from edgeproof.attacks.craft import attack, craft_sets
from edgeproof.config import AttackConfig
from edgeproof.data.base import AdversarialSet, LabelledImages, load_adversarial_set
from edgeproof.data.origin import data_of
from edgeproof.engines.base import open_engine, predict_all
from edgeproof.errors import ConfigError, ModelError, RunError
from edgeproof.models.imported import import_onnx
from edgeproof.runs import Run
from edgeproof.source_model.base import SourceModel
from edgeproof.source_model.opening import open_source
from edgeproof.types import GradientMode
from tests.oracles import SHAPE, labelled_images, small_network, source_of

pytest.importorskip("onnxruntime")
EPS = 8 / 255
CHECKED = {"import_flips": 0.0}


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The FP32, FP16 and INT8 graphs of a small network, in one folder."""
    from edgeproof.export.fp16 import convert_fp16
    from edgeproof.export.int8 import quantize_int8
    from edgeproof.export.to_onnx import export_onnx

    folder = tmp_path_factory.mktemp("graphs")
    fp32 = folder / "model.fp32.onnx"
    export_onnx(small_network().float(), fp32, input_shape=SHAPE, opset=17, exporter="torchscript")
    convert_fp16(fp32, folder / "model.fp16.onnx")
    for recipe in ("trt", "cpu"):
        quantize_int8(fp32, folder / f"model.int8-{recipe}.onnx", calibration=[data().images], recipe=recipe)  # type: ignore[arg-type]
    return folder


def data(count: int = 60) -> LabelledImages:
    return labelled_images(count)


def adversaries(source: SourceModel, folder: Path) -> AdversarialSet:
    """What an attack makes of the surrogate, before the engine is asked."""
    as_attacked = source_of(source.network, data(), name=source.name)
    config = AttackConfig(model="", eps=EPS, params={"steps": 5}, batch_size=32, probe=0)
    (made,) = craft_sets(
        [config], [folder], spec=find_attack("pgd-linf"), source=as_attacked, data=data(), load_train=data
    )
    return made


def engine_logits(path: Path, images: np.ndarray) -> np.ndarray:
    with open_engine(path) as engine:
        return predict_all(engine, images, batch_size=32)


def elsewhere(path: Path) -> SourceModel:
    """A source whose twin is not that of its graph: its weights are moved."""
    source = open_source(path, device="cpu")
    torch.manual_seed(0)
    for weight in source.network.buffers():
        weight.add_(torch.randn_like(weight) * 0.5 * weight.abs())
    return source


@pytest.mark.parametrize("name", ["fp32", "fp16", "int8-trt", "int8-cpu"])
def test_graph_is_attacked_and_only_what_fools_its_engine_counts(name: str, graphs: Path, tmp_path: Path) -> None:
    path = graphs / f"model.{name}.onnx"
    source = open_source(path, device="cpu")
    checked = source.self_check(data(), batch_size=32)
    assert checked["import_flips"] <= 0.01
    made = adversaries(source, tmp_path)
    confirmed = confirm(made, source, checked=checked, batch_size=32, folder=tmp_path)
    assert confirmed.source_logits is not None
    assert confirmed.source_clean_logits is not None
    np.testing.assert_array_equal(confirmed.source_logits, engine_logits(path, made.images))
    np.testing.assert_array_equal(confirmed.source_clean_logits, engine_logits(path, data().images))
    assert confirmed.indicators["confirmed"] > 0.9
    assert confirmed.indicators["import_flips"] == checked["import_flips"]
    assert confirmed.indicators["zero_gradients"] == 0
    labels = data().labels
    before = (confirmed.source_clean_logits.argmax(1) == labels).mean()
    assert (confirmed.source_logits.argmax(1) == labels).mean() < before


def test_confirmed_is_the_share_of_the_twins_adversaries_that_fool_the_engine(graphs: Path, tmp_path: Path) -> None:
    source = elsewhere(graphs / "model.fp32.onnx")
    made = adversaries(source, tmp_path)
    assert made.source_logits is not None
    labels = data().labels
    ours = made.source_logits.argmax(1) != labels
    theirs = engine_logits(graphs / "model.fp32.onnx", made.images).argmax(1) != labels
    share = (ours & theirs).sum() / ours.sum()
    assert 0 < share < 1
    assert confirm(made, source, checked=CHECKED, batch_size=7, folder=tmp_path).indicators[
        "confirmed"
    ] == pytest.approx(share)


def test_fp32_twin_that_is_another_model_is_refused(graphs: Path) -> None:
    with pytest.raises(ModelError, match=r"model\.fp32\.onnx: .* differs from ONNX Runtime by .* in a logit; expected"):
        elsewhere(graphs / "model.fp32.onnx").self_check(data(), batch_size=32)


@pytest.mark.parametrize(("name", "rounds"), [("fp32", False), ("fp16", False), ("int8-trt", True), ("int8-cpu", True)])
def test_a_twin_knows_whether_its_graph_rounds(graphs: Path, name: str, *, rounds: bool) -> None:
    assert import_onnx(graphs / f"model.{name}.onnx").rounds is rounds


def test_int8_twin_that_is_another_model_is_refused(graphs: Path) -> None:
    match = r"classifies \d+ of 188 images otherwise than ONNX Runtime; expected at most \d+, since .* on \d+"
    with pytest.raises(ModelError, match=match):
        elsewhere(graphs / "model.int8-trt.onnx").self_check(data(), batch_size=32)


def test_nan_of_the_twin_is_refused(graphs: Path) -> None:
    source = open_source(graphs / "model.fp32.onnx", device="cpu")
    for weight in source.network.buffers():
        weight.fill_(torch.nan)
    with pytest.raises(ModelError, match="by nan in a logit"):
        source.self_check(data(), batch_size=32)


def test_checkpoint_needs_no_engine(tmp_path: Path) -> None:
    source = source_of(small_network().float(), data())
    made = adversaries(source, tmp_path)
    assert source.self_check(data(), batch_size=32) == {}
    assert confirm(made, source, checked=CHECKED, batch_size=32, folder=tmp_path) is made


def test_graph_of_an_export_run_knows_its_data_and_is_verified(graphs: Path, tmp_path: Path) -> None:
    with Run.start("train", "t", config={"data": {"name": "digits"}}, out=tmp_path / "train") as run:
        run.finish()
    with Run.start("export", "e", config={"model": str(tmp_path / "train")}, out=tmp_path / "export") as run:
        (tmp_path / "export/model.fp32.onnx").write_bytes((graphs / "model.fp32.onnx").read_bytes())
        run.finish()
    path = tmp_path / "export/model.fp32.onnx"
    source = open_source(path, device="cpu")
    assert (source.name, source.path) == ("export/model.fp32.onnx", path)
    assert source.data(None).name == "digits"
    assert source.data("cifar10").name == "cifar10"
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(RunError, match="changed after the run"):
        open_source(path, device="cpu")


def test_foreign_graph_needs_a_data_set(graphs: Path) -> None:
    source = open_source(graphs / "model.fp32.onnx", device="cpu")
    with pytest.raises(ConfigError, match=r"model\.fp32\.onnx does not say what it was trained on; .* --data"):
        source.data(None)


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "m.pt").write_bytes(b"")
    with pytest.raises(ModelError, match=r"m\.pt cannot be attacked; expected a train run or an ONNX file"):
        open_source(tmp_path / "m.pt", device="cpu")


def test_probabilities_are_compared_with_probabilities(tmp_path: Path) -> None:
    from edgeproof.export.to_onnx import export_onnx

    network = torch.nn.Sequential(small_network().float(), torch.nn.Softmax(1)).eval()
    export_onnx(network, tmp_path / "m.onnx", input_shape=SHAPE, opset=17, exporter="torchscript")
    source = open_source(tmp_path / "m.onnx", device="cpu")
    assert source.self_check(data(), batch_size=32)["import_max_abs_diff"] < 1e-5
    made = adversaries(source, tmp_path)
    assert made.indicators["zero_gradients"] == 0
    confirmed = confirm(made, source, checked=CHECKED, batch_size=32, folder=tmp_path)
    assert confirmed.source_logits.sum(1) == pytest.approx(1)  # type: ignore[union-attr]
    assert import_onnx(tmp_path / "m.onnx").probabilities


def npz_of(images: LabelledImages, path: Path) -> str:
    np.savez(path, x_test=images.images, y_test=images.labels)
    return f"npz:{path}"


@pytest.mark.parametrize("gradients", ["exact", "fast"])
def test_stage_goes_from_a_foreign_graph_to_a_finished_attack_run(
    gradients: GradientMode, graphs: Path, tmp_path: Path
) -> None:
    graph = graphs / "model.int8-trt.onnx"
    name = npz_of(data(), tmp_path / "own.npz")
    config = AttackConfig(model=str(graph), data=name, attack="fgsm", eps=EPS, gradients=gradients, batch_size=16)
    plain = config.model_dump(mode="json")
    with Run.start("attack", "x", config=plain, inputs={"model": graph}, out=tmp_path / "a") as out:
        attack(config, out)
    read = load_adversarial_set(Run.open(tmp_path / "a", kind="attack"))
    assert read.source == "model.int8-trt.onnx"
    assert read.source_logits is not None
    np.testing.assert_array_equal(read.source_logits, engine_logits(graph, read.images))
    assert set(read.indicators) >= {"confirmed", "import_flips", "import_max_abs_diff", "zero_gradients"}


@pytest.mark.parametrize("config", [{}, {"data": 5}, {"data": {"name": 3}}])
def test_a_train_run_that_names_no_data_is_refused(config: dict[str, object], tmp_path: Path) -> None:
    with Run.start("train", "odd", config=config, out=tmp_path / "run") as out:
        out.finish()
    with pytest.raises(RunError, match="names no data set that can be read"):
        data_of(Run.open(tmp_path / "run"))


def test_a_file_that_only_a_manifest_names_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "edgeproof")
    with Run.start("train", "odd", config={"data": {"name": "folder:photos"}}, out=tmp_path / "run") as out:
        out.finish()
    assert data_of(Run.open(tmp_path / "run")).name == "folder:photos"
    assert "reading 'folder:photos', as " in caplog.text

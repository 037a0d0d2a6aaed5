"""The attack stage with universal perturbations, and the ONNX prefix that carries one into a deployed graph."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgeproof.attacks.craft import attack
from edgeproof.config import AttackConfig, BuildConfig
from edgeproof.data.base import load_adversarial_set
from edgeproof.data.perturbation import PERTURBATION, load_perturbation, save_perturbation
from edgeproof.deployment.build import build_graphs
from edgeproof.engines.base import open_engine, predict_all
from edgeproof.errors import ConfigError, DataError, RunError
from edgeproof.runs import Run
from tests.attacks.test_craft import start, train_run

EPS = 0.1
FAST = {"steps": 3, "fit_batch": 32}


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A network with the perturbations of three attacks."""
    root = tmp_path_factory.mktemp("fitted")
    source = train_run(root / "train")
    found = {"model": source}
    for name, params in (("universal", {}), ("universal-balanced", {}), ("universal", {"per": "class"})):
        key = "class" if params else name
        config = AttackConfig(attack=name, model=str(source), eps=EPS, limit=40, params={**FAST, **params})
        with start(root / key) as out:
            attack(config, out)
        found[key] = root / key
    return found


def test_the_run_holds_the_perturbation_and_the_images_under_it(fitted: dict[str, Path]) -> None:
    run = Run.open(fitted["universal"])
    delta = load_perturbation(fitted["universal"])
    read = load_adversarial_set(run)
    assert delta.shape == (1, 1, 32, 32)
    np.testing.assert_array_equal(read.images, np.clip(read.clean.images + delta[0], 0, 1))
    assert read.access == "data"
    assert read.params["fitted_on"].startswith("digits/train, ")
    assert {PERTURBATION, "perturbation.png", "adversaries.npz"} <= set(run.outputs())
    assert "fit.npz" not in run.outputs()


def test_with_one_a_class_an_image_carries_that_of_its_class(fitted: dict[str, Path]) -> None:
    delta, read = load_perturbation(fitted["class"]), load_adversarial_set(Run.open(fitted["class"]))
    assert delta.shape == (10, 1, 32, 32)
    np.testing.assert_array_equal(read.images, np.clip(read.clean.images + delta[read.clean.labels], 0, 1))


def test_the_prefixed_graph_gives_the_logits_of_the_perturbed_images_bit_for_bit(
    fitted: dict[str, Path], tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")
    graph = _graph(fitted["model"], tmp_path)
    prefixed = _build(graph, tmp_path / "prefixed", prefix=str(fitted["universal-balanced"]))
    read = load_adversarial_set(Run.open(fitted["universal-balanced"]))
    found = []
    for path, images in ((graph, read.images), (prefixed.path / "model.onnx", read.clean.images)):
        with open_engine(path, backend="onnxruntime") as engine:
            found.append(predict_all(engine, images, batch_size=16))
    np.testing.assert_array_equal(found[1], found[0])


def test_a_prefix_of_several_needs_a_class(fitted: dict[str, Path], tmp_path: Path) -> None:
    graph = _graph(fitted["model"], tmp_path)
    with pytest.raises(ConfigError, match=r"holds 10 perturbations and --prefix-class is None; expected .* 0 to 9"):
        _build(graph, tmp_path / "without", prefix=str(fitted["class"]))
    built = _build(graph, tmp_path / "with", prefix=str(fitted["class"]), prefix_class=3)
    assert built.outputs() == ["model.onnx"]


def test_a_run_without_a_perturbation_and_a_file_of_something_else_are_refused(
    fitted: dict[str, Path], tmp_path: Path
) -> None:
    with start(tmp_path / "fgsm") as out:
        attack(AttackConfig(attack="fgsm", model=str(fitted["model"]), eps=EPS, limit=10), out)
    with pytest.raises(RunError, match=r"has no output 'perturbation\.npz'"):
        load_perturbation(tmp_path / "fgsm")
    np.save(tmp_path / "wide.npy", np.zeros((3, 4, 4)))
    with pytest.raises(DataError, match=r"holds float64 of shape \(1, 3, 4, 4\); expected finite float32"):
        load_perturbation(tmp_path / "wide.npy")


def test_the_picture_shows_zero_as_grey(tmp_path: Path) -> None:
    from PIL import Image

    delta = np.zeros((2, 3, 2, 2), np.float32)
    delta[1, 0, 0, 0] = 0.05
    save_perturbation(tmp_path, delta)
    picture = np.asarray(Image.open(tmp_path / "perturbation.png"))
    assert picture.shape == (2, 4, 3)
    assert picture[0, 2].tolist() == [255, 128, 128]


def test_a_data_set_without_training_images_is_refused(fitted: dict[str, Path], tmp_path: Path) -> None:
    images = np.random.default_rng(0).random((20, 1, 32, 32), np.float32)
    np.savez(tmp_path / "only.npz", x_test=images, y_test=np.arange(20) % 10)
    config = AttackConfig(attack="universal", model=str(fitted["model"]), data=f"npz:{tmp_path / 'only.npz'}", eps=EPS)
    with start(tmp_path / "a") as out, pytest.raises(DataError, match="has no training images, and a universal"):
        attack(config, out)


def _graph(model: Path, folder: Path) -> Path:
    from edgeproof.export.to_onnx import export_onnx
    from edgeproof.models.base import load_classifier

    classifier = load_classifier(model / "model.safetensors")
    metadata = {"edgeproof": "test", "classes": json.dumps(classifier.classes)}
    export_onnx(
        classifier, folder / "model.onnx", input_shape=classifier.input_shape, opset=20, exporter="torchscript",
        metadata=metadata,
    )  # fmt: skip
    return folder / "model.onnx"


def _build(graph: Path, out: Path, **options) -> Run:  # type: ignore[no-untyped-def]
    config = BuildConfig(source=str(graph), **options)
    with Run.start("export", "prefixed", config=config.model_dump(mode="json"), out=out) as run:
        build_graphs(config, run)
    return run

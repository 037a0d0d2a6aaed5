"""A run is what was read: one byte changed in any file that a command reads makes it another run, and nothing changed the same one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeproof import stages
from edgeproof.config import build_config
from edgeproof.errors import RunError
from edgeproof.runs.tree import file_hashes, hash_tree
from edgeproof.stages import STAGES, Place, run_stage

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small files of every kind that commands read: images, weights, graphs with weights next to them, code, costs, properties, runs."""
    folder = tmp_path_factory.mktemp("made")
    random = np.random.default_rng(0)
    labels = np.arange(60) % 3
    images = (random.integers(0, 50, (60, 1, 16, 16)) + 80 * labels[:, None, None, None]).astype(np.uint8)
    for name in ("data", "other"):
        np.savez(folder / f"{name}.npz", x_train=images, y_train=labels, x_test=images[:30], y_test=labels[:30])
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = folder / "photos" / f"class {label}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0]).save(path)
    (folder / "costs.csv").write_text("0,1,2\n1,0,1\n3,1,0\n")
    (folder / "my_net.py").write_text(
        "from torch import nn\n\n\ndef build(num_classes):\n    return nn.Sequential(nn.Flatten(), nn.Linear(256, num_classes))\n"
    )
    torch.save(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 3)).state_dict(), folder / "weights.pt")
    _graph_with_weights_next_to_it(folder / "graph.onnx")
    (folder / "property.vnnlib").write_text(
        "(declare-const X_0 Real)\n(declare-const Y_0 Real)\n(assert (>= X_0 0))\n(assert (<= X_0 1))\n(assert (>= Y_0 9))\n"
    )
    runs = pytest.MonkeyPatch()
    runs.setenv("EDGEPROOF_RUNS", str(folder / "runs"))
    runs.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    options = {"data.name": f"npz:{folder / 'data.npz'}", "model": "small-cnn", "epochs": 1, "data.calibration": 9}
    run_stage("train", build_config(STAGES["train"].config, options=options), Place(folder / "model"))
    attack = {"attack": "fgsm", "model": str(folder / "model"), "eps": 0.1, "probe": 0}
    stages.run_attacks([build_config(STAGES["attack"].config, options=attack)], Place(folder / "fgsm"))
    poison = {"data.name": options["data.name"], "method": "class-patterns", "eps": 0.1}
    run_stage("poison", build_config(STAGES["poison"].config, options=poison), Place(folder / "poison"))
    export = {"model": str(folder / "model"), "precisions": ("fp32",), "exporter": "torchscript"}
    run_stage("export", build_config(STAGES["export"].config, options=export), Place(folder / "graphs"))
    runs.undo()
    return folder


def _graph_with_weights_next_to_it(path: Path) -> None:
    weights = onnx.numpy_helper.from_array(np.ones((256, 3), np.float32), "w")
    nodes = [onnx.helper.make_node("Flatten", ["x"], ["f"]), onnx.helper.make_node("MatMul", ["f", "w"], ["y"])]
    float32 = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [onnx.helper.make_tensor_value_info("x", float32, ["N", 1, 16, 16])],
        [onnx.helper.make_tensor_value_info("y", float32, ["N", 3])],
        [weights],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save_model(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)


#: Stage, its options (`{}` is the folder), and the files that it reads there.
READ: tuple[tuple[str, dict[str, Any], tuple[str, ...]], ...] = (
    ("train", {"data.name": "npz:{}/data.npz"}, ("data.npz",)),
    ("train", {"data.name": "folder:{}/photos"}, ("photos/class 0/0.png", "photos/class 2/59.png")),
    (
        "train",
        {"objective": "cost-sensitive", "objective_params": {"costs": "{}/costs.csv"}, "data.name": "npz:{}/data.npz"},
        ("costs.csv", "data.npz"),
    ),
    ("train", {"start_from": "{}/model", "data.name": "npz:{}/data.npz"}, ("model/model.safetensors", "data.npz")),
    ("train", {"poison": "{}/poison", "data.name": "npz:{}/data.npz"}, ("poison/poison.npz", "data.npz")),
    (
        "import",
        {"model": "my_net:build", "weights": "{}/weights.pt", "data.name": "npz:{}/data.npz"},
        ("my_net.py", "weights.pt", "data.npz"),
    ),
    ("poison", {"data.name": "npz:{}/data.npz"}, ("data.npz",)),
    ("poison", {"data.name": "npz:{}/data.npz", "reuse": "{}/poison"}, ("poison/poison.npz",)),
    ("attack", {"model": "{}/model"}, ("model/model.safetensors", "data.npz")),
    ("attack", {"model": "{}/model", "data": "npz:{}/other.npz"}, ("other.npz",)),
    ("attack", {"model": "{}/graph.onnx", "data": "npz:{}/data.npz"}, ("graph.onnx", "weights.bin", "data.npz")),
    ("attack", {"model": "{}/graphs/model.fp32.onnx"}, ("graphs/model.fp32.onnx", "data.npz")),
    ("attack", {"model": "{}/model", "ensemble_builds": ("{}/graph.onnx",)}, ("weights.bin",)),
    ("attack", {"model": "{}/model", "deployed": "{}/graph.onnx", "attack": "diva"}, ("graph.onnx", "weights.bin")),
    ("falsify", {"graph": "{}/graph.onnx", "vnnlib": "{}/property.vnnlib"}, ("graph.onnx", "weights.bin", "property.vnnlib")),
    ("export", {"model": "{}/model"}, ("model/model.safetensors", "data.npz")),
    ("export", {"model": "{}/model", "calibration": "folder:{}/photos"}, ("photos/class 1/1.png",)),
    ("build", {"source": "{}/graph.onnx", "input_range": 255}, ("graph.onnx", "weights.bin")),
    ("build", {"source": "{}/graphs", "prefix": "{}/data.npz"}, ("graphs/model.fp32.onnx", "data.npz")),
    ("quantize", {"model": "{}/model", "adversaries": "{}/fgsm"}, ("model/model.safetensors", "fgsm/adversaries.npz", "data.npz")),
    ("eval", {"engines": ("{}/graph.onnx",), "data": "npz:{}/data.npz"}, ("graph.onnx", "weights.bin", "data.npz")),
    ("eval", {"engines": ("{}/model",), "sets": ("{}/fgsm",), "costs": "{}/costs.csv"}, ("fgsm/clean.npz", "costs.csv")),
    ("bench-engines", {"engines": ("{}/graph.onnx", "{}/model")}, ("weights.bin", "model/model.safetensors")),
    ("bench-attacks", {"model": "{}/model"}, ("model/model.safetensors", "data.npz")),
)  # fmt: skip
CASES = [(name, options, file) for name, options, files in READ for file in files]


def _filled(value: Any, folder: Path) -> Any:
    if isinstance(value, str):
        return value.replace("{}", str(folder))
    if isinstance(value, dict):
        return {key: _filled(each, folder) for key, each in value.items()}
    return tuple(_filled(each, folder) for each in value) if isinstance(value, tuple) else value


@pytest.fixture
def place_of(made: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, dict[str, Any]], Path]:
    """Return the folder that a stage would write, which carries the identity of what it reads."""
    monkeypatch.syspath_prepend(str(made))
    monkeypatch.setenv("EDGEPROOF_FACTORIES", "my_net:build")

    def place(name: str, options: dict[str, Any]) -> Path:
        config = build_config(STAGES[name].config, options=_filled(options, made))
        with closing(stages._start(STAGES[name], config, Place(), {})) as run:
            return run.path

    return place


@pytest.mark.parametrize("name, options, file", CASES, ids=[f"{name}-{file}" for name, _, file in CASES])
def test_one_byte_of_a_file_that_is_read_makes_another_run(
    made: Path, place_of: Callable[..., Path], name: str, options: dict[str, Any], file: str
) -> None:
    before = place_of(name, options)
    assert place_of(name, options) == before
    path = made / file
    content = path.read_bytes()
    changed = (
        content.replace(b"nn.Linear", b"nn.Linaer") if file.endswith(".py") else content[:-1] + bytes([content[-1] ^ 1])
    )
    try:
        path.write_bytes(changed)
        # Of a run that is read, a changed file is refused: the run no longer is what its manifest says.
        try:
            assert place_of(name, options) != before
        except RunError as error:
            assert (path.parent / "manifest.json").is_file()
            assert "was changed after the run (SHA-256 differs); repeat the command that made the run" in str(error)  # noqa: PT017
    finally:
        path.write_bytes(content)
    assert place_of(name, options) == before


def test_a_data_set_that_is_not_read_does_not_count(made: Path, place_of: Callable[..., Path]) -> None:
    options = {"engines": ("{}/model",), "sets": ("{}/fgsm",), "data": "npz:{}/other.npz"}
    before = place_of("eval", options)
    content = (made / "other.npz").read_bytes()
    (made / "other.npz").write_bytes(content[:-1] + b"?")
    try:
        assert place_of("eval", options) == before
    finally:
        (made / "other.npz").write_bytes(content)


def test_images_count_wherever_they_lie(tmp_path: Path) -> None:
    for root in (tmp_path / "a", tmp_path / "moved"):
        (root / "cat").mkdir(parents=True)
        (root / "cat" / "1.png").write_bytes(b"image")
        (root / ".hidden").write_bytes(root.name.encode())
    assert hash_tree(tmp_path / "a") == hash_tree(tmp_path / "moved")
    (tmp_path / "moved" / "cat").rename(tmp_path / "moved" / "dog")
    assert hash_tree(tmp_path / "a") != hash_tree(tmp_path / "moved")


def test_hashes_are_remembered_and_no_change_is_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "d").mkdir()
    names = [f"{number}.png" for number in range(5)]
    for name in names:
        (tmp_path / "d" / name).write_bytes(name.encode())
        os.utime(tmp_path / "d" / name, (1e9, 1e9))
    first = file_hashes(tmp_path / "d", names)
    (cache,) = (tmp_path / "cache" / "edgeproof" / "hashes").iterdir()
    assert sorted(json.loads(cache.read_text())) == names
    read: list[Path] = []
    monkeypatch.setattr("edgeproof.runs.tree.sha256_file", lambda path: read.append(path) or "new")
    assert file_hashes(tmp_path / "d", names) == first
    assert not read
    (tmp_path / "d" / "3.png").write_bytes(b"3.PNG")  # of the same size
    assert file_hashes(tmp_path / "d", names)["3.png"] == "new"
    file_hashes(tmp_path / "d", names)
    assert len(read) == 2, "a file that has just changed is not remembered: its time could stay at the next change"
    cache.write_text("[")
    assert set(file_hashes(tmp_path / "d", names).values()) == {"new"}

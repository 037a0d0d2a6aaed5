from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from edgeproof.config import TrainConfig, build_config
from edgeproof.data.arrays import read_npz, write_npz
from edgeproof.data.base import load_dataset, split_dataset
from edgeproof.errors import ConfigError, DataError, ModelError
from edgeproof.models.base import load_classifier
from edgeproof.runs import Run
from edgeproof.training import loop
from edgeproof.training.loop import train

SMALL = {
    "data.name": "synthetic", "data.calibration": 16, "model": "lenet", "epochs": 2, "batch_size": 32, "lr": 0.02,
}  # fmt: skip


def configure(**changes: Any) -> TrainConfig:
    return build_config(TrainConfig, options={**SMALL, **{key.replace("__", "."): v for key, v in changes.items()}})


def run(config: TrainConfig, folder: Path) -> Run:
    with Run.start("train", "test", config=config.model_dump(mode="json"), out=folder) as out:
        train(config, out)
    return out


def history(out: Run) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(out.file("history.json").read_text(encoding="utf-8"))
    return found


def validation_loss(epochs: list[dict[str, Any]]) -> list[float]:
    return [epoch["validation_loss"] for epoch in epochs]


def test_training_learns_the_classes_and_writes_a_finished_run(tmp_path: Path) -> None:
    out = run(configure(model="small-cnn"), tmp_path / "run")
    assert out.done
    assert set(out.outputs()) == {"model.safetensors", "history.json", "splits.npz"}
    test = load_dataset("synthetic").test
    logits = load_classifier(out.file("model.safetensors"))(torch.from_numpy(test.images))
    assert float((logits.argmax(1).numpy() == test.labels).mean()) > 0.9


def test_the_history_has_each_epochs_accuracy_by_class(tmp_path: Path) -> None:
    found = history(run(configure(), tmp_path / "run"))
    assert [epoch["epoch"] for epoch in found["epochs"]] == [1, 2]
    last = found["epochs"][-1]
    assert sum(row["hits"] for row in last["per_class"]) == last["validation"]["hits"]
    assert (
        sum(row["total"] for row in last["per_class"]) == last["validation"]["total"] == found["images"]["validation"]
    )
    assert found["classes"] == ["class-0", "class-1", "class-2", "class-3"]
    assert last["lr"] == pytest.approx(0.02 / 250_000)


def test_the_recorded_validation_accuracy_is_that_of_the_checkpoint(tmp_path: Path) -> None:
    config = configure()
    out = run(config, tmp_path / "run")
    split = split_dataset(load_dataset("synthetic"), seed=0, validation=0.1, calibration=16).validation
    predicted = load_classifier(out.file("model.safetensors"))(torch.from_numpy(split.images)).argmax(1).numpy()
    assert history(out)["epochs"][-1]["validation"]["hits"] == int((predicted == split.labels).sum())
    assert np.array_equal(read_npz(out.file("splits.npz"))["validation"], split.index)


def test_the_normalisation_is_that_of_the_training_images_and_possas_vgg_has_none(tmp_path: Path) -> None:
    images = split_dataset(load_dataset("synthetic"), seed=0, validation=0.1, calibration=16).train.images.astype(float)
    model = load_classifier(run(configure(epochs=1), tmp_path / "a").file("model.safetensors"))
    assert float(model.mean) == pytest.approx(images.mean(), rel=1e-6)
    assert float(model.std) == pytest.approx(images.std(), rel=1e-6)
    model = load_classifier(run(configure(epochs=1, model="possas-vgg"), tmp_path / "b").file("model.safetensors"))
    assert (float(model.mean), float(model.std)) == (0, 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "sgd", "augment": "flip-crop"},
        {"optimizer": "adam", "lr": 1e-3, "schedule": "cosine", "patience": 3},
        {"optimizer": "rmsprop", "lr": 1e-3, "schedule": "inverse-time", "amp": True},
        {"model": "possas-vgg", "optimizer": "rmsprop", "lr": 1e-3, "data__limit_train": 128},  # dropout
        pytest.param({"model": "possas-vgg", "device": "cuda", "augment": "flip-crop"}, marks=pytest.mark.gpu),
    ],
)
def test_a_run_that_is_killed_and_continued_ends_in_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    config = configure(epochs=3, **changes)
    whole = run(config, tmp_path / "whole")
    monkeypatch.setattr(loop, "_validate", _interrupt_in_epoch(2))
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "killed")
    assert not (tmp_path / "killed/manifest.json").exists()
    assert (tmp_path / "killed/state/epoch.safetensors").exists()
    monkeypatch.undo()
    torch.rand(100)  # whatever the new process has drawn before does not matter
    continued = run(config, tmp_path / "killed")
    for name in ("model.safetensors", "history.json"):
        assert continued.file(name).read_bytes() == whole.file(name).read_bytes()
    assert not (tmp_path / "killed/state").exists()


def _interrupt_in_epoch(number: int) -> Any:
    real, calls = loop._validate, [0]

    def validate(*arguments: Any) -> Any:
        calls[0] += 1
        if calls[0] == number:
            raise KeyboardInterrupt
        return real(*arguments)

    return validate


def test_another_seed_gives_other_weights_and_the_callers_generator_is_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    first = run(configure(epochs=1), tmp_path / "a").file("model.safetensors")
    assert torch.equal(torch.rand(2), expected)
    other = run(configure(epochs=1, seed=1), tmp_path / "b").file("model.safetensors")
    assert not torch.equal(load_file(first)["0.weight"], load_file(other)["0.weight"])


def test_early_stopping_keeps_the_weights_of_the_last_epoch_that_was_better_by_min_delta(tmp_path: Path) -> None:
    out = run(configure(epochs=30, patience=2, min_delta=0.5, schedule="constant", lr=0.05), tmp_path / "run")
    found = history(out)
    losses = validation_loss(found["epochs"])
    kept = found["kept_epoch"]
    assert len(losses) == kept + 2 < 30
    assert all(loss > losses[kept - 1] - 0.5 for loss in losses[kept:])
    assert all(loss - 0.5 > losses[kept - 1] for loss in losses[: kept - 1])
    split = split_dataset(load_dataset("synthetic"), seed=0, validation=0.1, calibration=16).validation
    logits = load_classifier(out.file("model.safetensors"))(torch.from_numpy(split.images))
    loss = float(torch.nn.functional.cross_entropy(logits, torch.from_numpy(split.labels)))
    assert loss == pytest.approx(losses[kept - 1], rel=1e-4)


def test_training_without_validation_images_says_nothing_of_accuracy(tmp_path: Path) -> None:
    found = history(run(configure(data__validation=0.0), tmp_path / "run"))
    assert found["epochs"][-1]["validation"] is None
    with pytest.raises(ConfigError, match=r"patience needs validation images to watch; set data\.validation above 0"):
        run(configure(data__validation=0.0, patience=2), tmp_path / "other")


def test_a_loss_that_is_no_number_ends_in_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"the loss is (nan|inf) in epoch 1 by step \d+, .* lower lr"):
        run(configure(lr=1e6, schedule="constant"), tmp_path / "run")


def test_a_data_set_without_training_images_cannot_be_trained_on(tmp_path: Path) -> None:
    test = load_dataset("synthetic").test
    write_npz(tmp_path / "only.npz", {"x_test": test.images, "y_test": test.labels})
    with pytest.raises(DataError, match="has no training images; it can be attacked and evaluated only"):
        run(configure(data__name=f"npz:{tmp_path / 'only.npz'}"), tmp_path / "run")


def test_fewer_images_than_a_batch_are_one_step(tmp_path: Path) -> None:
    assert len(history(run(configure(batch_size=4096), tmp_path / "run"))["epochs"]) == 2


def test_a_damaged_state_is_an_error_and_not_a_silent_new_start(tmp_path: Path) -> None:
    config = configure()
    with Run.start("train", "test", config=config.model_dump(mode="json"), out=tmp_path / "run") as out:
        (out.path / "state").mkdir()
        (out.path / "state/epoch.safetensors").write_bytes(b"not one of ours")
    with pytest.raises(ModelError, match=r"cannot be continued from .* start again with --fresh"):
        run(config, tmp_path / "run")


def test_a_state_of_parameters_that_are_not_there_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = loop.save_state

    def save_and_die(path: Path, state: Any) -> None:
        save(path, state)
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "save_state", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        run(configure(), tmp_path / "run")
    path = next((tmp_path / "run/state").glob("*.safetensors"))
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    for number in ("x", "10", "9" * 5000):
        save_file({**tensors, f"optimizer.{number}.momentum_buffer": torch.zeros(1)}, path, metadata=metadata)
        with pytest.raises(ModelError, match=r"cannot be continued from .*of no parameter.* start again with --fresh"):
            run(configure(), tmp_path / "run")


def test_an_unknown_objective_or_parameter_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown objective 'standart'"):
        run(configure(objective="standart"), tmp_path / "a")
    with pytest.raises(ConfigError, match=r"'standard' has no parameter 'label_smothing'.*label_smoothing"):
        run(configure(objective_params={"label_smothing": 0.1}), tmp_path / "b")

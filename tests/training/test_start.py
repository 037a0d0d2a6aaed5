"""Training that starts from another run's weights, and the weights' shape over training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from edgeproof.config import TrainConfig
from edgeproof.errors import ModelError
from edgeproof.models.base import load_classifier
from edgeproof.runs import Run
from edgeproof.stages import STAGES
from tests.training.test_loop import configure, history, run


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run(configure(), tmp_path_factory.mktemp("start") / "first")


def test_training_starts_from_the_other_runs_weights_and_normalisation(first: Run, tmp_path: Path) -> None:
    still = configure(epochs=1, lr=1e-12, weight_decay=0, start_from=str(first.path), data__limit_train=200)
    before = load_classifier(first.file("model.safetensors"))
    after = load_classifier(run(still, tmp_path / "second").file("model.safetensors"))
    for key, value in before.network.state_dict().items():
        torch.testing.assert_close(after.network.state_dict()[key], value)
    assert torch.equal(after.mean, before.mean)  # the images it trains on now would have given another


def test_continued_training_goes_on_learning(first: Run, tmp_path: Path) -> None:
    more = history(run(configure(start_from=str(first.path)), tmp_path / "more"))["epochs"]
    assert more[0]["train_loss"] < history(first)["epochs"][0]["train_loss"]


def test_a_start_of_another_kind_is_refused(first: Run, tmp_path: Path) -> None:
    for changes, message in (
        ({"model": "small-cnn"}, "holds lenet for images .* of class-0, .*; expected small-cnn"),
        ({"data__name": "digits"}, r"expected lenet for images \(1, 32, 32\) of 0, 1, 2"),
    ):
        with pytest.raises(ModelError, match=message):
            run(configure(start_from=str(first.path), **changes), tmp_path / str(changes))


def test_the_start_and_the_costs_are_inputs_of_the_run() -> None:
    config = TrainConfig(start_from="runs/a", objective_params={"costs": "c.csv"})
    assert STAGES["train"].inputs(config) == {"start": Path("runs/a"), "costs": Path("c.csv")}
    assert STAGES["train"].inputs(TrainConfig()) == {}


def test_the_history_has_the_shape_of_each_layers_weights(first: Run) -> None:
    epochs = history(first)["epochs"]
    assert [layer["layer"] for layer in epochs[-1]["layers"]] == ["conv1", "conv2", "linear1", "linear2", "linear3"]
    largest = max(w.abs().max() for w in load_classifier(first.file("model.safetensors")).network[0].weight)
    assert epochs[-1]["layers"][0]["max_abs"] == pytest.approx(float(largest))
    assert epochs[0]["layers"][0] != epochs[1]["layers"][0]

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from edgeproof.errors import ConfigError, ModelError, UnavailableError
from edgeproof.models.base import Classifier, build_classifier, load_classifier, save_classifier, torch_device

CLASSES = ("ant", "bee", "cow")


def small(name: str = "lenet", **changes: object) -> Classifier:
    options = {"input_shape": (1, 16, 16), "classes": CLASSES, "mean": [0.25], "std": [0.5], **changes}
    return build_classifier(name, **options)  # type: ignore[arg-type]


def save_with(path: Path, model: Classifier, **changes: torch.Tensor) -> None:
    """Write the model's checkpoint with some tensors replaced, as a careless tool would."""
    save_classifier(path, model)
    header = _header(path)
    save_file({**load_file(path), **changes}, path, metadata={"edgeproof": json.dumps(header)})


def _header(path: Path) -> dict[str, object]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        header: dict[str, object] = json.loads(file.metadata()["edgeproof"])
    return header


def test_normalisation_is_part_of_the_model() -> None:
    model = small().eval()
    x = torch.rand(4, 1, 16, 16)
    torch.testing.assert_close(model(x), model.network((x - 0.25) / 0.5), rtol=0, atol=0)


def test_a_saved_classifier_comes_back_with_the_same_logits_and_description(tmp_path: Path) -> None:
    model = small("resnet-20", mean=[0.1], std=[1 / 3])
    model(torch.rand(8, 1, 16, 16))  # moves the running statistics of batch-norm
    save_classifier(tmp_path / "model.safetensors", model)
    again = load_classifier(tmp_path / "model.safetensors")
    x = torch.rand(4, 1, 16, 16)
    assert torch.equal(again(x), model.eval()(x))
    assert (again.name, again.input_shape, again.classes) == ("resnet-20", (1, 16, 16), CLASSES)
    assert torch.equal(again.std, model.std)
    assert not again.training
    assert not any(parameter.requires_grad for parameter in again.parameters())


def test_equal_models_give_equal_bytes_in_either_memory_format(tmp_path: Path) -> None:
    model = small()
    save_classifier(tmp_path / "a", model)
    save_classifier(tmp_path / "b", model.to(memory_format=torch.channels_last))  # type: ignore[call-overload]
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_loading_leaves_the_callers_random_draws_as_they_were(tmp_path: Path) -> None:
    save_classifier(tmp_path / "m", small())
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_classifier(tmp_path / "m")
    assert torch.equal(torch.rand(3), expected)


def test_the_checkpoint_holds_the_networks_own_tensor_names(tmp_path: Path) -> None:
    model = small()
    save_classifier(tmp_path / "m", model)
    assert load_file(tmp_path / "m").keys() == model.network.state_dict().keys()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_neither_saved_nor_loaded(tmp_path: Path, value: float) -> None:
    model = small()
    save_with(tmp_path / "m", model, **{"0.bias": torch.full((6,), value)})
    with pytest.raises(ModelError, match=r"m: 0\.bias holds NaN or infinite weights"):
        load_classifier(tmp_path / "m")
    with torch.no_grad():
        model.network.get_parameter("0.bias").fill_(value)
    with pytest.raises(ModelError, match=r"lenet: not saved: 0\.bias holds NaN"):
        save_classifier(tmp_path / "n", model)
    assert not (tmp_path / "n").exists()


def test_a_missing_a_truncated_and_a_foreign_file_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with pytest.raises(ModelError, match="no checkpoint at"):
        load_classifier(path)
    save_classifier(path, small())
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match="cannot be read as safetensors"):
        load_classifier(path)
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(ModelError, match="not a checkpoint of this toolkit"):
        load_classifier(path)
    save_file({"weight": torch.zeros(2)}, path, metadata={"edgeproof": '{"name": 3}'})
    with pytest.raises(ModelError, match="metadata cannot be read"):
        load_classifier(path)


def test_a_weight_of_another_shape_or_name_is_refused_by_name(tmp_path: Path) -> None:
    save_with(tmp_path / "m", small(), **{"0.bias": torch.zeros(7)})
    with pytest.raises(ModelError, match=r"0\.bias has shape \(7,\); the network expects \(6,\)"):
        load_classifier(tmp_path / "m")
    save_with(tmp_path / "m", small(), extra=torch.zeros(1))
    with pytest.raises(ModelError, match=r"has 'extra' too many \(0 weights missing, 1 unknown\)"):
        load_classifier(tmp_path / "m")


def test_images_classes_and_normalisation_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ModelError, match=r"at least 16 x 16 pixels; these are \(1, 8, 16\)"):
        small(input_shape=(1, 8, 16))
    with pytest.raises(ModelError, match="1 classes; expected at least two"):
        small(classes=("only",))
    with pytest.raises(ModelError, match="mean has 3 and std 1 numbers; expected 1"):
        small(mean=[0, 0, 0])
    with pytest.raises(ModelError, match="std above 0"):
        small(std=[0.0])


def test_an_unknown_model_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"unknown model 'resnet20' \(did you mean 'resnet-20'\?\)"):
        small("resnet20")


def test_a_device_that_is_not_there_or_not_one_is_an_error() -> None:
    with pytest.raises(ConfigError, match="device 'gpu' is not known"):
        torch_device("gpu")
    with pytest.raises(UnavailableError, match="device 'cuda:99' is not there"):
        torch_device("cuda:99")

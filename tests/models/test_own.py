from __future__ import annotations

import json
import os
import pickle
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from edgeproof.commands.options import read_config
from edgeproof.config import ImportConfig, TrainConfig, build_config
from edgeproof.data.arrays import write_npz
from edgeproof.errors import ConfigError, DataError, ModelError, UnavailableError
from edgeproof.models.base import build_classifier, load_classifier, save_classifier
from edgeproof.models.own import import_model, own_classifier
from edgeproof.models.weights import read_weights
from edgeproof.plugins.trusted import FACTORIES
from edgeproof.runs import Run

SOURCE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes=3):
        super().__init__()
        self.model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 14 * 14, num_classes))

    def forward(self, x):
        return self.model(x)

def sized(*, input_shape, num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(input_shape[1] * input_shape[2], num_classes))

def needy(depth):
    return Net()

def nothing():
    return 3

def failing():
    raise RuntimeError("no licence")
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's folder with a module in it; the current directory, as it is for a user."""
    (tmp_path / "usersnet.py").write_text(SOURCE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv(FACTORIES, "")
    yield tmp_path
    sys.modules.pop("usersnet", None)


def own(weights: Path, name: str = "usersnet:Net", **changes: Any) -> nn.Module:
    options: dict[str, Any] = {"input_shape": (1, 16, 16), "classes": ("a", "b", "c"), **changes}
    return own_classifier(name, weights, **options)


def fresh(name: str = "usersnet:Net") -> nn.Module:
    torch.manual_seed(0)
    model = build_classifier(name, input_shape=(1, 16, 16), classes=("a", "b", "c"), mean=[0], std=[1])
    return model.network.eval()


WRITERS = {
    "plain": lambda weights: weights,
    "state_dict": lambda weights: {"state_dict": weights, "epoch": 3, "optimizer": {"state": {}, "param_groups": []}},
    "one odd key": lambda weights: {"net": weights, "acc": 0.9},
    "module.": lambda weights: {f"module.{key}": value for key, value in weights.items()},
    "both wrappers": lambda weights: {
        "model": {f"_orig_mod.module.{key}": v for key, v in weights.items()},
        "epoch": 1,
    },
    "half": lambda weights: {key: v.half() if v.is_floating_point() else v for key, v in weights.items()},
}


@pytest.mark.parametrize("writer", WRITERS)
def test_weights_written_by_other_code_give_the_users_own_logits(folder: Path, writer: str) -> None:
    network = fresh()
    torch.save(WRITERS[writer](dict(network.state_dict())), folder / "weights.pt")
    model = own(folder / "weights.pt", mean=[0.25], std=[0.5])
    x = torch.rand(5, 1, 16, 16)
    tolerance = 1e-2 if writer == "half" else 0
    torch.testing.assert_close(model(x), network((x - 0.25) / 0.5), rtol=tolerance, atol=tolerance)


def test_safetensors_are_read_too_and_the_default_normalisation_is_none(folder: Path) -> None:
    network = fresh()
    save_file({f"module.{key}": value for key, value in network.state_dict().items()}, folder / "w.safetensors")
    x = torch.rand(5, 1, 16, 16)
    assert torch.equal(own(folder / "w.safetensors")(x), network(x))


def test_a_networks_own_name_that_looks_like_a_wrapper_stays(folder: Path) -> None:
    assert all(key.startswith("model.") for key in fresh().state_dict())
    torch.save(fresh().state_dict(), folder / "w.pt")
    own(folder / "w.pt")


class Payload:
    """What an attacker puts into a pickle: a call that leaves a trace, here a folder."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("new_format", [True, False])
def test_a_checkpoint_that_wants_to_execute_something_is_refused_and_nothing_runs(
    folder: Path, new_format: bool
) -> None:
    content = {"state_dict": fresh().state_dict(), "extra": Payload(folder / "trace")}
    torch.save(content, folder / "evil.pt", _use_new_zipfile_serialization=new_format)
    with pytest.raises(ModelError, match=r"evil\.pt names 'posix\.mkdir', code .* refused, nothing was run"):
        own(folder / "evil.pt")
    assert not (folder / "trace").exists()
    torch.load(folder / "evil.pt", weights_only=False)
    assert (folder / "trace").exists()  # the payload works, where it is let


def test_a_bare_pickle_is_refused_without_a_warning_of_torch_before_it(
    folder: Path, recwarn: pytest.WarningsRecorder
) -> None:
    (folder / "bare.pt").write_bytes(pickle.dumps(Payload(folder / "trace"), protocol=4))
    with pytest.raises(ModelError, match=r"bare\.pt needs code .* refused, nothing was run"):
        own(folder / "bare.pt")
    assert not (folder / "trace").exists()
    assert not list(recwarn)


def test_a_single_mean_and_std_stand_for_every_channel(folder: Path) -> None:
    source = "from torch import nn\ndef flat():\n    return nn.Sequential(nn.Flatten(), nn.Linear(768, 3))\n"
    (folder / "colournet.py").write_text(source, encoding="utf-8")
    torch.save(nn.Sequential(nn.Flatten(), nn.Linear(768, 3)).state_dict(), folder / "flat.pt")
    model = own_classifier(
        "colournet:flat", folder / "flat.pt", input_shape=(3, 16, 16), classes=("a", "b", "c"), mean=[0.5], std=[0.25]
    )
    assert model.mean.flatten().tolist() == [0.5] * 3
    assert model.std.flatten().tolist() == [0.25] * 3
    with pytest.raises(ModelError, match="mean has 2 and std 3 numbers; expected 3"):
        own_classifier(
            "colournet:flat", folder / "flat.pt", input_shape=(3, 16, 16), classes=("a", "b", "c"), mean=[0.5, 0.5]
        )


def test_a_whole_network_saved_as_a_pickle_is_answered_with_what_to_save_instead(folder: Path) -> None:
    torch.save(fresh(), folder / "whole.pt")
    with pytest.raises(ModelError, match=r"names 'usersnet\.Net', code .* save the tensors alone"):
        own(folder / "whole.pt")


def test_files_without_usable_weights_are_told_apart(folder: Path) -> None:
    with pytest.raises(ModelError, match="no weights at"):
        own(folder / "none.pt")
    (folder / "text.pt").write_text("hello", encoding="utf-8")
    with pytest.raises(ModelError, match=r"text\.pt"):
        own(folder / "text.pt")
    (folder / "text.safetensors").write_text("hello", encoding="utf-8")
    with pytest.raises(ModelError, match="cannot be read as safetensors"):
        own(folder / "text.safetensors")
    torch.save(dict(fresh().state_dict()), folder / "cut.pt")
    (folder / "cut.pt").write_bytes((folder / "cut.pt").read_bytes()[:900])
    with pytest.raises(ModelError, match=r"cut\.pt cannot be read as a torch checkpoint"):
        own(folder / "cut.pt")
    torch.save({"epoch": 3}, folder / "empty.pt")
    with pytest.raises(ModelError, match="holds no state dict; expected one"):
        own(folder / "empty.pt")
    weights = dict(fresh().state_dict())
    torch.save({"student": weights, "teacher": weights}, folder / "two.pt")
    with pytest.raises(
        ModelError, match="has the state dicts 'student', 'teacher'; choose one with --weights-key, such as student"
    ):
        own(folder / "two.pt")
    own(folder / "two.pt", weights_key="student")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit's, of itself
        torch.jit.save(torch.jit.trace(fresh(), torch.zeros(1, 1, 16, 16)), str(folder / "script.pt"))
    with pytest.raises(
        ModelError, match=r"script.pt is a TorchScript archive.*torch\.jit\.load\('script\.pt'\)\.state_dict\(\)"
    ):
        own(folder / "script.pt")
    with warnings.catch_warnings():  # what the message says to do works
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.save(torch.jit.load(str(folder / "script.pt")).state_dict(), folder / "weights.pt")
    own(folder / "weights.pt")


def odd(number: int) -> dict[str, torch.Tensor]:
    """Return the network's weights, of which the first is filled with a number."""
    weights = dict(fresh().state_dict())
    return {**weights, "model.0.bias": torch.full_like(weights["model.0.bias"], number)}


def chosen(path: Path, key: str | None = None) -> float:
    """Return the number of the weights that were taken."""
    return float(own(path, weights_key=key).network.state_dict()["model.0.bias"][0])


def under(start: str, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{start}{name}": value for name, value in weights.items()}


def test_any_prefix_is_taken_off_and_what_is_outside_it_is_named(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    loss = {"criterion.weight": torch.ones(3), "metric.state": torch.ones(1)}
    torch.save({"state_dict": {**loss, **under("lit_net.module.", odd(5))}}, folder / "w.ckpt")
    assert chosen(folder / "w.ckpt") == 5
    assert (
        "the network's weights are those named lit_net.module.*; left out: criterion.weight, metric.state"
        in caplog.text
    )


def test_a_weight_that_the_network_lacks_inside_the_prefix_is_refused(folder: Path) -> None:
    torch.save(under("net.", {**odd(5), "model.9.weight": torch.ones(3)}), folder / "w.pt")
    with pytest.raises(ModelError, match=r"has 'model.9.weight' too many"):
        own(folder / "w.pt")
    torch.save({**odd(5), "criterion.weight": torch.ones(3)}, folder / "w.pt")
    with pytest.raises(ModelError, match=r"has 'criterion.weight' too many"):
        own(folder / "w.pt")


def test_of_two_copies_the_usual_one_is_taken_and_a_key_chooses(folder: Path) -> None:
    torch.save({**under("net.", odd(1)), **under("ema_net.", odd(2))}, folder / "w.pt")
    assert [chosen(folder / "w.pt", key) for key in (None, "ema_net", "net.")] == [1, 2, 1]
    torch.save({**under("student.", odd(1)), **under("teacher.", odd(2))}, folder / "w.pt")
    with pytest.raises(ModelError, match=r"more than once, as student\.\*, teacher\.\*; choose one with --weights-key"):
        own(folder / "w.pt")
    assert chosen(folder / "w.pt", "teacher") == 2
    with pytest.raises(
        ModelError, match=r"no entry 'pupil' and no weights pupil\.\*; its weights begin with student, teacher"
    ):
        own(folder / "w.pt", weights_key="pupil")


def test_of_several_state_dicts_the_usual_one_is_taken_and_said(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    torch.save({"state_dict_ema": odd(2), "state_dict": odd(1), "epoch": 3}, folder / "w.pt")
    assert chosen(folder / "w.pt") == 1
    assert "has the state dicts 'state_dict_ema', 'state_dict'; 'state_dict' is taken; --weights-key" in caplog.text
    assert chosen(folder / "w.pt", "state_dict_ema") == 2
    torch.save([odd(3), under("module.", odd(4))], folder / "list.pt")
    with pytest.raises(ModelError, match="has the state dicts '0', '1'; choose one with --weights-key, such as 0"):
        own(folder / "list.pt")
    assert chosen(folder / "list.pt", "1") == 4


def test_a_batch_norm_s_counter_may_be_missing_and_nothing_else(folder: Path) -> None:
    weights = odd(5)
    old = {name: value for name, value in weights.items() if not name.endswith("num_batches_tracked")}
    assert len(old) == len(weights) - 1
    torch.save(under("module.", old), folder / "w.pt")
    x = torch.rand(5, 1, 16, 16)
    torch.save(weights, folder / "new.pt")
    assert torch.equal(own(folder / "w.pt")(x), own(folder / "new.pt")(x))
    torch.save({name: value for name, value in old.items() if "running_var" not in name}, folder / "w.pt")
    with pytest.raises(ModelError, match=r"lacks 'model.1.running_var'"):
        own(folder / "w.pt")


def test_weights_of_another_network_and_nan_are_refused(folder: Path) -> None:
    torch.save(nn.Linear(3, 3).state_dict(), folder / "other.pt")
    with pytest.raises(ModelError, match="is it from another network"):
        own(folder / "other.pt")
    weights = dict(fresh().state_dict())
    weights["model.0.bias"] = torch.full((4,), float("nan"))
    torch.save(weights, folder / "nan.pt")
    with pytest.raises(ModelError, match=r"model\.0\.bias holds NaN"):
        own(folder / "nan.pt")
    assert "model.0.bias" in read_weights(folder / "nan.pt")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("usersnet:Nett", r"usersnet has no function or nn.Module class 'Nett' \(did you mean 'Net'\?\)"),
        ("usersnet:torch", "has no function or nn.Module class 'torch'"),
        ("usersnot:Net", "'usersnot' cannot be imported from"),
        ("usersnet:needy", "usersnet:needy failed .*needs at most input_shape and num_classes"),
        ("usersnet:nothing", "usersnet:nothing returned a int"),
        ("usersnet:failing", "RuntimeError: no licence"),
        ("os:abort", "os has no function or nn.Module class 'abort'"),
    ],
)
def test_a_factory_that_cannot_be_used_is_named_with_the_reason(folder: Path, name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build_classifier(name, input_shape=(1, 16, 16), classes=("a", "b"), mean=[0], std=[1])


def test_a_network_for_other_images_or_classes_is_told_at_once(folder: Path) -> None:
    with pytest.raises(ModelError, match=r"usersnet:Net cannot take images of shape \(3, 16, 16\)"):
        build_classifier("usersnet:Net", input_shape=(3, 16, 16), classes=("a", "b"), mean=[0] * 3, std=[1] * 3)
    torch.save(fresh().state_dict(), folder / "w.pt")
    with pytest.raises(
        ModelError, match=r"model\.3\.\w+ is of 3 classes, and 5 are known \(a, b, c, .*name all 3 .*--classes-file"
    ):
        own(folder / "w.pt", classes=tuple("abcde"))


def test_running_the_users_code_is_said_on_stderr(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    fresh("usersnet:sized")
    assert "importing usersnet:sized: this runs its code" in caplog.text


def write_data(folder: Path) -> None:
    images = np.random.default_rng(0).random((12, 1, 16, 16), dtype=np.float32)
    write_npz(folder / "data.npz", {"x_test": images, "y_test": np.arange(12) % 3})


def run_import(**changes: Any) -> Run:
    options = {"data.name": "npz:data.npz", "model": "usersnet:Net", "weights": "w.pt", "mean": "0.5", "std": ("0.25",)}
    config = build_config(ImportConfig, options={**options, **changes})
    inputs = {"weights": Path(config.weights)}
    with Run.start("train", "own", config=config.model_dump(mode="json"), inputs=inputs) as out:
        import_model(config, out)
    return out


def test_an_imported_network_is_a_train_run_that_opens_like_any_other(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "edgeproof")
    write_data(folder)
    torch.save({f"module.{key}": value for key, value in fresh().state_dict().items()}, folder / "w.pt")
    out = run_import(input_shape="1,16,16", classes="ant,bee,cow")
    opened = Run.open(out.path, kind="train")
    assert opened.config["data"]["name"] == "npz:data.npz"
    model = load_classifier(opened.file("model.safetensors"))
    x = torch.rand(3, 1, 16, 16)
    torch.testing.assert_close(model(x), fresh()((x - 0.5) / 0.25), rtol=0, atol=0)
    assert (model.name, model.classes) == ("usersnet:Net", ("ant", "bee", "cow"))
    assert "of 12 test images correctly" in caplog.text


def test_an_import_that_contradicts_its_data_is_refused(folder: Path) -> None:
    write_data(folder)
    torch.save(fresh().state_dict(), folder / "w.pt")
    with pytest.raises(ModelError, match=r"input_shape = \(3, 16, 16\), but the images of .* are \(1, 16, 16\)"):
        run_import(input_shape="3,16,16")
    with pytest.raises(DataError, match=r"usersnet:Net has 2 classes \(a, b\); npz:data.npz has 3 \(0, 1, 2\)"):
        run_import(classes="a,b")
    with pytest.raises(ConfigError, match="classes and classes_file both name the network's classes"):
        run_import(classes="a,b,c", classes_file="c.txt")


def test_an_import_counts_by_the_names_of_the_network_s_own_order(folder: Path) -> None:
    """The network's class k is the data's class 2 - k; a file's names may have commas."""
    images = np.random.default_rng(0).random((12, 1, 16, 16), dtype=np.float32)
    with torch.no_grad():
        labels = 2 - fresh()((torch.from_numpy(images) - 0.5) / 0.25).argmax(1).numpy()
    write_npz(folder / "data.npz", {"x_test": images, "y_test": labels, "classes": np.array(["c, wild", "b", "a"])})
    torch.save(fresh().state_dict(), folder / "w.pt")
    (folder / "names.json").write_text('{"0": "a", "1": "b", "2": "c, wild"}')
    out = run_import(classes_file="names.json")
    told = json.loads((out.path / "history.json").read_text())
    assert (told["classes"], told["imported"]["hits"]) == (["a", "b", "c, wild"], 12)


def test_a_checkpoint_alone_runs_no_code(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = build_classifier("usersnet:Net", input_shape=(1, 16, 16), classes=("a", "b", "c"), mean=[0], std=[1])
    save_classifier(folder / "model.safetensors", named)
    monkeypatch.setenv(FACTORIES, "")
    monkeypatch.delitem(sys.modules, "usersnet")
    with pytest.raises(ModelError, match=r"usersnet:Net.*name it: EDGEPROOF_FACTORIES=usersnet:Net"):
        load_classifier(folder / "model.safetensors")
    assert "usersnet" not in sys.modules
    monkeypatch.setenv(FACTORIES, "other:make, usersnet:Net")
    assert load_classifier(folder / "model.safetensors").name == "usersnet:Net"


def test_a_configuration_file_alone_runs_no_code(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "manifest.json").write_text('{"schema_version": 1, "config": {"model": "usersnet:Net", "epochs": 1}}')
    empty = {"config_file": folder / "manifest.json", "overrides": ()}
    with pytest.raises(ModelError, match="asks for the network 'usersnet:Net', code that is not part"):
        read_config(TrainConfig, dict(empty))
    assert read_config(TrainConfig, {**empty, "config_model": "usersnet:Net"}).model == "usersnet:Net"
    assert read_config(TrainConfig, dict(empty)).epochs == 1, "named once is named"
    monkeypatch.setenv(FACTORIES, "")
    assert read_config(TrainConfig, {**empty, "overrides": ("model=usersnet:Net",)}).epochs == 1


def test_the_users_factory_can_be_trained_too(folder: Path) -> None:
    from edgeproof.training.loop import train

    config = build_config(TrainConfig, options={"data.name": "synthetic", "model": "usersnet:sized", "epochs": 1})
    with Run.start("train", "own", config=config.model_dump(mode="json")) as out:
        train(config, out)
    assert load_classifier(out.file("model.safetensors")).num_classes == 4


def test_timm_is_asked_by_name_and_its_absence_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[str, Any] = {}

    def create_model(name: str, **options: Any) -> nn.Module:
        made.update(name=name, **options)
        return nn.Sequential(nn.Flatten(), nn.Linear(256, options["num_classes"]))

    stand_in = SimpleNamespace(
        __version__="1.0", create_model=create_model, is_model=lambda name: name == "vit_tiny",
        list_models=lambda: ["vit_tiny"], get_pretrained_cfg=lambda name: SimpleNamespace(fixed_input_size=True),
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "timm", stand_in)
    build_classifier("timm:vit_tiny", input_shape=(1, 16, 16), classes=("a", "b"), mean=[0], std=[1])
    assert made == {"name": "vit_tiny", "pretrained": False, "num_classes": 2, "in_chans": 1, "img_size": (16, 16)}
    with pytest.raises(ModelError, match=r"timm 1\.0 has no model 'vit_tinny' \(did you mean 'vit_tiny'\?\)"):
        build_classifier("timm:vit_tinny", input_shape=(1, 16, 16), classes=("a", "b"), mean=[0], std=[1])
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UnavailableError, match=r"'timm:vit_tiny' and cannot be imported .* pip install timm"):
        build_classifier("timm:vit_tiny", input_shape=(1, 16, 16), classes=("a", "b"), mean=[0], std=[1])

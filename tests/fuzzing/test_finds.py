"""What fuzzing has found, each as small as it goes: before, a traceback, a hang or a message of pages."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from edgeproof.__main__ import explain
from edgeproof.commands import cli
from edgeproof.config import TrainConfig, build_config, parse_number
from edgeproof.data.arrays import write_npz
from edgeproof.data.base import LabelledImages, load_dataset
from edgeproof.data.classes import class_index
from edgeproof.data.pickles import read_pickled_dict
from edgeproof.errors import ConfigError, DataError, ModelError, ToolkitError
from edgeproof.evaluation.bundle import open_bundle
from edgeproof.evaluation.costs import read_costs
from edgeproof.reports.tables import Cell, Column, Table
from edgeproof.reports.terminal import print_table
from tests.fuzzing.readers import READERS
from tests.fuzzing.running import Reader, whole_files

NAMED = {reader.name: reader for reader in READERS}


def refusal(name: str, change: Any, folder: Path) -> str:
    """Return what a reader says of its first whole file, changed."""
    reader: Reader = NAMED[name]
    whole = whole_files(reader, folder)[0]
    with pytest.raises(ToolkitError) as error:
        reader.read(change(whole), folder)
    return str(error.value)


def edited(**values: Any) -> Any:
    """Return what puts values into a JSON object."""
    return lambda data: json.dumps({**json.loads(data), **values}).encode()


@pytest.mark.parametrize("text", ["1e99999999", "1/1e99999", "9" * 100, "1e999", "1_0", "nan"])
def test_a_number_that_takes_minutes_or_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a number"):
        parse_number(text)


def test_a_list_is_no_number() -> None:
    with pytest.raises(ConfigError, match=r"\[1\] is not a number"):
        build_config(TrainConfig, options={"lr": [1]})


def test_a_key_below_a_value_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data = 5 has no 'name'"):
        build_config(TrainConfig, sets=["data=5", "data.name=digits"])


def test_a_label_beyond_all_classes_is_refused(tmp_path: Path) -> None:
    write_npz(tmp_path / "d.npz", {"x_test": np.zeros((1, 2, 2), np.float32), "y_test": np.array([2**40])})
    with pytest.raises(DataError, match="a label is 1099511627776; expected less than 25000"):
        load_dataset(f"npz:{tmp_path / 'd.npz'}")


def test_dates_are_no_labels(tmp_path: Path) -> None:
    x, dates = np.zeros((1, 2, 2), np.float32), np.array(["2020-01-01"], "M8[s]")
    write_npz(tmp_path / "d.npz", {"x_test": x, "y_test": dates, "x_train": x, "y_train": np.array([0])})
    with pytest.raises(DataError, match="labels are datetime64"):
        load_dataset(f"npz:{tmp_path / 'd.npz'}")


@pytest.mark.parametrize("name", ["set", "poison"])
@pytest.mark.parametrize("values", [{"classes": 3}, {"eps": float("nan")}, {"eps": "x"}, {"new": 1}, {"data": None}])
def test_descriptions_of_another_shape_are_refused(name: str, values: dict[str, Any], tmp_path: Path) -> None:
    assert f"{name}.json cannot be read ({next(iter(values))}:" in refusal(name, edited(**values), tmp_path)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"classes": ["ant"]}, "a class is not from 0 to 0"),
        ({"reference": "nobody"}, "the reference 'nobody' is no engine"),
        ({"cells": []}, "there is not one cell for each engine and set"),
        ({"sets": []}, "there is not one clean set"),
        ({"data": {"name": 3}}, "data.name is int"),
    ],
)
def test_results_whose_parts_do_not_fit_are_refused(values: dict[str, Any], said: str, tmp_path: Path) -> None:
    assert said in refusal("results", edited(**values), tmp_path)


def test_a_cost_matrix_that_claims_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "c.npy", np.zeros((3, 3)))
    data = (tmp_path / "c.npy").read_bytes()
    for changed in (data.replace(b"(3, 3), ", b"(3, 3333333333),"), b"", data[:100]):
        (tmp_path / "c.npy").write_bytes(changed)
        with pytest.raises(ConfigError, match="cannot be read as an npy array"):
            read_costs(tmp_path / "c.npy", classes=("a", "b", "c"))


@pytest.mark.parametrize("content", ["1,2\x00\n", '"' + "x" * 200_000, "[" * 5000])
def test_text_that_is_no_matrix_is_refused(content: str, tmp_path: Path) -> None:
    for name in ("c.csv", "c.json"):
        (tmp_path / name).write_text(content, encoding="utf-8")
        with pytest.raises(ConfigError):
            read_costs(tmp_path / name, classes=("a", "b"))


def _numbers_changed(change: str) -> Any:
    """Return what puts an absurd number into results."""

    def edit(data: bytes) -> bytes:
        results = json.loads(data)
        cell, engine = results["cells"][0], results["engines"][0]
        if change == "confusion":
            cell["confusion"][0][2] = 2**70
        elif change == "rate":
            cell["accuracy"]["hits"] = 2**60
        elif change == "eps":
            next(each for each in results["sets"] if each["kind"] == "adversarial")["eps"] = 1e300
        else:
            engine["throughput"] = {"batch_size": 1, "repeats": 1, "images_per_s": 0.0, "p5": 0.0, "p95": 0.0}
        return json.dumps(results).encode()

    return edit


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("confusion", "the confusion has numbers of images that there are not"),
        ("rate", "a rate of 1152921504606846976 hits among"),
        ("eps", "1e+300 is no number of a measurement"),
        ("speed", "Input should be greater than 0"),
    ],
)
def test_absurd_numbers_in_results_are_refused(change: str, said: str, tmp_path: Path) -> None:
    assert said in refusal("results", _numbers_changed(change), tmp_path)


def _safetensors(folder: Path, metadata: str) -> Path:
    pytest.importorskip("torch")
    from safetensors.numpy import save_file

    save_file({"w": np.zeros(1, np.float32)}, folder / "m.safetensors", metadata={"edgeproof": metadata})
    return folder / "m.safetensors"


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ("[" * 5000, "metadata cannot be read"),
        ('{"name": "lenet", "input_shape": [1, 100000, 100000], "classes": ["a", "b"], "mean": [0], "std": [1], "edgeproof": ""}', "shape"),
        ('{"name": "lenet", "input_shape": [1, -28, -28], "classes": ["a", "b"], "mean": [0], "std": [1], "edgeproof": ""}', "shape"),
    ],
)  # fmt: skip
def test_a_checkpoint_of_absurd_metadata_is_refused(metadata: str, message: str, tmp_path: Path) -> None:
    path = _safetensors(tmp_path, metadata)
    from edgeproof.models.base import load_classifier

    with pytest.raises(ModelError, match=message):
        load_classifier(path)


@pytest.mark.parametrize("width", [2**63 - 1, 2**16, 0])
def test_a_generator_of_absurd_width_is_refused_before_memory_is_taken(width: int, tmp_path: Path) -> None:
    path = _safetensors(tmp_path, f'{{"name": "unet", "channels": 1, "eps": 0.1, "width": {width}}}')
    from edgeproof.poisoning.networks import load_generator

    with pytest.raises(ModelError, match=r"cannot be read as a noise generator|lacks"):
        load_generator(path)


BOUNDED = "(declare-const X_0 Real)(declare-const Y_0 Real)(assert (>= X_0 0))(assert (<= X_0 1))"


MANY = f"(and {'(<= Y_0 1)' * 500} (or {'(<= Y_0 2)' * 1000}))"


@pytest.mark.parametrize(
    "text",
    [
        f"(assert (and {'(<= Y_0 1)' * 20_000} (or {'(<= Y_0 2)' * 2000})))",
        "(assert (<= Y_0 1))" * 20_000 + f"(assert (or {'(<= Y_0 2)' * 2000}))",
        f"(assert (or {MANY * 9}))",
        f"(assert {MANY})" * 9,
    ],
    ids=["in one assertion", "of all assertions", "added up in one", "added up in all"],
)
def test_alternatives_of_many_conditions_are_refused_before_they_are_built(text: str) -> None:
    pytest.importorskip("torch")
    from edgeproof.attacks.properties.vnnlib import parse_vnnlib

    with pytest.raises(DataError, match="copies of conditions; expected at most 4194304"):
        parse_vnnlib(BOUNDED + text)


def test_boxes_of_many_inputs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from edgeproof.attacks.properties import vnnlib

    boxes = "".join(f"(and (<= X_0 0.{n}) (<= Y_0 2))" for n in range(1, 9))
    assert len(vnnlib.parse_vnnlib(f"{BOUNDED}(assert (or {boxes}))").regions) == 8
    monkeypatch.setattr(vnnlib, "MAX_NUMBERS", 6)
    with pytest.raises(DataError, match="more than 7 boxes of 1 inputs"):
        vnnlib.parse_vnnlib(f"{BOUNDED}(assert (or {boxes}))")


SHARED = b")q\x00" + b"h\x00h\x00\x86q\x00" * 40  # a tuple of 2^40 empty ones


@pytest.mark.parametrize(
    "program",
    [
        b"\x80\x02" + SHARED + b"cnumpy\ndtype\nh\x00\x85R.",
        b"\x80\x02" + SHARED + b"cnumpy.core.multiarray\n_reconstruct\n)R(K\x01)h\x00\x89U\x00tb.",
    ],
    ids=["as a type's name", "as a type"],
)
def test_tuples_that_share_their_parts_are_never_written_out(program: bytes) -> None:
    with pytest.raises(DataError, match=r"a tuple in the place of text|an array of tuple"):
        read_pickled_dict(program, what="x")


def test_a_key_of_thousands_of_digits_is_refused() -> None:
    with pytest.raises(DataError, match="x cannot be read as a pickle"):
        read_pickled_dict(b"\x80\x02}\x8b\x10\x27\x00\x00" + b"\x7f" * 10_000 + b"K\x01s.", what="x")


def _header(**changes: Any) -> str:
    header = {
        "name": "small-cnn",
        "input_shape": [1, 16, 16],
        "classes": ["a", "b"],
        "mean": [0],
        "std": [1],
        "edgeproof": "",
    }
    return json.dumps({**header, **changes})  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_shape": [1, 2048, 2048]}, "lacks .* weights missing"),
        ({"classes": [str(number) for number in range(20_000)]}, "lacks .* weights missing"),
        ({"classes": [str(number) for number in range(1_000_000)]}, "has 1000000 classes; expected at most 25000"),
        ({"input_shape": [1, 4097, 4096]}, "expected at most .* 16777216 pixels"),
        ({"classes": ["a"]}, "1 classes; expected at least two"),
    ],
    ids=["large images", "many classes", "too many classes", "too large images", "one class"],
)
def test_a_checkpoint_that_asks_for_more_than_it_holds_is_refused_before_memory_is_taken(
    changes: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _safetensors(tmp_path, _header(**changes))
    from edgeproof.models import base

    monkeypatch.setattr(base.Classifier, "forward", lambda *_: pytest.fail("it was run"))
    with pytest.raises(ModelError, match=message):
        base.load_classifier(path)


HOSTILE = "\x1b]0;PWNED\x07\x1b[2J"


def test_a_table_escapes_what_a_terminal_would_obey() -> None:
    shown = io.StringIO()
    print_table(Table((Column("a"),), ((Cell(HOSTILE, HOSTILE),),)), title=HOSTILE, file=shown)
    assert shown.getvalue().count(r"\x1b]0;PWNED\x07\x1b[2J") == 3
    assert "\x1b" not in shown.getvalue()


def test_names_of_tensors_are_shown_and_not_obeyed(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from safetensors.numpy import save_file

    save_file({f"{HOSTILE}.weight": np.ones((2, 2), np.float32)}, tmp_path / "m.safetensors")
    shown = CliRunner().invoke(cli, ["inspect", str(tmp_path / "m.safetensors")])
    assert shown.exit_code == 0
    assert r"\x1b]0;PWNED" in shown.stdout
    assert "\x1b" not in shown.stdout


def test_a_path_in_an_error_of_the_system_is_escaped_and_cut() -> None:
    code, text = explain(FileNotFoundError(2, "No such file", f"{HOSTILE}{'a' * 5000}.onnx"))
    assert code == 2
    assert text.startswith(r"error: \x1b]0;PWNED\x07")
    assert len(text) < 2100


@pytest.mark.parametrize("name", ["caf\udce9", "\ud800"])
def test_class_names_that_are_no_unicode_text_are_refused(name: str, tmp_path: Path) -> None:
    images, labels = np.zeros((1, 2, 2), np.uint8), np.zeros(1, np.int64)
    with pytest.raises(DataError, match=r"the class name '.*\\ud.*' is no Unicode text"):
        LabelledImages.from_arrays(images[:, None], labels, classes=("a", name), name="d", split="test")
    write_npz(tmp_path / "d.npz", {"x_test": images, "y_test": labels, "classes": np.array([name])})
    with pytest.raises(DataError, match="is no Unicode text"):
        load_dataset(f"npz:{tmp_path / 'd.npz'}")


def test_class_names_of_numbers_that_are_no_characters_are_refused(tmp_path: Path) -> None:
    names = np.array([0x110000, ord("b")], np.uint32).view("<U1")
    write_npz(tmp_path / "d.npz", {"x_test": np.zeros((1, 2, 2), np.uint8), "y_test": np.array([0]), "classes": names})
    with pytest.raises(DataError, match="cannot be read as class names"):
        load_dataset(f"npz:{tmp_path / 'd.npz'}")


@pytest.mark.parametrize("name", ["²", "9" * 5000])
def test_a_digit_that_is_no_number_names_no_class(name: str) -> None:
    with pytest.raises(ConfigError, match="unknown class"):
        class_index(name, ["a", "b", "c"])


def test_a_tensor_of_a_number_of_thousands_of_digits_is_measured(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from safetensors.numpy import save_file

    from edgeproof.evaluation.weights import read_weights

    names = [f"{'9' * 5000}.weight", "².weight", "10.weight", "9.weight"]
    save_file({name: np.ones((2, 2), np.float32) for name in names}, tmp_path / "m.safetensors")
    assert set(read_weights(tmp_path / "m.safetensors")) == set(names)


@pytest.mark.parametrize("engines", [[{}], [[]], [5], {}])
def test_a_bundle_that_names_no_engines_is_refused(engines: Any, tmp_path: Path) -> None:
    path = tmp_path / "b.zip"
    manifest = {"schema_version": 1, "edgeproof": "", "config": {"engines": engines, "sets": []}, "files": []}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("bundle.json", json.dumps(manifest))
    with pytest.raises(DataError, match=r"which is not packed|is not understood"):
        open_bundle(path, tmp_path / "out")

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import edgeproof as ep
from edgeproof.commands import cli
from edgeproof.errors import AttackContractError, ConfigError, DataError, GateError, ModelError, RunError, ToolkitError
from edgeproof.export.to_onnx import export_onnx
from edgeproof.reports import tables
from edgeproof.reports.numbers import visible, visible_results
from edgeproof.runs import MANIFEST

FAST = {"throughput": False, "invariance": 0}
FEW = {"probe": 0, "steps": 3}


def command(*arguments: str) -> None:
    cli.main(list(arguments), standalone_mode=False)


def as_numpy(network: nn.Module) -> Any:
    def predict(images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return network((torch.from_numpy(images) - 0.5) / 0.25).numpy()

    return predict


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = (
        "import sys, edgeproof; edgeproof.__all__; dir(edgeproof)\n"
        "print([m for m in ('torch', 'numpy', 'onnxruntime', 'onnx', 'pydantic', 'rich', 'PIL') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_every_public_name_is_there_and_an_unknown_one_is_an_attribute_error() -> None:
    assert all(hasattr(ep, name) for name in ep.__all__)
    assert set(ep.__all__) <= set(dir(ep))
    with pytest.raises(AttributeError, match="no attribute 'atack'"):
        _ = ep.atack


def test_in_memory_and_in_a_run_folder_give_the_command_lines_numbers(trained: Path, tmp_path: Path) -> None:
    model, images = ep.load(trained), ep.images("digits", limit=40)
    command("attack", "pgd-linf", "--model", str(trained), "--data", "digits", "--limit", "40", "--eps", "8/255",
            "--steps", "3", "--probe", "0", "--out", str(tmp_path / "cli"))  # fmt: skip
    here = ep.attack(model, images, "pgd-linf", eps="8/255", **FEW)
    there = ep.attack(model, images, "pgd-linf", eps="8/255", out=tmp_path / "api", **FEW)
    assert there.run is not None
    assert here.run is None
    for name in ("adversaries.npz", "clean.npz", "set.json"):
        assert (tmp_path / "cli" / name).read_bytes() == (tmp_path / "api" / name).read_bytes()
    assert here.images.tobytes() == there.images.tobytes()
    assert here.source_logits is not None
    assert here.source_logits.tobytes() == there.source_logits.tobytes()  # type: ignore[union-attr]
    assert there.run.config == ep.attack(model, images, eps="8/255", out=tmp_path / "api", **FEW).run.config  # type: ignore[union-attr]

    command("eval", "--engine", str(trained), "--adversaries", str(tmp_path / "cli"), "--no-throughput",
            "--invariance", "0", "--out", str(tmp_path / "cli-eval"))  # fmt: skip
    memory = ep.evaluate(trained, here, **FAST)
    folder = ep.evaluate(str(trained), there, out=tmp_path / "api-eval", **FAST)
    logits = {cell: values.tobytes() for cell, values in memory.logits.items()}
    assert logits == {cell: values.tobytes() for cell, values in folder.logits.items()}
    saved = np.load(tmp_path / "cli-eval/logits/torch-fp32--pgd-linf-8-255.npy")
    assert saved.tobytes() == logits["torch-fp32", "pgd-linf 8/255"]
    command_line, api = (
        json.loads((tmp_path / name / "results.json").read_text()) for name in ("cli-eval", "api-eval")
    )
    assert command_line["cells"] == api["cells"]
    assert memory.results.cells == folder.results.cells
    assert sorted(p.name for p in (tmp_path / "cli-eval").iterdir()) == sorted(
        p.name for p in (tmp_path / "api-eval").iterdir()
    )


def test_a_finished_run_folder_is_done_already_and_another_question_is_refused(
    wrapped: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "edgeproof")
    first = ep.attack(wrapped, ep.images("digits", limit=20), "fgsm", eps=0.1, probe=0, out=tmp_path / "a")
    before = (tmp_path / "a" / MANIFEST).read_bytes()
    again = ep.attack(wrapped, ep.images("digits", limit=20), "fgsm", eps=0.1, probe=0, out=tmp_path / "a")
    assert "already done" in caplog.text
    assert (tmp_path / "a" / MANIFEST).read_bytes() == before
    assert np.array_equal(first.images, again.images)
    for other in (
        ep.images("digits", limit=21),
        ep.images(first.clean.images[::-1], first.clean.labels[::-1], classes=first.clean.classes),
    ):
        with pytest.raises(RunError, match="holds another finished run"):
            ep.attack(wrapped, other, "fgsm", eps=0.1, probe=0, out=tmp_path / "a")


def test_a_run_folder_records_what_the_command_line_cannot_name(trained: Path, tmp_path: Path) -> None:
    x = ep.images("digits", limit=10, seed=5)  # the command line would choose by the seed of the attack
    adv = ep.attack(trained, x, "noise", eps=0.1, out=tmp_path / "a")
    assert adv.run is not None
    assert adv.run.config["data"] == "in memory: digits"
    assert np.array_equal(adv.clean.images, x.images)
    result = ep.evaluate({"net": trained}, adv, out=tmp_path / "b", **FAST)
    assert result.run is not None
    assert (result.run.config["engines"], result.run.config["sets"]) == (["in memory: net"], [str(tmp_path / "a")])
    assert "from Python, of models or images in memory" in (tmp_path / "b/report.html").read_text()


def test_other_weights_and_unhashed_functions_are_never_done_already(network: nn.Module, tmp_path: Path) -> None:
    x = ep.images("digits", limit=10)
    other = nn.Sequential(*network)
    with torch.no_grad():
        changed = ep.wrap(other, classes=10, name="net", mean=[0.5])
    same = [ep.wrap(network, classes=10, name="net", mean=mean).sha256 for mean in ([0.5], [0.5], [0.4])]
    assert same[0] == same[1] != same[2]
    assert changed.sha256 == same[0]
    function = ep.wrap(as_numpy(network), classes=10, framework="numpy", name="f")
    ep.evaluate(function, data=x, out=tmp_path / "a", **FAST)
    again = ep.wrap(as_numpy(network), classes=10, framework="numpy", name="f")
    with pytest.raises(RunError, match="holds another finished run"):
        ep.evaluate(again, data=x, out=tmp_path / "a", **FAST)
    (engine,) = ep.evaluate(again, data=x, **FAST).results.engines
    assert engine.path == "in memory, not hashed"
    assert engine.sha256.startswith("unhashed-")


def test_a_wrapped_network_is_a_copy_that_its_owner_can_train_on(network: nn.Module) -> None:
    model = ep.wrap(network.train(), classes=10)
    assert network.training
    assert all(weight.requires_grad for weight in network.parameters())
    assert not model.network.training


def test_a_wrapped_network_is_evaluated_behind_its_mean_and_std(network: nn.Module, wrapped: Any) -> None:
    x = ep.images("digits", limit=30)
    found = ep.evaluate(wrapped, data=x, threads=1, **FAST).logits["net", "clean"]
    with torch.no_grad():
        expected = network((torch.from_numpy(x.images) - 0.5) / 0.25).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_functions_on_numpy_batches_are_engines_like_any_other(network: nn.Module, wrapped: Any) -> None:
    adv = ep.attack(wrapped, ep.images("digits", limit=30), "fgsm", eps="16/255", probe=0)
    result = ep.evaluate({"mine": as_numpy(network), "net": wrapped}, [adv], **FAST)
    assert [engine.backend for engine in result.results.engines] == ["python", "pytorch"]
    np.testing.assert_allclose(result.logits["mine", adv.name], result.logits["net", adv.name], rtol=1e-4, atol=1e-4)
    assert result.results.cell("net", adv.name).threat == "white-box"
    assert result.results.cell("mine", adv.name).threat == "transferred"


def test_a_function_on_numpy_batches_is_attacked_by_queries_alone(network: nn.Module) -> None:
    model = ep.wrap(
        lambda x: as_numpy(network)(x * 0.25 + 0.5), classes=10, framework="numpy", mean=[0.5], std=[0.25], name="f"
    )
    x = ep.images("digits", limit=8)
    adv = ep.attack(model, x, "square", eps="32/255", queries=20)
    result = ep.evaluate(model, adv, **FAST)
    assert result.results.cell("f", adv.name).threat == "query"
    np.testing.assert_allclose(result.logits["f", "clean"], as_numpy(network)(x.images), rtol=1e-4, atol=1e-4)
    with pytest.raises(ConfigError, match="is a function on NumPy arrays, which has no gradients"):
        ep.attack(model, x, "pgd-linf")
    with pytest.raises(ConfigError, match="of which no graph can be made"):
        ep.build(model, precision="fp16", validation=x)


def test_a_torch_function_is_attacked_with_its_gradients(network: nn.Module) -> None:
    model = ep.wrap(lambda x: network((x - 0.5) / 0.25), classes=10, name="f")
    adv = ep.attack(model, ep.images("digits", limit=20), "fgsm", eps="16/255", probe=0)
    assert adv.accuracy().hits < adv.clean_accuracy().hits
    assert adv.source_sha256[0].startswith("unhashed-")


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (lambda x, eps: x + 2 * eps, "left the pixel range"),
        (lambda x, eps: (x + 2 * eps).clip(0, 1), r"left its budget: max \|x_adv - x\| = 0\.2"),
        (lambda x, eps: x[:, :, :-1], r"expected torch.float32 of shape"),
        (lambda x, eps: x * float("nan"), "NaN"),
    ],
)
def test_the_contract_of_a_users_attack_is_checked(wrapped: Any, images: Any, message: str) -> None:
    def attack(model: Any, x: torch.Tensor, y: torch.Tensor, *, eps: float) -> torch.Tensor:
        return images(x, eps)

    with pytest.raises(AttackContractError, match=message):
        ep.attack(wrapped, ep.images("digits", limit=4), attack, norm="linf", eps=0.1, probe=0)


def test_a_users_attack_has_its_parameters_read_and_recorded(wrapped: Any, tmp_path: Path) -> None:
    def shift(model: Any, x: torch.Tensor, y: torch.Tensor, *, eps: float, by: float = 0.0, what=None) -> torch.Tensor:  # type: ignore[no-untyped-def]
        assert what == [1, 2]
        return (x + by).clamp(0, 1)

    x = ep.images("digits", limit=4)
    adv = ep.attack(wrapped, x, shift, norm="linf", eps="2/255", by="1/255", what=[1, 2], probe=0, out=tmp_path / "a")
    assert adv.params["by"] == 1 / 255
    assert np.abs(adv.images - x.images).max() == pytest.approx(1 / 255, abs=1e-6)
    with pytest.raises(ConfigError, match="attack 'shift' has no parameter 'bye'"):
        ep.attack(wrapped, x, shift, norm="linf", bye=1)
    with pytest.raises(ConfigError, match="what is object, which a run folder cannot record"):
        ep.attack(wrapped, x, shift, norm="linf", what=object(), out=tmp_path / "b")


def test_a_users_attack_says_its_norm(wrapped: Any) -> None:
    with pytest.raises(ConfigError, match="does not say what its budget is measured in; add norm='linf'"):
        ep.attack(wrapped, "digits", lambda model, x, y, *, eps: x)
    with pytest.raises(ConfigError, match=r"expected \(model, x, y, \*, eps, ...\)"):
        ep.attack(wrapped, "digits", lambda model, x: x, norm="l2")
    with pytest.raises(ConfigError, match="keeps to linf, not 'l2'"):
        ep.attack(wrapped, "digits", "fgsm", norm="l2")


def test_seeds_and_batches_do_not_change_the_images_but_another_seed_does(wrapped: Any) -> None:
    x = ep.images("digits", limit=12)
    one, other, third = (
        ep.attack(wrapped, x, "noise", eps=0.1, seed=seed, batch_size=size, probe=0).images
        for seed, size in ((1, 12), (1, 5), (2, 12))
    )
    assert np.array_equal(one, other)
    assert not np.array_equal(one, third)


def test_threads_and_repetition_do_not_change_the_logits(exported: Path) -> None:
    x = ep.images("digits", limit=20)
    first, second = (ep.evaluate(exported / "model.fp32.onnx", data=x, threads=1, **FAST).logits for _ in range(2))
    assert all(np.array_equal(first[cell], second[cell]) for cell in first)


def test_a_wrapped_network_is_built_like_a_checkpoint(wrapped: Any, tmp_path: Path) -> None:
    x = ep.images("digits")
    builds = ep.build(
        wrapped, exporter="torchscript", precision=["fp16", "int8"], recipe="trt", calibration=x.part("calibration")
    )
    assert [build.precision for build in builds] == ["fp16", "int8"]
    assert [build.name for build in builds] == ["ort-fp16", "ort-int8-trt"]
    adv = ep.attack(builds[0], ep.images("digits", limit=20), "fgsm", eps="8/255", probe=0)
    result = ep.evaluate([wrapped, *builds], [adv], **FAST)
    assert result.results.cell("ort-fp16", adv.name).threat == "white-box"
    kept = builds[0].path
    assert kept is not None
    assert kept.exists()
    again = ep.build(
        wrapped, exporter="torchscript", precision="fp16", validation=x.part("validation"), out=tmp_path / "a"
    )
    assert [path.name for path in sorted((tmp_path / "a").glob("*.onnx"))] == ["model.fp16.onnx", "model.fp32.onnx"]
    assert (
        ep.build(wrapped, exporter="torchscript", precision="fp16", validation=x.part("validation"), out=tmp_path / "a")
        == again
    )


def test_the_folder_of_builds_in_memory_goes_with_them(wrapped: Any) -> None:
    builds = ep.build(
        wrapped, exporter="torchscript", precision="fp32", validation=ep.images("digits").part("validation")
    )
    path = builds[0].path
    assert path is not None
    assert path.exists()
    del builds
    assert not path.parent.exists()


def test_what_cannot_be_built_is_said_in_one_line(wrapped: Any, exported: Path) -> None:
    with pytest.raises(ConfigError, match="INT8 needs calibration images"):
        ep.build(wrapped, exporter="torchscript", precision="int8", validation="digits")
    with pytest.raises(ConfigError, match="needs labelled images that it is not tested on; give validation="):
        ep.build(wrapped, exporter="torchscript", precision="fp16")
    with pytest.raises(ConfigError, match="is a graph already, and precisions are made from checkpoints here"):
        ep.build(exported / "model.fp32.onnx", precision="int8")
    with pytest.raises(GateError, match="parity on"):
        ep.build(
            wrapped, exporter="torchscript", precision="fp32", validation="digits", parity={"fp32_max_diff": 1e-30}
        )


def test_loading_gives_what_each_path_holds(trained: Path, exported: Path) -> None:
    model, builds = ep.load(trained), ep.load(exported)
    assert isinstance(model, ep.Model)
    assert isinstance(builds, list)
    assert (model.precision, model.num_classes, model.input_shape, model.classes[3]) == ("fp32", 10, (1, 32, 32), "3")
    assert [build.name for build in builds] == ["ort-fp32", "ort-fp16"]
    assert builds[0].provider == "CPUExecutionProvider"
    assert ep.load(exported / "model.fp16.onnx", name="half").name == "half"
    with pytest.raises(ConfigError, match="stands for 2 builds; load one of them to name it 'x'"):
        ep.load(exported, name="x")
    with pytest.raises(ModelError, match="nothing"):
        ep.load("nothing.onnx")
    with pytest.raises(ConfigError, match="has 10 classes of other names; 2 are named: a, b"):
        ep.load(exported / "model.fp32.onnx", classes=["a", "b"])


def test_a_graph_that_takes_normalised_images_is_loaded_with_their_mean_and_std(
    network: nn.Module, tmp_path: Path
) -> None:
    export_onnx(network.eval(), tmp_path / "net.onnx", input_shape=(1, 32, 32))
    model = ep.load(tmp_path / "net.onnx", mean=[0.5], std=[0.25], classes=[str(digit) for digit in range(10)])
    x = ep.images("digits", limit=30)
    found = ep.evaluate({"net": model}, data=x, **FAST).logits["net", "clean"]
    np.testing.assert_allclose(found, as_numpy(network)(x.images), rtol=1e-4, atol=1e-4)
    adv = ep.attack(model, x, "fgsm", eps="16/255", probe=0)
    assert adv.accuracy().hits <= adv.clean_accuracy().hits
    wrong = ep.load(tmp_path / "net.onnx", classes=[*"012345678", "x"])
    with pytest.raises(DataError, match=r"digits has images of the class '9', which .* does not have"):
        ep.evaluate(wrong, data=x, **FAST)


def test_images_come_from_names_and_arrays() -> None:
    digits = ep.images("digits", limit=50)
    assert len(digits) == 50
    assert len(digits.part("calibration")) == 50
    assert (digits.images.dtype, digits.images.shape, digits.split) == (np.float32, (50, 1, 32, 32), "test")
    grey = np.zeros((4, 8, 8), np.uint8)
    arrays = ep.images(grey, [0, 1, 0, 1], classes=["cat", "dog"])
    assert (arrays.classes, arrays.images.shape) == (("cat", "dog"), (4, 1, 8, 8))
    assert ep.images(torch.rand(4, 3, 8, 8), [0, 1, 2, 0]).classes == ("0", "1", "2")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ep.images("digitz").data, "unknown data 'digitz'"),
        (lambda: ep.images("digits", split="tset"), "unknown part 'tset'"),
        (lambda: ep.images("digits", labels=[0]), "has labels and classes of its own"),
        (lambda: ep.images("digits", limit=0), "limit = 0; expected at least one"),
        (lambda: ep.images("digits", calibrations=3), "unknown key 'calibrations'"),
        (lambda: ep.images(np.zeros((2, 1, 4, 4), np.float32)), "an array needs labels"),
        (lambda: ep.images(np.full((2, 1, 4, 4), 7.0), [0, 1]), r"range over \[7, 7\]"),
        (lambda: ep.images(np.zeros((2, 1, 4, 4), np.float32), [0, 1]).part("calibration"), "arrays have no 'calibration' part"),
        (lambda: ep.images(np.zeros((2, 1, 4, 4), np.float32), [0, 1], calibration=3), "calibration is for data sets"),
        (lambda: ep.wrap(3, classes=2), "int cannot be called"),
        (lambda: ep.wrap(abs, classes=1), "expected the names of at least two classes"),
        (lambda: ep.wrap(abs, classes=2, framework="jax"), "framework = 'jax' is not known"),
        (lambda: ep.wrap(nn.Linear(2, 2), classes=2, framework="numpy"), "Linear is a torch network"),
        (lambda: ep.evaluate(nn.Linear(2, 2), data="digits"), r"give wrap\(network, classes="),
        (lambda: ep.evaluate(7, data="digits"), "int is no model"),
        (lambda: ep.evaluate(abs), "nothing to evaluate on"),
        (lambda: ep.evaluate([], data="digits"), "no engine to evaluate"),
        (lambda: ep.evaluate(abs, [5]), "int is no adversarial set"),
        (lambda: ep.attack(7, "digits"), "int is no model"),
        (lambda: ep.attack(ep.wrap(nn.Flatten(), classes=7), "digits"), "has 7 classes, which it does not name; digits has 10"),
        (lambda: ep.attack(ep.wrap(nn.Flatten(), classes=10), "digits", "pgd"), "unknown attack 'pgd'"),
        (lambda: ep.attack(ep.wrap(nn.Flatten(), classes=10), "digits"), r"gives \(1, 1024\) for one image"),
        (lambda: ep.list_runs("nowhere"), "no folder nowhere"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_in_one_line(make: Any, message: str) -> None:
    with pytest.raises(ToolkitError, match=message) as raised:
        make()
    assert "\n" not in str(raised.value)


def test_a_function_that_gives_no_logits_is_named() -> None:
    with pytest.raises(ModelError, match=r"python gave logits of shape \(10, 3\) for 10 images; expected \(10, 10\)"):
        ep.evaluate(lambda x: np.zeros((len(x), 3)), data=ep.images("digits", limit=10), **FAST)
    with pytest.raises(ModelError, match=r"the function returned str; expected a NumPy array of logits \(10, 10\)"):
        ep.evaluate(lambda x: "cat", data=ep.images("digits", limit=10), **FAST)


def test_limits_raise_with_their_numbers(wrapped: Any, network: nn.Module) -> None:
    adv = ep.attack(wrapped, ep.images("digits", limit=30), "fgsm", eps="16/255", probe=0)
    result = ep.evaluate([wrapped, as_numpy(network)], adv, **FAST)
    assert all(gate.passed for gate in result.require("clean_accuracy=0.1", max_drop="predict:robust_accuracy=0.5"))
    with pytest.raises(
        GateError, match=r"robust_accuracy of net on 'fgsm 16/255' \(white-box\) is .*, limit 1, n = 30"
    ) as raised:
        result.require("robust_accuracy=1", "fp32:clean_accuracy=0.1")
    assert raised.value.exit_code == 1
    with pytest.raises(ConfigError, match=r"unknown engine 'int8'"):
        result.require("int8:robust_accuracy=0.4")
    with pytest.raises(ConfigError, match="needs costs: evaluate"):
        result.require(max_cost="robust_cost=1")


def test_rows_are_plain_and_one_for_each_engine_set_and_class(wrapped: Any) -> None:
    adv = ep.attack(wrapped, ep.images("digits", limit=30), "fgsm", eps="16/255", probe=0)
    rows = ep.evaluate(wrapped, adv, **FAST).to_rows()
    assert len(rows) == 2 * 11
    assert [row["class"] for row in rows[:3]] == ["all", "0", "1"]
    assert {type(value) for row in rows for value in row.values()} <= {str, int, float, type(None)}
    assert all(row.keys() == rows[0].keys() for row in rows)
    json.dumps(rows)
    whole = next(row for row in rows if row["class"] == "all" and row["set"] == adv.name)
    assert whole["accuracy"] == adv.accuracy().value
    assert sum(row["correct"] for row in rows if row["class"] != "all" and row["set"] == adv.name) == whole["correct"]


def test_tables_fit_80_columns_with_every_number_whole_and_escape_html(wrapped: Any) -> None:
    x = ep.images("digits", limit=100)
    adv = ep.attack(wrapped, x, "fgsm", probe=0)
    result = ep.evaluate({"<b>net</b>": wrapped, "ort-int8-trt": wrapped}, adv, invariance=0)
    text = str(result.table())
    assert max(map(len, text.splitlines())) <= 80
    assert "ort-int8-trt" in text
    assert repr(result) == repr(result.table()) == text
    assert "&lt;b&gt;net" in result._repr_html_()
    assert "<b>" not in result._repr_html_()
    for cell in tables.accuracies(visible_results(result.results)).rows:
        for part in cell[2:]:
            assert part.text in text
            assert part.detail in text


def test_reports_are_written_from_memory(wrapped: Any, tmp_path: Path) -> None:
    result = ep.evaluate(wrapped, data=ep.images("digits", limit=20), **FAST)
    page = result.report(tmp_path / "report.html").read_text()
    assert visible("net") in page
    assert "from Python, of models or images in memory" in page
    assert result.report(tmp_path / "report.md").read_text().startswith("# ")
    with pytest.raises(ConfigError, match=r"expected a report that ends in .html, .md, .xml"):
        result.report(tmp_path / "report.pdf")


def test_two_evaluations_are_compared(wrapped: Any, network: nn.Module, tmp_path: Path) -> None:
    x = ep.images("digits", limit=60)
    good = ep.evaluate({"net": wrapped}, data=x, out=tmp_path / "a", **FAST)
    bad = ep.evaluate({"net": lambda images: -as_numpy(network)(images)}, data=x, **FAST)
    assert ep.compare(good, bad).worse
    assert not ep.compare(tmp_path / "a", good).worse
    rows = ep.compare(good, bad).to_rows()
    assert rows[0]["lost"] == rows[0]["before"] * 60
    assert "Significantly worse" in repr(ep.compare(good, bad))
    with pytest.raises(RunError, match="share no engine on the same set"):
        ep.compare(good, ep.evaluate({"other": wrapped}, data=x, **FAST))


def test_run_folders_are_listed_finished_or_not(wrapped: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = ep.images("digits", limit=20)
    ep.evaluate(wrapped, data=x, out=tmp_path / "all/one", **FAST)
    monkeypatch.setattr("edgeproof.api.attacks.save_adversarial_set", lambda *_: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        ep.attack(wrapped, x, "fgsm", eps=0.01, probe=0, out=tmp_path / "all/attack-b")
    (tmp_path / "all/other").mkdir()
    assert [(run.kind, run.done, run.path.name) for run in ep.list_runs(tmp_path / "all")] == [
        ("attack", False, "attack-b"),
        ("eval", True, "one"),
    ]


def test_a_warning_reaches_users_of_the_library_and_the_command_line_prints_it_plainly(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeproof.system.lines import logged_to_stderr
    from edgeproof.system.out_of_memory import BatchSize

    with logged_to_stderr(), logged_to_stderr():
        BatchSize(4).halve(MemoryError())
    assert capsys.readouterr().err == "edgeproof: out of memory; 2 images at a time from here on\n"
    BatchSize(4).halve(MemoryError())
    assert capsys.readouterr().err == ""


def test_sets_of_other_images_are_refused(wrapped: Any) -> None:
    one, other = (ep.attack(wrapped, ep.images("digits", limit=n), "noise", eps=0.1) for n in (20, 22))
    with pytest.raises(DataError, match=r"set 2, noise 0.1 was made from other clean images than set 1, noise 0.1"):
        ep.evaluate(wrapped, [one, other], **FAST)

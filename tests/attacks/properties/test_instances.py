"""Lists of properties: what is answered, what survives an interruption, and the commands."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from edgeproof.__main__ import main
from edgeproof.attacks.properties import instances
from edgeproof.attacks.properties.falsify import falsify
from edgeproof.attacks.properties.instances import answer_instances, read_answers, read_instances
from edgeproof.config import FalsifyConfig
from edgeproof.errors import ConfigError, DataError
from edgeproof.runs import Run
from tests.attacks.properties.relu_networks import ReluNetwork, local_robustness

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A graph, a property that it breaks, one that it keeps, one for another graph, and the list of them."""
    network = ReluNetwork.random(4, 6, 2, seed=0)
    network.save(tmp_path / "g.onnx")
    x = np.zeros(4)
    label = int(network(x).argmax())
    for name, radius, inputs in (("broken", 50, 4), ("kept", 1e-4, 4), ("other", 1, 3)):
        around = x[:inputs]
        text = local_robustness(around - radius, around + radius, label=label, outputs=2)
        (tmp_path / f"{name}.vnnlib").write_text(text)
    (tmp_path / "list.csv").write_text("g.onnx,broken.vnnlib,20\ng.onnx, kept.vnnlib ,0.2\n\ng.onnx,other.vnnlib\n")
    return tmp_path


def run(config: FalsifyConfig, out: Path) -> Run:
    with Run.start("falsify", "t", config=config.model_dump(), out=out) as opened:
        answer_instances(config, opened)
    return opened


def test_list_is_answered_and_an_error_is_counted_not_hidden(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "edgeproof")
    records, found = read_answers(run(FalsifyConfig(instances=str(folder / "list.csv")), folder / "out"))
    assert [record.verdict for record in records] == ["sat", "unknown", "error"]
    assert found[0].startswith("sat\n((X_0 ")
    assert "about 3 inputs" in records[2].note
    assert "1 sat, 1 unknown, 1 errors; first error: the property is about 3 inputs" in caplog.text
    lines = (folder / "out/results.csv").read_text().splitlines()
    assert [line.split(",")[2] for line in lines] == ["sat", "unknown", "error"]


def test_interrupted_list_keeps_its_answers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, asked = FalsifyConfig(instances=str(folder / "list.csv"), timeout=0.2), []
    search = falsify

    def interrupted(*args, **options):  # type: ignore[no-untyped-def]
        asked.append(args)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return search(*args, **options)

    monkeypatch.setattr(instances, "falsify", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(config, folder / "out")
    records, _ = read_answers(run(config, folder / "out"))
    assert [record.verdict for record in records] == ["sat", "unknown", "error"]
    assert len(asked) == 4  # the first property once, the second twice, the third once


def test_packed_property_is_found_and_the_time_limit_can_be_given(folder: Path) -> None:
    (folder / "kept.vnnlib").rename(folder / "kept.vnnlib.gz")
    found = read_instances(FalsifyConfig(instances=str(folder / "list.csv")))
    assert [instance.seconds for instance in found] == [20, 0.2, 20]
    assert found[1].vnnlib == folder / "kept.vnnlib.gz"
    assert {i.seconds for i in read_instances(FalsifyConfig(instances=str(folder / "list.csv"), timeout=3))} == {3}


@pytest.mark.parametrize(
    "given", [{}, {"graph": "g"}, {"vnnlib": "p"}, {"graph": "g", "vnnlib": "p", "instances": "i"}]
)
def test_question_that_is_none_is_refused(given: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"expected either --vnnlib FILE with --graph FILE\.onnx, or --instances"):
        read_instances(FalsifyConfig(**given))


def test_row_that_is_no_instance_is_refused(folder: Path) -> None:
    (folder / "bad.csv").write_text("g.onnx,broken.vnnlib,20\ng.onnx\n")
    with pytest.raises(DataError, match=r"bad\.csv, row 2: 'g\.onnx'; expected graph,property,seconds"):
        read_instances(FalsifyConfig(instances=str(folder / "bad.csv")))


def command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["cli.py", "attack", *map(str, arguments)])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_command_prints_the_answer(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    single = ("--vnnlib", folder / "broken.vnnlib", "--graph", folder / "g.onnx")
    assert command(monkeypatch, *single, "--out", folder / "one") == 0
    assert capfd.readouterr().out.startswith("sat\n((X_0 ")
    assert command(monkeypatch, "--instances", folder / "list.csv", "--json", "--out", folder / "many") == 0
    answers = json.loads(capfd.readouterr().out)["answers"]
    assert [entry["verdict"] for entry in answers] == ["sat", "unknown", "error"]


def test_command_refuses_what_does_not_belong(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, "--rounds", 3, "fgsm", "--model", "m") == 2
    assert "options before 'fgsm' belong to --vnnlib" in capfd.readouterr().err
    assert (
        command(monkeypatch, "--vnnlib", folder / "other.vnnlib", "--graph", folder / "g.onnx", "--out", folder / "o")
        == 2
    )
    assert "about 3 inputs and 2 outputs and the graph has 4" in capfd.readouterr().err

"""An engine that cannot be opened costs the others nothing, is recorded, and no limit on it holds; without torch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeproof.config import EvalConfig
from edgeproof.errors import ModelError, UnavailableError
from edgeproof.evaluation.evaluate import evaluate
from edgeproof.evaluation.results import Results, read_results
from edgeproof.evaluation.summary import recompute
from edgeproof.runs import Run
from tests.edge.conftest import MakeSet

pytest.importorskip("onnxruntime")


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A file that is no graph."""
    path = tmp_path / "model.int8-bad.onnx"
    path.write_bytes(b"\x08\x09not a graph")
    return path


def measured(out: Path, *engines: object, **options: object) -> Results:
    config = EvalConfig.model_validate(
        {"engines": [str(each) for each in engines], "throughput": False, "invariance": 0, **options}
    )
    with Run.start("eval", "test", config=config.model_dump(mode="json"), out=out) as run:
        evaluate(config, run)
    return read_results(out / "results.json")


def test_the_others_are_measured_and_who_was_left_out_is_recorded(
    graphs: Path, broken: Path, make_set: MakeSet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    set_ = str(make_set())
    alone = measured(tmp_path / "alone", graphs, sets=[set_])
    found = measured(tmp_path / "eval", graphs, broken, sets=[set_])
    assert found.cells == alone.cells
    (record,) = found.left_out
    assert (record.name, record.backend, record.path, record.status) == (
        "ort-int8-bad", "onnxruntime", str(broken), 2,
    )  # fmt: skip
    assert "not a readable ONNX file" in record.reason
    assert any("ort-int8-bad could not be opened" in line for line in found.warnings)
    assert any("ort-int8-bad cannot be opened and is left out" in line for line in caplog.messages)
    assert alone.left_out == ()


def test_no_limit_on_an_engine_that_was_left_out_holds(
    graphs: Path, broken: Path, make_set: MakeSet, tmp_path: Path
) -> None:
    limits = ["clean_accuracy=0", "ort-int8-bad:clean_accuracy=0", "ort-fp32:clean_accuracy=0", "int8:clean_accuracy=0"]
    found = measured(tmp_path / "eval", graphs, broken, sets=[str(make_set())], fail_under=limits)
    failed = {gate.text: gate.engine for gate in found.gates if not gate.passed}
    # The file does not even say its precision: a limit on int8 may be meant for it.
    assert {*failed.values()} == {"ort-int8-bad"}
    assert {*failed} == {f"fail-under {text}" for text in limits if not text.startswith("ort-fp32")}
    assert len([gate for gate in found.gates if gate.passed]) == 3 + 1 + 1
    assert recompute(Run.open(tmp_path / "eval")).gates == found.gates


def test_a_reference_that_limits_compare_with_is_not_replaced(
    graphs: Path, broken: Path, make_set: MakeSet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sets = [str(make_set())]
    for number, options in enumerate(
        ({"max_drop": ["int8:clean_accuracy=1"]}, {"fail_under": ["agreement=0"]}, {"reference": "ort-int8-bad"})
    ):
        with pytest.raises(ModelError, match="not a readable ONNX file"):
            measured(tmp_path / f"compared-{number}", broken, graphs, sets=sets, **options)
    found = measured(tmp_path / "eval", broken, graphs, sets=sets)
    assert found.reference == "ort-fp32"
    assert any("the reference is ort-fp32 in its place" in line for line in caplog.messages)


def test_where_none_can_be_opened_there_is_no_evaluation(broken: Path, make_set: MakeSet, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not a readable ONNX file"):
        measured(tmp_path / "eval", broken, broken, sets=[str(make_set())])


def test_the_exit_status_is_that_of_a_missing_package_or_of_a_failed_limit(
    run,
    graphs: Path,
    make_set: MakeSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,  # type: ignore[no-untyped-def]
) -> None:
    from edgeproof.engines import base

    real = base.require

    def require(module: str, **options: str) -> None:
        if module == "openvino":
            raise UnavailableError("openvino is not installed; pip install 'edgeproof[openvino]'")
        real(module, **options)

    monkeypatch.setattr(base, "require", require)
    graph = graphs / "model.fp32.onnx"
    asked = (
        "--engine",
        graph,
        "--engine",
        f"openvino:{graph}",
        "--adversaries",
        make_set(),
        "--no-throughput",
        "--json",
    )
    done = run("eval", *asked, "--out", tmp_path / "a")
    assert done.status == 3
    answer = json.loads(done.out)
    assert [each["name"] for each in answer["left_out"]] == ["ov-fp32"]
    assert [each["precision"] for each in answer["left_out"]] == ["fp32"]
    assert "pip install 'edgeproof[openvino]'" in done.err
    assert run("eval", *asked, "--out", tmp_path / "a").status == 3, "also where it is done already"
    monkeypatch.setattr(base, "require", require)
    assert run("eval", *asked, "--out", tmp_path / "b", "--fail-under", "ov-fp32:clean_accuracy=0").status == 1
    assert run("eval", *asked, "--out", tmp_path / "c", "--fail-under", "ort-fp32:clean_accuracy=0").status == 3

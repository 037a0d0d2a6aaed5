"""The edge bundle on the command line: packed at the desk, evaluated on a device, compared at the desk again."""

from __future__ import annotations

import hashlib
import json
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeproof.engines import trt
from edgeproof.runs import Run
from tests.edge.conftest import MakeSet
from tests.engines import pretended_tensorrt
from tests.engines.pretended_tensorrt import HostMemory


@pytest.fixture
def packed(run, graphs: Path, make_set: MakeSet, tmp_path: Path) -> Path:  # type: ignore[no-untyped-def]
    bundle = tmp_path / "desk" / "edge.zip"
    done = run(
        "export", "--from", graphs, "--bundle", bundle, "--adversaries", make_set(), "--adversaries", make_set("noise"),
        "--fail-under", "clean_accuracy=0.5", "--max-drop", "int8:clean_accuracy=0.3",
    )  # fmt: skip
    assert done.status == 0, done.err
    assert done.out.strip() == str(graphs), "an export run that is there already is packed as it is"
    return bundle


def test_every_run_that_is_named_is_packed(run, graphs: Path, make_set: MakeSet, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    pytest.importorskip("onnxruntime")
    built = Path(run("export", "--from", graphs / "model.fp16.onnx", "--out", tmp_path / "built").out.strip())
    asked = ("export", "--from", graphs, "--from", built)
    done = run(*asked, "--bundle", tmp_path / "two.zip", "--adversaries", make_set())
    assert done.status == 0, done.err
    assert done.out.split() == [str(graphs), str(built)]
    there = run("eval", "--bundle", tmp_path / "two.zip", "--no-throughput", "--json")
    results = json.loads(Path(json.loads(there.out)["run"], "results.json").read_text())
    assert [Path(each["path"]).parent.name for each in results["engines"]] == [graphs.name] * 3 + ["built"]


def test_several_graphs_without_a_bundle_or_for_one_folder_are_refused(run, graphs: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    twice = ("export", "--from", graphs / "model.fp32.onnx", "--from", graphs / "model.fp16.onnx")
    refused = run(*twice)
    assert (refused.status, len(refused.err.splitlines())) == (2, 1)
    assert "--from is given 2 times; pack them with --bundle FILE.zip" in refused.err
    refused = run(*twice, "--bundle", tmp_path / "b.zip", "--out", tmp_path / "o")
    assert refused.status == 2
    assert "--out names one folder and --from is given 2 times" in refused.err


def test_a_device_gives_what_the_desk_gives(run, packed: Path, graphs: Path, make_set: MakeSet) -> None:  # type: ignore[no-untyped-def]
    pytest.importorskip("onnxruntime")
    there = run("eval", "--bundle", packed, "--no-throughput", "--json")
    assert there.status == 0, there.err
    answer = json.loads(there.out)
    assert {gate["text"].split(" ")[0] for gate in answer["gates"]} == {"fail-under", "max-drop"}
    sets = ("--adversaries", make_set(), "--adversaries", make_set("noise"))
    here = run("eval", "--engine", graphs, *sets, "--no-throughput")
    device, desk = Path(answer["run"]), Path(here.out.strip())
    for file in desk.glob("logits/*.npy"):
        np.testing.assert_array_equal(np.load(file), np.load(device / "logits" / file.name))
    assert (device / "samples.npz").read_bytes() == (desk / "samples.npz").read_bytes()
    assert any(record.role == "bundle" for record in Run.open(device).manifest.inputs)  # type: ignore[union-attr]
    assert json.loads(run("diff", desk, device, "--json").out)["paired"]
    assert run("report", device).status == 0


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        (("--fail-under", "int4:clean_accuracy=0.5"), "unknown engine 'int4'"),
        (("--fail-under", "robust_accuracy[pgd]=0.5"), "unknown set 'pgd'"),
        (("--fail-under", "clean_accuracy@nobody=0.5"), "unknown class 'nobody'"),
        (("--max-drop", "ort-fp32:clean_accuracy=0.5"), "would compare the reference 'ort-fp32' with itself"),
    ],
)
def test_a_limit_that_matches_nothing_is_refused_when_it_is_packed(  # type: ignore[no-untyped-def]
    run, graphs: Path, make_set: MakeSet, tmp_path: Path, limit: tuple[str, str], message: str
) -> None:
    bundle = tmp_path / "edge.zip"
    done = run("export", "--from", graphs, "--bundle", bundle, "--adversaries", make_set(), *limit)
    assert (done.status, bundle.exists()) == (2, False)
    assert message in done.err


def test_a_limit_may_name_a_graph_as_another_engine_would_call_it(
    run, graphs: Path, make_set: MakeSet, tmp_path: Path
) -> None:  # type: ignore[no-untyped-def]
    limits = [f"--fail-under={name}:clean_accuracy=0.5" for name in ("ov-fp32", "ov-fp32-bf16", "trt-int8-trt", "int8")]
    done = run("export", "--from", graphs, "--bundle", tmp_path / "edge.zip", "--adversaries", make_set(), *limits)
    assert done.status == 0, done.err


def test_what_is_given_on_the_device_wins(run, packed: Path) -> None:  # type: ignore[no-untyped-def]
    pytest.importorskip("onnxruntime")
    done = run("eval", "--bundle", packed, "--no-throughput", "--fail-under", "clean_accuracy=1", "--batch-size", 7)
    assert done.status == 1, "the bundle's limit holds, this one does not"


def test_another_engine_opens_the_graphs_where_it_is_asked_for(run, packed: Path) -> None:  # type: ignore[no-untyped-def]
    pytest.importorskip("openvino")
    done = run("eval", "--bundle", packed, "--no-throughput", "--backend", "openvino")
    assert done.status == 0, done.err
    assert "ov-int8-trt-fp32" in done.err or "ov-int8-trt" in done.err
    assert run("eval", "--bundle", packed, "--backend", "openvina").status == 2


def test_the_engine_that_is_installed_opens_the_graphs(run, packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    pytest.importorskip("openvino")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if name == "openvino" else None)
    done = run("eval", "--bundle", packed, "--no-throughput")
    assert done.status == 0, done.err
    assert "onnxruntime is not installed here; openvino opens the graphs" in done.err
    assert "ort-" not in done.err


def test_a_broken_bundle_gives_status_two_in_one_line_and_writes_nothing(run, packed: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr("../outside", b"x")
    before = sorted(tmp_path.rglob("*"))
    done = run("eval", "--bundle", packed)
    assert (done.status, len(done.err.strip().splitlines())) == (2, 1)
    assert "'../outside', which could be written outside its folder; do not trust this file" in done.err
    assert sorted(tmp_path.rglob("*")) == before
    assert run("eval", "--bundle", tmp_path / "none.zip").status == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("eval", "--build"), "--backend and --build are for the graphs of a bundle; add --bundle"),
        (("export", "--model", "x", "--adversaries", "y"), "add --bundle FILE.zip"),
        (("export", "--from", "x", "--opset", 18), "--from is for a graph and --opset for a checkpoint"),
        (("export", "--target", "tensorrt"), "--target is for a graph; name it with --from"),
    ],
)
def test_options_that_do_not_go_together_are_refused(run, arguments: tuple[str, ...], message: str) -> None:  # type: ignore[no-untyped-def]
    done = run(*arguments)
    assert done.status == 2
    assert message in done.err


def build_pretended(graph: Path, plan: Path, *, settings: Any, metadata: Mapping[str, str]) -> dict[str, Any]:
    """Write what the pretended TensorRT takes for a plan: the same for every graph, which is enough here."""
    weights = np.random.default_rng(3).normal(size=(16, 3)).T.reshape(3, 1, 4, 4)
    plan.write_text(json.dumps({"weights": weights.tolist(), "profile": settings.batch}))
    record = {
        "tensorrt": "10.13.3", "compute_capability": "8.7", "gpu": "Orin", "metadata": dict(metadata),
        "plan_sha256": hashlib.sha256(plan.read_bytes()).hexdigest(), "source": graph.name,
    }  # fmt: skip
    plan.with_name(plan.name + ".json").write_text(json.dumps(record))
    return record


def test_plans_are_built_on_the_device_recorded_and_evaluated(
    run, packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # type: ignore[no-untyped-def]
    """With a double of TensorRT: what is tested is the way from the bundle to the run folder."""
    monkeypatch.setitem(sys.modules, "tensorrt", pretended_tensorrt)
    monkeypatch.setattr(trt, "open_cuda_memory", lambda device: HostMemory())
    monkeypatch.setattr("edgeproof.export.to_tensorrt.build_plan", build_pretended)
    done = run("eval", "--bundle", packed, "--build", "--no-throughput", "--batch-size", 8)
    assert done.status in (0, 1), done.err
    results = json.loads((Path(done.out.strip()) / "results.json").read_text())
    assert [(engine["name"], engine["backend"]) for engine in results["engines"]] == [
        ("trt-fp32", "tensorrt"), ("trt-fp16", "tensorrt"), ("trt-int8-trt", "tensorrt"),
    ]  # fmt: skip
    assert [engine["precision"] for engine in results["engines"]] == ["fp32", "fp16", "int8"]
    plans = Run.open(Path(results["engines"][0]["path"]).parent, kind="export")
    assert plans.config["target"] == "tensorrt"
    assert plans.manifest is not None
    assert plans.manifest.inputs[0].role == "source"

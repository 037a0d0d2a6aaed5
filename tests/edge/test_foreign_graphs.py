"""Graphs as other tools write them, through the commands: weights beside them, several outputs, a batch inside, INT8 of any kind."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgeproof.data.base import LabelledImages
from edgeproof.engines.base import EngineOptions, open_engine
from edgeproof.engines.specs import read_specs
from edgeproof.errors import ModelError

pytest.importorskip("onnxruntime")

FLATTEN: Any = ("Flatten", ["x"], ["flat"])


def write_graph(
    path: Path,
    nodes: Sequence[Any],
    stored: Mapping[str, Any],
    *,
    outputs: Mapping[str, Any] | None = None,
    batch: int | str = "n",
    beside: str = "",
) -> Path:
    """Write a graph of x (N, 1, 4, 4); `outputs` are name: (type, shape)."""
    values = [
        helper.make_tensor_value_info(name, *what)
        for name, what in (outputs or {"y": (TensorProto.FLOAT, (batch, 3))}).items()
    ]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, (batch, 1, 4, 4))
    made = [helper.make_node(kind, taken, gives, **(more[0] if more else {})) for kind, taken, gives, *more in nodes]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items()]
    graph = helper.make_graph(made, "g", [given], values, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if beside:
        (path.parent / beside).unlink(missing_ok=True)
        onnx.save(model, path, save_as_external_data=True, location=beside, size_threshold=0)
    else:
        onnx.save(model, path)
    return path


def linear(path: Path, weights: NDArray[np.float32], **more: Any) -> Path:
    return write_graph(path, [FLATTEN, ("MatMul", ["flat", "w"], ["y"])], {"w": weights}, **more)


@pytest.fixture
def data(clean: LabelledImages, tmp_path: Path) -> str:
    np.savez(tmp_path / "d.npz", x_test=clean.images, y_test=clean.labels, classes=np.array(clean.classes))
    return f"npz:{tmp_path / 'd.npz'}"


@pytest.fixture
def evaluate(run: Any, data: str, tmp_path: Path) -> Any:
    def call(*options: object, out: str = "out") -> Any:
        place = ("--data", data, "--no-throughput", "--out", tmp_path / out)
        return run("eval", *options, *place)

    return call


def engines(folder: Path) -> dict[str, Any]:
    return {engine["name"]: engine for engine in json.loads((folder / "results.json").read_text())["engines"]}


def test_a_run_is_not_done_where_the_weights_beside_the_graph_have_changed(
    evaluate: Any, weights: NDArray[np.float32], tmp_path: Path
) -> None:
    graph = linear(tmp_path / "m.onnx", weights, beside="m.data")
    gate = ("--engine", graph, "--fail-under", "clean_accuracy=0.5")
    assert evaluate(*gate).status == 0
    (record,) = engines(tmp_path / "out").values()
    assert record["size"] == graph.stat().st_size + (tmp_path / "m.data").stat().st_size
    assert "already done" in evaluate(*gate).err
    linear(graph, -weights, beside="m.data")
    refused = evaluate(*gate)
    assert refused.status == 2
    assert "holds another finished run" in refused.err
    assert evaluate(*gate, "--fresh").status == 1
    assert engines(tmp_path / "out")["ort-m"]["sha256"] != record["sha256"]


def test_changed_weights_beside_the_graph_of_a_run_are_found(weights: NDArray[np.float32], tmp_path: Path) -> None:
    from edgeproof.runs import Run

    with Run.start("export", "linear", config={}, out=tmp_path / "run") as made:
        linear(tmp_path / "run" / "model.fp32.onnx", weights, beside="model.data")
        made.finish()
    (spec,) = read_specs([str(tmp_path / "run")])
    assert spec.size > weights.nbytes
    (tmp_path / "run" / "model.data").write_bytes(np.zeros_like(weights).tobytes())
    with pytest.raises(Exception, match=r"model\.data was changed after the run"):
        read_specs([str(tmp_path / "run" / "model.fp32.onnx")])


HEADS: Any = [FLATTEN, ("MatMul", ["flat", "v"], ["aux"]), ("MatMul", ["flat", "w"], ["main"])]
TWO: Any = {"aux": (TensorProto.FLOAT, ("n", 3)), "main": (TensorProto.FLOAT, ("n", 3))}


def test_of_two_heads_the_one_that_is_named_is_measured_and_recorded(
    evaluate: Any, weights: NDArray[np.float32], tmp_path: Path
) -> None:
    graph = write_graph(tmp_path / "m.onnx", HEADS, {"w": weights, "v": -weights}, outputs=TWO)
    refused = evaluate("--engine", graph)
    assert refused.status == 2
    assert (
        "'aux' float32 ('n', 3), 'main' float32 ('n', 3)); name the scores of the classes with --output" in refused.err
    )
    single = linear(tmp_path / "single.onnx", weights)
    done = evaluate("--engine", graph, "--engine", single, "--output", "main")
    assert done.status == 0
    assert {name: engine["options"]["output"] for name, engine in engines(tmp_path / "out").items()} == {
        "ort-m": "main", "ort-single": "y",
    }  # fmt: skip
    assert evaluate("--engine", graph, "--output", "aux", "--fail-under", "clean_accuracy=0.5", out="b").status == 1


def test_export_keeps_the_output_that_is_named_and_nothing_that_only_the_others_need(
    run: Any, weights: NDArray[np.float32], clean: LabelledImages, tmp_path: Path
) -> None:
    nodes = [*HEADS, ("ArgMax", ["aux"], ["label"], {"axis": 1, "keepdims": 0})]
    outputs = {**TWO, "label": (TensorProto.INT64, ("n",))}
    graph = write_graph(tmp_path / "m.onnx", nodes, {"w": weights, "v": -weights}, outputs=outputs)
    assert run("export", "--from", graph, "--out", tmp_path / "none").status == 2
    assert run("export", "--from", graph, "--output", "main", "--out", tmp_path / "run").status == 0
    made = onnx.load(tmp_path / "run" / "model.m.onnx")
    assert {tensor.name for tensor in made.graph.initializer} == {"w"}
    assert "ArgMax" not in {node.op_type for node in made.graph.node}
    with open_engine(tmp_path / "run" / "model.m.onnx") as engine:
        logits = engine.predict(clean.images)
    np.testing.assert_allclose(logits, clean.images.reshape(120, 16) @ weights, atol=1e-5)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_graph_with_a_batch_inside_is_given_one_image_a_call(
    backend: str, weights: NDArray[np.float32], clean: LabelledImages, tmp_path: Path
) -> None:
    pytest.importorskip(backend)
    nodes = [("Reshape", ["x", "shape"], ["flat"]), ("MatMul", ["flat", "w"], ["y"])]
    graph = write_graph(tmp_path / "m.onnx", nodes, {"w": weights, "shape": np.array([1, 16])})
    with open_engine(graph, backend=backend) as engine:
        assert engine.info.max_batch == 1
        assert "fixed batch of 1" in engine.info.note
        logits = np.concatenate([engine.predict(image[None]) for image in clean.images[:5]])
    np.testing.assert_allclose(logits, clean.images[:5].reshape(5, 16) @ weights, atol=1e-5)


def test_a_batch_inside_is_met_by_the_differentiable_form_too(
    weights: NDArray[np.float32], clean: LabelledImages, tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch")
    from edgeproof.models.imported import import_onnx

    nodes = [("Reshape", ["x", "shape"], ["flat"]), ("MatMul", ["flat", "w"], ["y"])]
    graph = write_graph(tmp_path / "m.onnx", nodes, {"w": weights, "shape": np.array([1, 16])})
    model = import_onnx(graph)
    assert model.graph_input.batch == 1
    logits = model(torch.from_numpy(clean.images[:5])).numpy()
    np.testing.assert_allclose(logits, clean.images[:5].reshape(5, 16) @ weights, atol=1e-5)


def test_a_graph_whose_shape_hides_one_number_an_image_is_refused_when_it_is_opened(tmp_path: Path) -> None:
    outputs = {"y": (TensorProto.FLOAT, ("n", "k"))}
    graph = write_graph(
        tmp_path / "m.onnx",
        [FLATTEN, ("MatMul", ["flat", "w"], ["y"])],
        {"w": np.ones((16, 1), np.float32)},
        outputs=outputs,
    )
    with pytest.raises(ModelError, match="its output 'y' is one number an image, as a sigmoid gives it"):
        open_engine(graph)


def test_a_name_that_no_output_has_is_refused_with_those_that_there_are(
    weights: NDArray[np.float32], tmp_path: Path
) -> None:
    graph = write_graph(tmp_path / "m.onnx", HEADS, {"w": weights, "v": -weights}, outputs=TWO)
    with pytest.raises(ModelError, match=r"no output 'mian' \(did you mean 'main'\?\); it has 'aux' float32"):
        open_engine(graph, options=EngineOptions(output="mian"))


def test_a_limit_on_int8_holds_dynamically_quantised_graphs_too(
    evaluate: Any, weights: NDArray[np.float32], tmp_path: Path
) -> None:
    scale = np.float32(np.abs(weights).max() / 127)
    levels = np.rint(-weights / scale).astype(np.int8)
    nodes = [
        FLATTEN, ("DynamicQuantizeLinear", ["flat"], ["q", "qs", "qz"]), ("MatMulInteger", ["q", "w", "qz", "z"], ["i"]),
        ("Cast", ["i"], ["c"], {"to": 1}), ("Mul", ["qs", "s"], ["t"]), ("Mul", ["c", "t"], ["y"]),
    ]  # fmt: skip
    graph = write_graph(tmp_path / "dynamic.onnx", nodes, {"w": levels, "z": np.int8(0), "s": scale})
    done = evaluate(
        "--engine", linear(tmp_path / "m.onnx", weights), "--engine", graph, "--max-drop", "int8:clean_accuracy=0.1"
    )
    assert engines(tmp_path / "out")["ort-dynamic"]["precision"] == "int8"
    assert done.status == 1


def test_bench_says_which_engine_takes_no_batch_of_that_size(
    run: Any, weights: NDArray[np.float32], tmp_path: Path
) -> None:
    fixed, free = linear(tmp_path / "fixed.onnx", weights, batch=1), linear(tmp_path / "free.onnx", weights)
    bench = ("bench", "engines", "--rounds", 3, "--no-memory", "--batch-size", 8, "--out", tmp_path / "b")
    refused = run(*bench, "--engine", fixed)
    assert refused.status == 2
    assert "no engine takes 8 images per call: ort-fixed takes at most 1; add --batch-size 1" in refused.err
    done = run(*bench, "--engine", fixed, "--engine", free, "--fresh")
    assert done.status == 0
    assert "ort-fixed is not timed on batch 8: takes at most 1 images per call" in done.err


def test_inspect_says_what_a_graph_takes_and_gives(run: Any, weights: NDArray[np.float32], tmp_path: Path) -> None:
    done = run("inspect", linear(tmp_path / "m.onnx", weights, beside="m.data"))
    assert done.status == 0
    assert "m.onnx takes 'x' float32 ('n', 1, 4, 4); gives 'y' float32 ('n', 3); opset 17, fp32; " in done.err
    assert "bytes in m.onnx, m.data; SHA-256 " in done.err


def test_a_compressed_graph_is_named_where_the_graph_is_missing(
    evaluate: Any, weights: NDArray[np.float32], tmp_path: Path
) -> None:
    linear(tmp_path / "m.onnx", weights).rename(tmp_path / "m.onnx.gz")
    refused = evaluate("--engine", tmp_path / "m.onnx")
    assert refused.status == 2
    assert "m.onnx.gz is there: unpack it with gunzip" in refused.err
    assert "is compressed; unpack it with gunzip" in evaluate("--engine", tmp_path / "m.onnx.gz").err


def test_the_python_interface_chooses_an_output_too(
    weights: NDArray[np.float32], clean: LabelledImages, tmp_path: Path
) -> None:
    import edgeproof as ep

    graph = write_graph(tmp_path / "m.onnx", HEADS, {"w": weights, "v": -weights}, outputs=TWO)
    with pytest.raises(ModelError, match="name the scores of the classes"):
        ep.load(graph)
    model = ep.load(graph, output="main")
    assert (model.num_classes, model.precision) == (3, "fp32")

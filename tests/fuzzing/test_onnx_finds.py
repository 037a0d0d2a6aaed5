"""What fuzzing and reviews have found in ONNX files, each as small as it gets; all are refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeproof.errors import ModelError
from edgeproof.onnx_files import load_model, read_onnx
from tests.edge.tiny_onnx import write_linear
from tests.fuzzing.protobuf import join_fields, split_fields
from tests.fuzzing.readers import onnx_seeds

RINGS = {
    "a ring before the output": [("Identity", ["b"], ["y"]), ("Identity", ["y"], ["b"])],
    "a cast of nothing": [("Cast", [], ["y"])],
    "a softmax of nothing": [("Softmax", [], ["y"])],
    "a ring of weights": [("Transpose", ["w"], ["v"]), ("Transpose", ["v"], ["w"]), ("Conv", ["x", "w"], ["y"])],
    "a convolution without weights": [("Conv", ["x"], ["y"])],
    "a fan of weights": [
        *(("DequantizeLinear", [f"w{n}"] * 3, [f"w{n + 1}"]) for n in range(60)),
        ("Conv", ["x", "w60"], ["y"]),
    ],
    "a long chain of weights": [
        *(("Identity", [f"w{n}"], [f"w{n + 1}"]) for n in range(3000)),
        ("Conv", ["x", "w3000"], ["y"]),
    ],
    "scales that do not fit": [("DequantizeLinear", ["w", "scale"], ["v"]), ("Conv", ["x", "v"], ["y"])],
}


def _with_metadata(key: str, value: str, folder: Path) -> Path:
    path = write_linear(folder / "m.onnx", np.zeros((16, 3), np.float32), shape=("n", "c", "h", "w"), classes=("a",))
    fields = [(number, each) for number, each in split_fields(path.read_bytes()) if number >> 3 != 14]
    entry = join_fields([(1 << 3 | 2, f"edgeproof.{key}".encode()), (2 << 3 | 2, value.encode())])
    path.write_bytes(join_fields([*fields, (14 << 3 | 2, entry)]))
    return path


@pytest.mark.parametrize(
    "value", ["3", '{"a": 1}', "[[]]", "[1, 2]", r'["\ud800", "b", "c"]', r'["caf\udce9", "b", "c"]']
)
def test_class_names_in_a_graph_that_are_none_are_refused(value: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"edgeproof\.classes of the graph are no list of names"):
        _ = read_onnx(_with_metadata("classes", value, tmp_path)).classes


@pytest.mark.parametrize(
    "value", ["3", "[1, 2]", '["a", 1, 1]', "[0, 1, 1]", "[1, 100000, 100000]", "[-1, -1, 1]", "[" * 3000]
)
def test_an_image_shape_in_a_graph_that_is_none_is_refused(value: str, tmp_path: Path) -> None:
    path = _with_metadata("input_shape", value, tmp_path)
    with pytest.raises(ModelError, match=r"expected float32 \(N, C, H, W\)"):
        read_onnx(path).signature(path)


@pytest.mark.parametrize("location", ["/etc/passwd", "../weights.bin", "link/weights.bin"])
def test_tensors_outside_the_folder_of_a_graph_are_refused(location: str, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "link").symlink_to(tmp_path)
    entry = join_fields([(1 << 3 | 2, b"location"), (2 << 3 | 2, location.encode())])
    (tmp_path / "m" / "m.onnx").write_bytes(_with_tensor_field(13, entry, tmp_path))
    with pytest.raises(ModelError, match="outside the file's folder"):
        read_onnx(tmp_path / "m" / "m.onnx")


def _outside(graph: Any, onnx: Any) -> Any:
    """Return a tensor that is read from elsewhere."""
    tensor = onnx.TensorProto(name="t", data_type=1, dims=[1], data_location=1)
    tensor.external_data.add(key="location", value="/etc/passwd")
    return tensor


def _in_a_constant(model: Any, onnx: Any) -> None:
    model.graph.node.append(onnx.helper.make_node("Constant", [], ["t"], value=_outside(model, onnx)))


def _in_a_list_of_tensors(model: Any, onnx: Any) -> None:
    node = onnx.helper.make_node("Constant", [], ["t"])
    node.attribute.append(onnx.helper.make_attribute("values", [_outside(model, onnx)]))
    model.graph.node.append(node)


def _in_a_branch(model: Any, onnx: Any) -> None:
    branch = onnx.helper.make_graph([], "b", [], [], [_outside(model, onnx)])
    model.graph.node.append(onnx.helper.make_node("If", ["c"], ["t"], then_branch=branch, else_branch=branch))


def _in_a_function(model: Any, onnx: Any) -> None:
    node = onnx.helper.make_node("Constant", [], ["t"], value=_outside(model, onnx))
    model.functions.append(onnx.helper.make_function("d", "F", [], ["t"], [node], [onnx.helper.make_opsetid("", 17)]))


def _in_sparse_values(model: Any, onnx: Any) -> None:
    model.graph.sparse_initializer.add().values.CopyFrom(_outside(model, onnx))


@pytest.mark.parametrize(
    "place", [_in_a_constant, _in_a_list_of_tensors, _in_a_branch, _in_a_function, _in_sparse_values]
)
def test_tensors_outside_the_folder_are_refused_wherever_they_stand(place: Any, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load_model_from_string(onnx_seeds(tmp_path)[0])
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    read_onnx(tmp_path / "m.onnx")
    place(model, onnx)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="'t' lies in '/etc/passwd', outside the file's folder"):
        read_onnx(tmp_path / "m.onnx")


@pytest.mark.parametrize(
    "fields",
    [
        [(1 << 3 | 2, b"offset"), (1 << 3 | 2, b"location"), (2 << 3 | 2, b"w.bin"), (2 << 3 | 2, b"/etc/passwd")],
        [(1 << 3 | 2, b"location"), (2 << 3 | 2, b"*/_ORT_MEM_ADDR_/*")],
    ],
    ids=["each field twice", "an address in memory"],
)
def test_the_place_of_a_tensor_is_read_as_protobuf_reads_it(fields: Any, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(_with_tensor_field(13, join_fields(fields), tmp_path))
    with pytest.raises(ModelError, match="outside the file's folder"):
        read_onnx(tmp_path / "m.onnx")


def test_a_second_graph_and_a_number_that_wraps_to_its_own_are_refused(tmp_path: Path) -> None:
    data = onnx_seeds(tmp_path)[0]
    graph = next(value for key, value in split_fields(data) if key >> 3 == 7)
    for key, said in ((7 << 3 | 2, "it holds two graphs"), (2**32 | 7 << 3 | 2, "a field with the number")):
        (tmp_path / "m.onnx").write_bytes(join_fields([(key, graph)]) + data)
        with pytest.raises(ModelError, match=said):
            read_onnx(tmp_path / "m.onnx")


def test_subgraphs_nested_without_end_are_refused(tmp_path: Path) -> None:
    deep = b""
    for _ in range(400):
        deep = join_fields([(1 << 3 | 2, join_fields([(5 << 3 | 2, join_fields([(6 << 3 | 2, deep)]))]))])
    (tmp_path / "m.onnx").write_bytes(join_fields([(7 << 3 | 2, deep)]))
    with pytest.raises(ModelError, match="nested deeper than 100"):
        read_onnx(tmp_path / "m.onnx")


def test_a_tensor_that_does_not_fill_its_shape_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(_with_tensor_field(9, b"\0" * 8, tmp_path))
    with pytest.raises(ModelError, match=r"tensor 'w' of shape \[16, 3\] and type float32 in 8 bytes"):
        read_onnx(tmp_path / "m.onnx")


def _with_tensor_field(number: int, value: bytes, folder: Path) -> bytes:
    """Return a graph whose weights have this field too, or instead of the one that they had."""
    model = split_fields(onnx_seeds(folder)[0])
    graph = split_fields(next(value for key, value in model if key >> 3 == 7))
    place = next(place for place, (key, _) in enumerate(graph) if key >> 3 == 5)
    tensor = [field for field in split_fields(graph[place][1]) if field[0] >> 3 != number]
    graph[place] = (graph[place][0], join_fields([*tensor, (number << 3 | 2, value)]))
    return join_fields([(key, join_fields(graph) if key >> 3 == 7 else value) for key, value in model])


def _graph_of(nodes: list[tuple[str, list[str], list[str]]], folder: Path) -> Path:
    onnx = pytest.importorskip("onnx")
    values = [onnx.helper.make_tensor_value_info("x", 1, ["N", 1, 16, 16])]
    outputs = [onnx.helper.make_tensor_value_info("y", 1, ["N", 4])]
    made = [onnx.helper.make_node(*node, **({"to": 1} if node[0] == "Cast" else {})) for node in nodes]
    scale = onnx.numpy_helper.from_array(np.ones(7, np.float32), "scale")
    graph = onnx.helper.make_graph(made, "g", values, outputs, [scale])
    if "scale" in str(nodes):
        graph.initializer.append(onnx.numpy_helper.from_array(np.zeros((1, 1, 3, 3), np.int8), "w"))
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)]), folder / "m.onnx")
    return folder / "m.onnx"


@pytest.mark.parametrize("name", RINGS)
def test_a_graph_that_leads_nowhere_is_refused(name: str, tmp_path: Path) -> None:
    path = _graph_of(RINGS[name], tmp_path)
    from edgeproof.evaluation.weights import read_weights
    from edgeproof.models.imported import import_onnx

    for read in (import_onnx, read_weights):
        with pytest.raises(ModelError):
            read(path)


def test_a_graph_to_be_attacked_has_classes_of_unicode_text(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("torch")
    from edgeproof.models.imported import import_onnx

    path = _with_metadata("classes", json.dumps(["a", "\ud800", "c"]), tmp_path)
    with pytest.raises(ModelError, match="names a class that is no Unicode text"):
        import_onnx(path, input_shape=(1, 4, 4))


def test_names_that_are_no_text_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("torch")
    from edgeproof.evaluation.weights import read_weights
    from edgeproof.models.imported import import_onnx

    path = write_linear(tmp_path / "m.onnx", np.zeros((16, 3), np.float32))
    path.write_bytes(path.read_bytes().replace(b"images", b"im\xffges"))
    for read in (import_onnx, read_weights, read_onnx):
        with pytest.raises(ModelError, match="a name in the graph is no UTF-8 text"):
            read(path)


def test_a_graph_with_an_element_type_that_there_is_not_is_not_written(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    from edgeproof.export.base import ExportError
    from edgeproof.export.graph import save_graph

    model = load_model(write_linear(tmp_path / "m.onnx", np.zeros((16, 3), np.float32)))
    model.graph.initializer[0].data_type = 32768
    with pytest.raises(ExportError, match="is not a valid ONNX graph: Invalid tensor data type 32768"):
        save_graph(model, tmp_path / "n.onnx")

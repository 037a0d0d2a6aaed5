"""The one reader of ONNX files: what a graph takes, gives and computes in, which files it has, and what it refuses."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from edgeproof.__main__ import main
from edgeproof.errors import ModelError
from edgeproof.onnx_files import files_of, guard, hash_model, load_model, loading, read_onnx, size_of
from tests.edge.tiny_onnx import FLOAT16, UINT8, write_linear

WEIGHTS = np.random.default_rng(0).normal(size=(48, 3)).astype(np.float32)
SHAPE = ("batch", 3, 4, 4)
Node = tuple[str, Sequence[str], Sequence[str], Mapping[str, Any]]


def nodes_of(nodes: Sequence[Any]) -> list[onnx.NodeProto]:
    """Make nodes of (operator, inputs, outputs) with attributes behind, and the domain in front of a colon."""
    made = []
    for kind, taken, gives, *attributes in nodes:
        domain, _, operator = kind.rpartition(":")
        made.append(helper.make_node(operator, taken, gives, domain=domain, **(attributes[0] if attributes else {})))
    return made


def graph(
    nodes: Sequence[Any],
    stored: Mapping[str, Any] | None = None,
    *,
    outputs: Mapping[str, Any] | None = None,
    shape: Sequence[int | str] = SHAPE,
    kind: int = TensorProto.FLOAT,
    opset: int = 17,
    functions: Sequence[onnx.FunctionProto] = (),
) -> onnx.ModelProto:
    """Make a graph of the input x; `outputs` are name: (type, shape)."""
    given_outputs = outputs or {"y": (TensorProto.FLOAT, ("batch", 3))}
    values = [helper.make_tensor_value_info(name, *what) for name, what in given_outputs.items()]
    tensors = [
        each if isinstance(each, TensorProto) else numpy_helper.from_array(np.asarray(each), name)
        for name, each in (stored or {}).items()
    ]
    made = helper.make_graph(nodes_of(nodes), "g", [helper.make_tensor_value_info("x", kind, shape)], values, tensors)
    domains = ["com.microsoft", *{function.domain for function in functions}]
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(made, opset_imports=opsets, ir_version=8, functions=functions)


def save(model: onnx.ModelProto, folder: Path) -> Path:
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    return folder / "m.onnx"


FLATTEN: Any = ("Flatten", ["x"], ["flat"])
LINEAR: Any = [FLATTEN, ("MatMul", ["flat", "w"], ["y"])]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_file_is_read_as_the_onnx_package_reads_it(precision: str, tmp_path: Path) -> None:
    path = write_linear(tmp_path / "m.onnx", WEIGHTS, precision=precision, shape=SHAPE, classes=("a", "b", "c"))
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    summary = read_onnx(path)
    assert [value.name for value in summary.inputs] == ["images"]
    assert summary.inputs[0].shape == SHAPE
    assert summary.metadata == {entry.key: entry.value for entry in model.metadata_props}
    assert (summary.precision, summary.classes, summary.opset) == (precision, ("a", "b", "c"), 19)


def test_the_signature_is_that_of_the_graph(tmp_path: Path) -> None:
    free = read_onnx(write_linear(tmp_path / "a.onnx", WEIGHTS, shape=SHAPE)).signature(tmp_path)
    assert (free.input, free.output, free.input_shape) == ("images", "logits", (3, 4, 4))
    assert (free.num_classes, free.batch) == (3, None)
    fixed = read_onnx(write_linear(tmp_path / "b.onnx", WEIGHTS, shape=(8, 3, 4, 4))).signature(tmp_path)
    assert fixed.batch == 8


# What a graph takes, and the command that brings it to ours


def run(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "argv", [*shlex.split(command), "--out", str(folder / "out")])
    with contextlib.suppress(SystemExit):
        main()
    (made,) = (folder / "out").glob("*.onnx")
    return made


@pytest.mark.parametrize(
    ("options", "said", "added"),
    [
        ({"input_type": UINT8}, "takes 'images' uint8", "--range 255"),
        ({"input_type": FLOAT16}, "takes 'images' float16", ""),
        ({"input_type": TensorProto.DOUBLE}, "takes 'images' float64", ""),
        ({"shape": ("n", 2, 8, 3)}, "looks like NHWC", "--layout nhwc"),
        ({"shape": ("n", 2, 8, 3), "input_type": UINT8}, "looks like NHWC", "--layout nhwc --range 255"),
        ({"shape": ("n", "h", "w", 3)}, "looks like NHWC", "--layout nhwc --input-shape C,H,W"),
        ({"shape": ("n", 48)}, "takes 'images' float32 .'n', 48.", "--layout flat --input-shape C,H,W"),
        ({"shape": ("n", 3, "h", "w")}, "leaves C, H or W open", "--input-shape C,H,W"),
    ],
)
def test_a_graph_that_takes_something_else_is_brought_to_ours_by_the_command_that_is_given(
    options: dict[str, Any], said: str, added: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_linear(tmp_path / "a graph.onnx", WEIGHTS, **{"shape": SHAPE, **options})
    if options.get("input_type"):  # a real graph casts what it is given
        model = onnx.load(path)
        model.graph.node.insert(0, helper.make_node("Cast", ["images"], ["cast"], to=TensorProto.FLOAT))
        model.graph.node[1].input[0] = "cast"
        onnx.save(model, path)
    with pytest.raises(ModelError, match=f"{said}.*expected float32") as refused:
        read_onnx(path).signature(path)
    command = str(refused.value).rpartition("bring it to that with: ")[2]
    assert command == f"edgeproof export --from '{path}' {added}".strip()
    made = run(command.replace("C,H,W", "3,4,4"), tmp_path, monkeypatch)
    assert read_onnx(made).signature(made).input_shape == ((3, 2, 8) if 8 in options.get("shape", ()) else (3, 4, 4))


def test_a_graph_of_two_inputs_or_of_bytes_without_a_range_is_refused(tmp_path: Path) -> None:
    path = write_linear(tmp_path / "m.onnx", WEIGHTS, shape=SHAPE, extra_input=True)
    with pytest.raises(ModelError, match=r"takes 2 inputs \(images, mask\); expected one"):
        read_onnx(path).signature(path)
    path = write_linear(tmp_path / "m.onnx", WEIGHTS, shape=SHAPE, input_type=TensorProto.INT32)
    with pytest.raises(ModelError, match=r"int32 .*\[0, 1\]: export it again$"):
        read_onnx(path).signature(path)


def test_initialisers_that_old_files_list_among_the_inputs_are_none(tmp_path: Path) -> None:
    model = graph(LINEAR, {"w": WEIGHTS}, opset=8)
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, (48, 3)))
    assert [value.name for value in read_onnx(save(model, tmp_path)).inputs] == ["x"]


def test_a_size_of_0_is_a_free_one(tmp_path: Path) -> None:
    model = graph(LINEAR, {"w": WEIGHTS}, shape=(0, 3, 4, 4))
    assert read_onnx(save(model, tmp_path)).signature(tmp_path).batch is None


# Which output holds the scores

F, INT = TensorProto.FLOAT, TensorProto.INT64
OUTPUTS: dict[str, tuple[dict[str, Any], str | None, str]] = {
    "the only one": ({"y": (F, ("n", 4))}, None, "y"),
    "the only one, whatever is asked for": ({"y": (F, ("n", 4))}, "logits", "y"),
    "the one called logits": ({"aux": (F, ("n", 4)), "logits": (F, ("n", 4))}, None, "logits"),
    "the one that is asked for": ({"aux": (F, ("n", 4)), "logits": (F, ("n", 4))}, "aux", "aux"),
    "probabilities beside a label": ({"label": (INT, ("n",)), "probabilities": (F, ("n", 4))}, None, "probabilities"),
    "the same, the other way round": ({"p": (F, ("n", 4)), "label": (INT, ("n",))}, None, "p"),
    "scores beside a feature map": ({"map": (F, ("n", 8, 4, 4)), "scores": (F, ("n", 4))}, None, "scores"),
    "scores beside one number": ({"p": (F, ("n", 1)), "scores": (F, ("n", 4))}, None, "scores"),
}


@pytest.mark.parametrize("case", OUTPUTS)
def test_the_output_is(case: str, tmp_path: Path) -> None:
    outputs, asked, chosen = OUTPUTS[case]
    path = save(graph([FLATTEN], outputs=outputs), tmp_path)
    assert read_onnx(path).signature(path, output=asked).output == chosen


@pytest.mark.parametrize(
    ("outputs", "asked", "said"),
    [
        ({"aux": (F, ("n", 4)), "main": (F, ("n", 4))}, None, r"2 outputs \('aux' float32 \('n', 4\), 'main' .*--output"),
        ({"features": (F, ("n", 256)), "scores": (F, ("n", 4))}, None, "'scores' float32 .*name the scores .*--output"),
        ({"a": (F, None), "b": (F, None)}, None, "name the scores of the classes with --output"),
        ({"aux": (F, ("n", 4)), "main": (F, ("n", 4))}, "man", r"no output 'man' \(did you mean 'main'\?\); it has 'aux'"),
        ({"label": (INT, ("n",)), "map": (F, ("n", 8, 4, 4))}, None, r"expected one of float32 \(N, K\)"),
        ({"label": (INT, ("n",)), "p": (F, ("n", 4))}, "label", "gives 'label' int64 .*no scores of classes"),
        ({"p": (F, ("n", 1))}, None, "one number an image, as a sigmoid gives it for the second of two classes"),
        ({"p": (F, ("n",))}, None, "one number an image"),
        ({"y": (F, ("n", 4, 1, 1))}, None, "expected float32 .N, K.: bring it to that with: edgeproof export --from"),
        ({"y": (TensorProto.DOUBLE, ("n", 4))}, None, "gives 'y' float64 .*: bring it to that with: edgeproof export"),
    ],
)  # fmt: skip
def test_outputs_that_leave_it_open_are_listed(outputs: Any, asked: str | None, said: str, tmp_path: Path) -> None:
    path = save(graph([FLATTEN], outputs=outputs), tmp_path)
    with pytest.raises(ModelError, match=said):
        read_onnx(path).signature(path, output=asked)


def test_an_output_that_is_a_list_of_dictionaries_is_said_to_be_zipmaps(tmp_path: Path) -> None:
    model = graph([FLATTEN], outputs={"label": (INT, ("n",))})
    model.graph.output.add(name="p").type.sequence_type.elem_type.map_type.key_type = INT
    with pytest.raises(ModelError, match=r"'p' sequence of unknown shape"):
        read_onnx(save(model, tmp_path)).signature(tmp_path)
    del model.graph.output[0]
    with pytest.raises(ModelError, match="option zipmap=False"):
        read_onnx(save(model, tmp_path)).signature(tmp_path)


# Precision

HALF, EIGHT = WEIGHTS.astype(np.float16), np.ones((48, 3), np.int8)
ONE, ZERO = np.float32(1), np.uint8(0)
Q: dict[str, Any] = {"w": EIGHT, "s": ONE, "z": np.int8(0), "uz": ZERO}
TO_HALF: Any = [FLATTEN, ("Cast", ["flat"], ["half"], {"to": 10})]
FROM_HALF: Any = ("Cast", ["m"], ["y"], {"to": 1})


def four_bits(name: str) -> TensorProto:
    return helper.make_tensor(name, TensorProto.INT4, (48, 3), np.zeros(144, np.int8))


def bfloat16(name: str) -> TensorProto:
    return helper.make_tensor(name, TensorProto.BFLOAT16, (48, 3), np.ones(144, np.float32))


PRECISIONS: dict[str, tuple[str, list[Any], dict[str, Any]]] = {
    "float weights": ("fp32", LINEAR, {"w": WEIGHTS}),
    "a float weight in a constant": (
        "fp32", [FLATTEN, ("Constant", [], ["w"], {"value": numpy_helper.from_array(WEIGHTS)}), LINEAR[1]], {}),
    "halves": ("fp16", [*TO_HALF, ("MatMul", ["half", "w"], ["m"]), FROM_HALF], {"w": HALF}),
    "halves in a constant": (
        "fp16", [*TO_HALF, ("Constant", [], ["w"], {"value": numpy_helper.from_array(HALF)}), ("MatMul", ["half", "w"], ["m"]),
                 FROM_HALF], {}),
    "halves that are cast back": ("fp16", [FLATTEN, ("Cast", ["h"], ["w"], {"to": 1}), LINEAR[1]], {"h": HALF}),
    "floats that are cast to halves": (
        "fp16", [*TO_HALF, ("Cast", ["f"], ["w"], {"to": 10}), ("MatMul", ["half", "w"], ["m"]), FROM_HALF], {"f": WEIGHTS}),
    "bfloat16": ("bf16", [FLATTEN, ("Cast", ["flat"], ["b"], {"to": 16}), ("MatMul", ["b", "w"], ["m"]), FROM_HALF],
                 {"w": bfloat16("w")}),
    "half here, float there": (
        "mixed", [*TO_HALF, ("MatMul", ["half", "h"], ["m"]), ("Cast", ["m"], ["f"], {"to": 1}), ("MatMul", ["f", "v"], ["y"])],
        {"h": HALF, "v": np.eye(3, dtype=np.float32)}),
    "double": ("fp64", [FLATTEN, ("Cast", ["flat"], ["d"], {"to": 11}), ("MatMul", ["d", "w"], ["m"]), FROM_HALF],
               {"w": WEIGHTS.astype(float)}),
    "a half that no output needs": ("fp32", [*LINEAR, ("Cast", ["h"], ["unused"], {"to": 1})], {"w": WEIGHTS, "h": HALF}),
    "an integer that no output needs": (
        "fp32", [*LINEAR, ("DequantizeLinear", ["q", "s"], ["unused"])], {"w": WEIGHTS, "q": EIGHT, "s": ONE}),
    "no product": ("fp32", [FLATTEN, ("Identity", ["flat"], ["y"])], {}),
    "Q/DQ": ("int8", [FLATTEN, ("QuantizeLinear", ["flat", "s", "z"], ["q"]), ("DequantizeLinear", ["q", "s", "z"], ["d"]),
                      ("MatMul", ["d", "f"], ["y"])], {**Q, "f": WEIGHTS}),
    "weights only": ("int8", [FLATTEN, ("DequantizeLinear", ["q", "s"], ["w"]), LINEAR[1]], {"q": EIGHT, "s": ONE}),
    "weights of four bits": ("int4", [FLATTEN, ("DequantizeLinear", ["q", "s"], ["w"]), LINEAR[1]],
                             {"q": four_bits("q"), "s": ONE}),
    "QLinearMatMul": ("int8", [("QLinearMatMul", ["x", "s", "uz", "w", "s", "z", "s", "uz"], ["y"])], Q),
    "QLinearConv": ("int8", [("QLinearConv", ["x", "s", "uz", "w", "s", "z", "s", "uz"], ["y"])], Q),
    "MatMulInteger": (
        "int8", [FLATTEN, ("DynamicQuantizeLinear", ["flat"], ["q", "qs", "qz"]), ("MatMulInteger", ["q", "w", "qz", "z"], ["i"]),
                 ("Cast", ["i"], ["y"], {"to": 1})], Q),
    "ConvInteger": ("int8", [("ConvInteger", ["x", "w", "uz", "z"], ["i"]), ("Cast", ["i"], ["y"], {"to": 1})], Q),
    "DynamicQuantizeMatMul": ("int8", [FLATTEN, ("com.microsoft:DynamicQuantizeMatMul", ["flat", "w", "s", "z"], ["y"])], Q),
    "MatMulIntegerToFloat": ("int8", [("com.microsoft:MatMulIntegerToFloat", ["x", "w", "s", "s"], ["y"])], Q),
    "QLinearAdd": ("int8", [("com.microsoft:QLinearAdd", ["x", "s", "z", "w", "s", "z", "s", "z"], ["y"])], Q),
    "QGemm": ("int8", [("com.microsoft:QGemm", ["x", "s", "z", "w", "s", "z"], ["y"])], Q),
    "their QuantizeLinear": ("int16", [FLATTEN, ("com.microsoft:QuantizeLinear", ["flat", "s", "z"], ["q"]),
                                       ("com.microsoft:DequantizeLinear", ["q", "s", "z"], ["y"])],
                             {"s": ONE, "z": np.uint16(0)}),
    "MatMulNBits": ("int4", [FLATTEN, ("com.microsoft:MatMulNBits", ["flat", "w", "s"], ["y"], {"bits": 4})], Q),
    "QuickGelu is none": ("fp32", [FLATTEN, ("com.microsoft:QuickGelu", ["flat"], ["g"]), ("MatMul", ["g", "w"], ["y"])],
                          {"w": WEIGHTS}),
}  # fmt: skip


@pytest.mark.parametrize("case", PRECISIONS)
def test_the_precision_is_read_off_what_is_computed(case: str, tmp_path: Path) -> None:
    precision, nodes, stored = PRECISIONS[case]
    assert read_onnx(save(graph(nodes, stored), tmp_path)).precision == precision


def branch(nodes: Sequence[Any], output: str, tensors: Sequence[TensorProto] = ()) -> onnx.GraphProto:
    return helper.make_graph(nodes_of(nodes), "b", [], [helper.make_tensor_value_info(output, F, None)], list(tensors))


def in_a_branch(nodes: Sequence[Any], tensors: Sequence[TensorProto]) -> onnx.ModelProto:
    both = {"then_branch": branch(nodes, "y0", tensors), "else_branch": branch([("Identity", ["flat"], ["y1"])], "y1")}
    return graph([FLATTEN, ("If", ["c"], ["y"], both)], {"c": np.bool_(True)})


def in_a_function(nodes: Sequence[Any], tensors: Sequence[TensorProto]) -> onnx.ModelProto:
    constants = nodes_of([("Constant", [], [tensor.name], {"value": tensor}) for tensor in tensors])
    opsets = [helper.make_opsetid("", 17)]
    body = helper.make_function("own", "F", ["flat"], ["y0"], [*constants, *nodes_of(nodes)], opsets)
    return graph([FLATTEN, ("own:F", ["flat"], ["y"])], functions=[body])


@pytest.mark.parametrize("inside", [in_a_branch, in_a_function])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_precision_is_that_of_subgraphs_and_functions_too(
    inside: Callable[..., onnx.ModelProto], precision: str, tmp_path: Path
) -> None:
    kinds = {"fp32": ("Identity", WEIGHTS), "fp16": ("Cast", HALF), "int8": ("DequantizeLinear", EIGHT)}
    operator, stored = kinds[precision]
    taken = ["q", "s"] if precision == "int8" else ["q"]
    nodes = [(operator, taken, ["w"], {"to": 1} if operator == "Cast" else {}), ("MatMul", ["flat", "w"], ["y0"])]
    tensors = [numpy_helper.from_array(stored, "q"), numpy_helper.from_array(np.asarray(ONE), "s")]
    assert read_onnx(save(inside(nodes, tensors), tmp_path)).precision == precision


# The files of a model


def beside(name: str, location: str, array: np.ndarray, *, offset: int = 0) -> TensorProto:
    tensor = TensorProto(name=name, data_type=numpy_helper.from_array(array).data_type, dims=array.shape)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", array.nbytes)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def two_files(folder: Path) -> Path:
    """Write a graph whose first weight lies in `b`, the second, in a constant, in a folder."""
    second = np.eye(3, dtype=np.float32)
    (folder / "sub").mkdir()
    (folder / "b").write_bytes(b"\0" * 8 + WEIGHTS.tobytes())
    (folder / "sub" / "a.bin").write_bytes(second.tobytes())
    constant = ("Constant", [], ["v"], {"value": beside("v", "sub/a.bin", second)})
    nodes = [FLATTEN, ("MatMul", ["flat", "w"], ["m"]), constant, ("MatMul", ["m", "v"], ["y"])]
    return save(graph(nodes, {"w": beside("w", "b", WEIGHTS, offset=8)}), folder)


def test_the_files_of_a_graph_are_all_that_its_weights_lie_in(tmp_path: Path) -> None:
    path = two_files(tmp_path)
    assert files_of(path) == (path, tmp_path / "b", tmp_path / "sub" / "a.bin")
    assert size_of(path) == path.stat().st_size + 8 + WEIGHTS.nbytes + 36
    model = load_model(path)
    np.testing.assert_array_equal(numpy_helper.to_array(model.graph.initializer[0]), WEIGHTS)
    onnx.checker.check_model(model, full_check=True)
    assert model.graph.node[2].attribute[0].t.data_location == TensorProto.DEFAULT


def test_the_hash_is_that_of_the_content_of_all_files(tmp_path: Path) -> None:
    path = two_files(tmp_path)
    seen = {hash_model(path)}
    for name in ("b", "sub/a.bin", "m.onnx"):
        content = (tmp_path / name).read_bytes()
        changed = content.replace(b"MatMul", b"Matmul") if name == "m.onnx" else content[:-1] + b"\x11"
        (tmp_path / name).write_bytes(changed)
        seen.add(hash_model(path))
        (tmp_path / name).write_bytes(content)
    assert len(seen) == 4
    b, a = (tmp_path / "b"), (tmp_path / "sub" / "a.bin")
    before = hash_model(path)
    b.write_bytes(b.read_bytes() + a.read_bytes()[:4])
    a.write_bytes(a.read_bytes()[4:] + b"\0" * 4)
    assert hash_model(path) != before


def test_the_hash_of_a_single_file_is_its_own(tmp_path: Path) -> None:
    path = write_linear(tmp_path / "m.onnx", WEIGHTS, shape=SHAPE)
    assert files_of(path) == (path,)
    assert hash_model(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_files_of_an_openvino_graph_are_two(tmp_path: Path) -> None:
    (tmp_path / "m.xml").write_bytes(b"<net/>")
    with pytest.raises(ModelError, match=r"m\.xml has no m\.bin beside it"):
        files_of(tmp_path / "m.xml")
    (tmp_path / "m.bin").write_bytes(b"weights")
    assert hash_model(tmp_path / "m.xml") == hashlib.sha256(b"<net/>weights").hexdigest()


def in_a_sparse_tensor(_: Sequence[Any], tensors: Sequence[TensorProto]) -> onnx.ModelProto:
    model = graph(LINEAR, {"w": WEIGHTS})
    model.graph.sparse_initializer.add().values.CopyFrom(tensors[0])
    return model


@pytest.mark.parametrize("inside", [in_a_branch, in_a_function, in_a_sparse_tensor])
def test_weights_of_subgraphs_functions_and_sparse_tensors_count(
    inside: Callable[..., onnx.ModelProto], tmp_path: Path
) -> None:
    (tmp_path / "w.bin").write_bytes(WEIGHTS.tobytes())
    model = inside([("MatMul", ["flat", "w"], ["y0"])], [beside("w", "w.bin", WEIGHTS)])
    assert files_of(save(model, tmp_path)) == (tmp_path / "m.onnx", tmp_path / "w.bin")


def refused(tensor: TensorProto, folder: Path, said: str) -> None:
    path = save(graph(LINEAR, {"w": tensor}), folder)
    for read in (read_onnx, files_of, hash_model, load_model):
        with pytest.raises(ModelError, match=said):
            read(path)


def test_weights_that_are_missing_short_or_of_another_size_are_refused(tmp_path: Path) -> None:
    refused(beside("w", "none.bin", WEIGHTS), tmp_path, "'none.bin', which is not there: copy that file too")
    (tmp_path / "w.bin").write_bytes(WEIGHTS.tobytes())
    refused(beside("w", "w.bin", WEIGHTS, offset=4), tmp_path, "needs bytes 4 to 580 of 'w.bin', which has 576")
    refused(beside("w", "w.bin", WEIGHTS, offset=-4), tmp_path, "needs bytes -4 to")
    tensor = beside("w", "w.bin", WEIGHTS)
    tensor.dims[0] = 47
    refused(tensor, tmp_path, r"tensor 'w' of shape \[47, 3\] and type float32 in 576 bytes")
    tensor.external_data[1].value = "many"
    refused(tensor, tmp_path, "'w' has unreadable external data")


def test_links_to_weights_are_refused_also_where_they_stay_in_the_folder(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "w.bin").write_bytes(WEIGHTS.tobytes())
    (tmp_path / "w.bin").symlink_to(tmp_path / "real" / "w.bin")
    (tmp_path / "folder").symlink_to(tmp_path / "real")
    for location in ("w.bin", "folder/w.bin", "real/../real/w.bin", "."):
        refused(beside("w", location, WEIGHTS), tmp_path, "outside the file's folder or behind a link")


def test_a_linked_graph_reads_the_weights_beside_the_link(tmp_path: Path) -> None:
    # ONNX Runtime looks beside the name that it is given; looking elsewhere would check other files than it reads.
    for name in ("there", "here"):
        (tmp_path / name).mkdir()
    (tmp_path / "there" / "w.bin").write_bytes(WEIGHTS.tobytes())
    path = save(graph(LINEAR, {"w": beside("w", "w.bin", WEIGHTS)}), tmp_path / "there")
    (tmp_path / "here" / "m.onnx").symlink_to(path)
    with pytest.raises(ModelError, match="which is not there"):
        files_of(tmp_path / "here" / "m.onnx")


# What is refused


def function(name: str, *called: str) -> onnx.FunctionProto:
    nodes = [(f"own:{other}", ["a"], [f"b{place}"]) for place, other in enumerate(called)]
    last = ("Identity", ["a"], ["c"])
    return helper.make_function("own", name, ["a"], ["c"], nodes_of([*nodes, last]), [helper.make_opsetid("", 17)])


def test_functions_that_multiply_or_call_themselves_are_refused(tmp_path: Path) -> None:
    bomb = [function(f"F{n}", f"F{n + 1}", f"F{n + 1}") for n in range(60)] + [function("F60")]
    path = save(graph([("own:F0", ["x"], ["y"])], functions=bomb), tmp_path)
    with pytest.raises(ModelError, match=r"its functions stand for \d{19} nodes; expected at most 1048576"):
        read_onnx(path)
    ring = [function("A", "B"), function("B", "A")]
    with pytest.raises(ModelError, match=r"its function '[AB]' calls itself"):
        read_onnx(save(graph([("own:A", ["x"], ["y"])], functions=ring), tmp_path))
    alone = [function("A", "B"), function("B")]
    assert read_onnx(save(graph([("own:A", ["x"], ["y"])], functions=alone), tmp_path)).precision == "fp32"


@pytest.mark.parametrize("place", ["node", "input", "attribute", "dimension"])
def test_more_messages_than_memory_is_for_are_refused_before_they_are_parsed(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = graph(LINEAR, {"w": WEIGHTS})
    read_onnx(save(model, tmp_path))
    for _ in range(2000):
        if place == "node":
            model.graph.node.add()
        elif place == "input":
            model.graph.node[0].input.append("")
        elif place == "attribute":
            model.graph.node[0].attribute.add()
        else:
            model.graph.input[0].type.tensor_type.shape.dim.add()
    monkeypatch.setattr(guard, "_MAX_FIELDS", 2000)
    monkeypatch.setattr(loading, "_check", lambda *_: pytest.fail("it was parsed"))
    with pytest.raises(ModelError, match="it has more than 2000 fields"):
        read_onnx(save(model, tmp_path))


def test_names_that_go_on_and_on_are_refused(tmp_path: Path) -> None:
    model = graph(LINEAR, {"w": WEIGHTS})
    model.graph.node[0].name = "n" * 70000
    with pytest.raises(ModelError, match="a name in the graph has 70000 letters"):
        read_onnx(save(model, tmp_path))
    model.graph.node[0].name = ""
    model.metadata_props.add(key="text", value="v" * 70000)
    assert len(read_onnx(save(model, tmp_path)).metadata["text"]) == 70000


def test_a_ring_of_nodes_is_refused_by_its_name(tmp_path: Path) -> None:
    path = save(graph([("Add", ["x", "b"], ["a"]), ("Relu", ["a"], ["b"]), ("Flatten", ["b"], ["y"])]), tmp_path)
    with pytest.raises(ModelError, match=r"m\.onnx: the graph is cyclic: .* depends on its own output"):
        read_onnx(path)


def test_a_compressed_graph_is_to_be_unpacked(tmp_path: Path) -> None:
    content = write_linear(tmp_path / "m.onnx", WEIGHTS, shape=SHAPE).read_bytes()
    (tmp_path / "m.onnx").write_bytes(gzip.compress(content))
    with pytest.raises(ModelError, match="is compressed; unpack it with gunzip"):
        read_onnx(tmp_path / "m.onnx")
    (tmp_path / "m.onnx").rename(tmp_path / "m.onnx.gz")
    with pytest.raises(ModelError, match=r"no file .*m\.onnx; .*m\.onnx\.gz is there: unpack it with gunzip"):
        read_onnx(tmp_path / "m.onnx")


@pytest.mark.parametrize("content", [b"", b"hello world", b"\x89PNG\r\n\x1a\n", bytes(100)])
def test_what_is_no_onnx_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=r"m.onnx is not a readable ONNX file \(.*\); export it again"):
        read_onnx(tmp_path / "m.onnx")


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_a_file_that_is_cut_or_changed_is_read_or_refused_and_never_crashes(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    content = bytearray(write_linear(folder / "m.onnx", WEIGHTS[:, :2], shape=SHAPE, classes=("a", "b")).read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] = data.draw(st.integers(0, 255))
    (folder / "m.onnx").write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]))
    with contextlib.suppress(ModelError):
        read_onnx(folder / "m.onnx").signature(folder / "m.onnx")


# Older operator sets


@pytest.mark.parametrize(("opset", "loaded"), [(8, 13), (9, 13), (10, 13), (11, 11), (17, 17), (20, 20)])
def test_graphs_before_opset_11_are_converted(opset: int, loaded: int, tmp_path: Path) -> None:
    path = save(graph(LINEAR, {"w": WEIGHTS}, opset=opset), tmp_path)
    assert read_onnx(path).opset == opset
    model = load_model(path)
    assert next(entry.version for entry in model.opset_import if not entry.domain) == loaded
    x = np.random.default_rng(1).random((2, 3, 4, 4), np.float32)
    found = ReferenceEvaluator(model).run(None, {"x": x})[0]
    np.testing.assert_allclose(found, x.reshape(2, 48) @ WEIGHTS, rtol=1e-5)


def test_a_graph_that_cannot_be_converted_is_refused(tmp_path: Path) -> None:
    path = save(graph([("Nonsense", ["x"], ["y"])], opset=8), tmp_path)
    with pytest.raises(ModelError, match=r"has opset 8 and cannot be converted to 13 \(.*\); export it again"):
        load_model(path)

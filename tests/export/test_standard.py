from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeproof.errors import ModelError
from edgeproof.export.base import ExportError
from edgeproof.export.standard import standardize_graph
from edgeproof.onnx_files import load_model, read_onnx
from tests.closeness import assert_near

ort = pytest.importorskip("onnxruntime")

SHAPE = (3, 4, 5)
NORMALIZATION = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}


def images() -> np.ndarray:
    return np.random.default_rng(0).random((6, *SHAPE), np.float32)


def linear(
    path: Path,
    *,
    shape: tuple[Any, ...],
    kind: int = TensorProto.FLOAT,
    spatial: bool = False,
    name: str = "images",
    opset: int = 17,
) -> Path:
    """A linear classifier of whatever it is given, with or without axes of length 1 behind the classes."""
    wide = (
        np.random.default_rng(1)
        .standard_normal((60, 7))
        .astype(np.float16 if kind == TensorProto.FLOAT16 else np.float32)
    )
    nodes = [
        helper.make_node(
            "Cast", [name], ["x"], to=TensorProto.FLOAT16 if kind == TensorProto.FLOAT16 else TensorProto.FLOAT
        ),
        helper.make_node("Flatten", ["x"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["y" if spatial else "logits"]),
    ]
    if spatial:
        nodes.append(helper.make_node("Unsqueeze", ["y", "axes"], ["logits"]))
    out = TensorProto.FLOAT16 if kind == TensorProto.FLOAT16 else TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, kind, shape)],
        [helper.make_tensor_value_info("logits", out, None)],
        [numpy_helper.from_array(wide, "w"), numpy_helper.from_array(np.array([2, 3]), "axes")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
    return path


def run(path: Path, fed: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    result: np.ndarray = session.run(None, {session.get_inputs()[0].name: fed})[0]
    return result


def normalized(x: np.ndarray, *, scale: float = 1) -> np.ndarray:
    mean, std = (np.array(NORMALIZATION[key], np.float32).reshape(-1, 1, 1) for key in ("mean", "std"))
    return (x * np.float32(scale) - mean) / std


CASES: dict[str, tuple[dict[str, Any], dict[str, Any], Any]] = {
    "plain": ({"shape": ("n", *SHAPE)}, {}, lambda x: x),
    "normalised": ({"shape": ("n", *SHAPE)}, NORMALIZATION, normalized),
    "0..255 and normalised": (
        {"shape": ("n", *SHAPE)},
        {"input_range": 255, **NORMALIZATION},
        lambda x: normalized(x, scale=255),
    ),
    "nhwc": ({"shape": ("n", 4, 5, 3)}, {"layout": "nhwc"}, lambda x: x.transpose(0, 2, 3, 1)),
    "flat": ({"shape": ("n", 60), "name": "x0"}, {"layout": "flat"}, lambda x: x.reshape(len(x), -1)),
    "bytes": (
        {"shape": ("n", *SHAPE), "kind": TensorProto.UINT8},
        {"input_range": 255},
        lambda x: np.rint(x * np.float32(255)).astype(np.uint8),
    ),
    "half": ({"shape": ("n", *SHAPE), "kind": TensorProto.FLOAT16}, {}, lambda x: x.astype(np.float16)),
    "free": ({"shape": ("n", 3, "h", "w")}, {}, lambda x: x),
    "spatial": ({"shape": ("n", *SHAPE), "spatial": True}, {}, lambda x: x),
    "fixed batch": ({"shape": (6, *SHAPE)}, {}, lambda x: x),
}


@pytest.mark.parametrize("name", CASES)
def test_images_in_0_to_1_give_what_the_graph_gives_for_its_own_convention(name: str, tmp_path: Path) -> None:
    about, convention, feed = CASES[name]
    src = linear(tmp_path / "src.onnx", **about)
    standardize_graph(src, tmp_path / "dst.onnx", input_shape=SHAPE, **convention)
    expected = run(src, np.ascontiguousarray(feed(images()))).reshape(6, 7)
    got = run(tmp_path / "dst.onnx", images())
    assert got.dtype == np.float32
    # Between two casts to float32 ONNX Runtime leaves out the rounding of half-precision logits.
    assert_near(got, expected, within=1e-3 if name == "half" else 1e-5)


def test_result_says_what_it_takes_and_where_it_comes_from(tmp_path: Path) -> None:
    src = linear(tmp_path / "src.onnx", shape=(1, 4, 5, 3))
    standardize_graph(src, tmp_path / "dst.onnx", input_shape=SHAPE, layout="nhwc", input_range=255, **NORMALIZATION)
    model = load_model(tmp_path / "dst.onnx")
    given, made = model.graph.input[0], model.graph.output[0]
    assert (given.name, made.name) == ("images", "logits")
    assert [dim.dim_value for dim in given.type.tensor_type.shape.dim] == [1, *SHAPE]
    about = read_onnx(tmp_path / "dst.onnx")
    assert about.noted("source_input") == {
        "layout": "nhwc",
        "input_range": 255,
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.3, 0.4],
    }
    assert len(about.metadata["edgeproof.source_sha256"]) == 64


@pytest.mark.parametrize(
    ("about", "convention", "match"),
    [
        ({"shape": ("n", 2, 10, 3)}, {}, r"src\.onnx takes .*, which looks like NHWC; .*src\.onnx --layout nhwc$"),
        ({"shape": ("n", 4, 5, 3)}, {}, r"images of shape \(3, 4, 5\) in the layout nchw do not fit"),
        ({"shape": ("n", 61)}, {"layout": "flat"}, r"images of shape \(3, 4, 5\) in the layout flat do not fit"),
        ({"shape": ("n", *SHAPE)}, {"layout": "flat"}, "expected 2 axes for the layout flat"),
        ({"shape": ("n", *SHAPE), "kind": TensorProto.INT32}, {}, "int32 .* expected float32, float16, float64, uint8"),
    ],
)
def test_graph_that_takes_other_images_is_refused(
    about: dict[str, Any], convention: dict[str, Any], match: str, tmp_path: Path
) -> None:
    src = linear(tmp_path / "src.onnx", **about)
    with pytest.raises((ExportError, ModelError), match=match):
        standardize_graph(src, tmp_path / "dst.onnx", input_shape=SHAPE, **convention)


def test_tensors_inside_may_have_our_names(tmp_path: Path) -> None:
    weights = np.random.default_rng(0).normal(size=(60, 7)).astype(np.float32)
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("MatMul", ["flat", "images"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["y"]),
    ]
    given, made = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", ("n", *SHAPE)), ("y", None))
    )
    graph = helper.make_graph(nodes, "g", [given], [made], [numpy_helper.from_array(weights, "images")])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "src.onnx"
    )
    standardize_graph(tmp_path / "src.onnx", tmp_path / "dst.onnx", input_shape=SHAPE)
    assert_near(run(tmp_path / "dst.onnx", images()), run(tmp_path / "src.onnx", images()))


def test_of_several_outputs_the_logits_stay(tmp_path: Path) -> None:
    src = linear(tmp_path / "src.onnx", shape=("n", *SHAPE))
    model = onnx.load(src)
    model.graph.output.append(helper.make_tensor_value_info("f", TensorProto.FLOAT, None))
    onnx.save(model, src)
    standardize_graph(src, tmp_path / "dst.onnx", input_shape=SHAPE)
    assert [value.name for value in onnx.load(tmp_path / "dst.onnx").graph.output] == ["logits"]
    assert_near(run(tmp_path / "dst.onnx", images()), run(src, images()))


def test_a_graph_of_ours_is_brought_to_our_form_again_and_gives_the_same(tmp_path: Path) -> None:
    src = linear(tmp_path / "src.onnx", shape=("n", 4, 5, 3))
    convention: dict[str, Any] = {"layout": "nhwc", "input_range": 255.0, **NORMALIZATION}
    standardize_graph(src, tmp_path / "once.onnx", **convention)
    standardize_graph(tmp_path / "once.onnx", tmp_path / "twice.onnx")
    standardize_graph(tmp_path / "twice.onnx", tmp_path / "thrice.onnx")
    expected = run(tmp_path / "once.onnx", images())
    for again in ("twice.onnx", "thrice.onnx"):
        np.testing.assert_array_equal(run(tmp_path / again, images()), expected)
        about = read_onnx(tmp_path / again)
        assert about.noted("source_input")["layout"] == "nhwc", "what the first source took is kept"


@pytest.mark.parametrize("given", [{"input_range": 255.0}, {"mean": (0.5, 0.5, 0.5)}, {"std": (0.5, 0.5, 0.5)}])
def test_a_graph_of_ours_is_not_scaled_a_second_time(given: dict[str, Any], tmp_path: Path) -> None:
    src = linear(tmp_path / "src.onnx", shape=("n", *SHAPE))
    standardize_graph(src, tmp_path / "once.onnx", **given)
    with pytest.raises(
        ExportError, match=r"takes images \(N, C, H, W\) in \[0, 1\] already; leave out --layout, --range"
    ):
        standardize_graph(tmp_path / "once.onnx", tmp_path / "twice.onnx", **given)


def test_torch_and_onnx_agree_on_what_a_convention_means(tmp_path: Path) -> None:
    import torch

    from edgeproof.models.imported import import_onnx

    convention: dict[str, Any] = {"layout": "nhwc", "input_range": 255.0, **NORMALIZATION}
    src = linear(tmp_path / "src.onnx", shape=("n", 4, 5, 3))
    standardize_graph(src, tmp_path / "dst.onnx", input_shape=SHAPE, **convention)
    x = torch.from_numpy(images())
    ours = import_onnx(src, input_shape=SHAPE, **convention)(x)
    assert_near(import_onnx(tmp_path / "dst.onnx")(x), ours)
    assert_near(run(tmp_path / "dst.onnx", images()), ours)

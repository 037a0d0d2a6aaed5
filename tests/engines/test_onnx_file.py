"""The reader of ONNX files against the onnx package, and what it refuses."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeproof.engines.onnx_file import read_onnx
from edgeproof.errors import ModelError
from tests.edge.tiny_onnx import FLOAT16, UINT8, write_linear

WEIGHTS = np.random.default_rng(0).normal(size=(48, 3)).astype(np.float32)
SHAPE = ("batch", 3, 4, 4)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_file_is_read_as_the_onnx_package_reads_it(precision: str, tmp_path: Path) -> None:
    path = write_linear(tmp_path / "m.onnx", WEIGHTS, precision=precision, shape=SHAPE, classes=("a", "b", "c"))
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    summary = read_onnx(path)
    assert sum(summary.operators.values()) == len(model.graph.node)
    assert set(summary.operators) == {node.op_type for node in model.graph.node}
    assert sum(summary.initializers.values()) == len(model.graph.initializer)
    assert [value.name for value in summary.inputs] == ["images"]
    assert summary.inputs[0].shape == SHAPE
    assert summary.metadata == {entry.key: entry.value for entry in model.metadata_props}
    assert (summary.precision, summary.classes) == (precision, ("a", "b", "c"))


def test_the_signature_is_that_of_the_graph(tmp_path: Path) -> None:
    free = read_onnx(write_linear(tmp_path / "a.onnx", WEIGHTS, shape=SHAPE)).signature(tmp_path)
    assert (free.input, free.output, free.input_shape, free.num_classes, free.batch) == (
        "images",
        "logits",
        (3, 4, 4),
        3,
        None,
    )
    fixed = read_onnx(write_linear(tmp_path / "b.onnx", WEIGHTS, shape=(8, 3, 4, 4))).signature(tmp_path)
    assert fixed.batch == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_type": UINT8}, r"takes uint8 .*bring it to that with: edgeproof export --from .*m.onnx --range 255"),
        ({"input_type": FLOAT16}, r"takes float16 .*export --from .*convert to FP16 again with float32 inputs"),
        (
            {"shape": ("n", 8, 2, 3)},
            r"looks like NHWC; expected float32 \(N, C, H, W\).*export --from .*m.onnx --layout nhwc",
        ),
        (
            {"shape": ("n", 48)},
            r"takes float32 \('n', 48\); expected float32 \(N, C, H, W\).*--layout flat --input-shape C,H,W",
        ),
        ({"shape": ("n", 3, "h", "w")}, "fix C, H and W when exporting, only N may be free"),
        ({"extra_input": True}, r"takes 2 inputs \(images, mask\); expected one"),
    ],
)
def test_a_graph_that_takes_something_else_is_explained(
    options: dict[str, object], message: str, tmp_path: Path
) -> None:
    path = write_linear(tmp_path / "m.onnx", WEIGHTS, **{"shape": SHAPE, **options})  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=message):
        read_onnx(path).signature(path)


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_a_file_that_is_cut_or_changed_is_read_or_refused_and_never_crashes(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    content = bytearray(write_linear(folder / "m.onnx", WEIGHTS[:, :1], shape=SHAPE, classes=("a",)).read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] = data.draw(st.integers(0, 255))
    (folder / "m.onnx").write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]))
    with contextlib.suppress(ModelError):
        read_onnx(folder / "m.onnx").signature(folder / "m.onnx")


@pytest.mark.parametrize("content", [b"", b"hello world", b"\x89PNG\r\n\x1a\n", bytes(100)])
def test_what_is_no_onnx_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=r"m.onnx is not a readable ONNX file \(.*\); export it again"):
        read_onnx(tmp_path / "m.onnx")

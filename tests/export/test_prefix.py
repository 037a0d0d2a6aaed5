from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeproof.export.base import ExportError
from edgeproof.export.fp16 import convert_fp16
from edgeproof.export.int8 import quantize_int8
from edgeproof.export.prefix import prepend_perturbation
from edgeproof.onnx_files import load_model
from tests.export.conftest import Toy
from tests.export.runtime import run_graph
from tests.export.toys import SHAPE, read_metadata, smooth_images

DELTA = np.random.default_rng(3).uniform(-0.1, 0.1, SHAPE).astype(np.float32)
PRECISIONS = ("fp32", "fp16", "int8-trt", "int8-cpu")


def in_precision(toy: Toy, precision: str, folder: Path) -> Path:
    path = folder / f"{precision}.onnx"
    if precision == "fp32":
        return toy.graph
    if precision == "fp16":
        convert_fp16(toy.graph, path)
    else:
        recipe = "trt" if precision.endswith("trt") else "cpu"
        quantize_int8(toy.graph, path, calibration=[smooth_images(16)], recipe=recipe)  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize("optimize", [True, False])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_logits_are_those_of_the_perturbed_images_bit_for_bit(
    toy: Toy, precision: str, optimize: bool, tmp_path: Path
) -> None:
    source = in_precision(toy, precision, tmp_path)
    prepend_perturbation(source, tmp_path / "prefixed.onnx", delta=DELTA)
    images = smooth_images(9, seed=4)
    expected = run_graph(source, np.clip(images + DELTA, 0, 1), optimize=optimize)
    np.testing.assert_array_equal(run_graph(tmp_path / "prefixed.onnx", images, optimize=optimize), expected)
    assert not np.array_equal(run_graph(source, images, optimize=optimize), expected)


def test_the_names_of_input_and_output_and_the_metadata_stay(resnet: Toy, tmp_path: Path) -> None:
    prepend_perturbation(resnet.graph, tmp_path / "prefixed.onnx", delta=DELTA)
    model = load_model(tmp_path / "prefixed.onnx")
    assert [item.name for item in (*model.graph.input, *model.graph.output)] == ["images", "logits"]
    assert len(read_metadata(model)["perturbation_sha256"]) == 64


@pytest.mark.parametrize("delta", [DELTA[:1], DELTA.astype(np.float64), np.full(SHAPE, np.nan, np.float32)])
def test_a_perturbation_that_does_not_fit_is_refused(resnet: Toy, delta: NDArray[np.float32], tmp_path: Path) -> None:
    with pytest.raises(
        ExportError, match=r"the perturbation is .*; expected finite float32 \(3, 16, 16\), as the images"
    ):
        prepend_perturbation(resnet.graph, tmp_path / "prefixed.onnx", delta=delta)


def test_a_second_prefix_is_refused(resnet: Toy, tmp_path: Path) -> None:
    prepend_perturbation(resnet.graph, tmp_path / "once.onnx", delta=DELTA)
    with pytest.raises(ExportError, match=r"once\.onnx has a perturbation in front already"):
        prepend_perturbation(tmp_path / "once.onnx", tmp_path / "twice.onnx", delta=DELTA)

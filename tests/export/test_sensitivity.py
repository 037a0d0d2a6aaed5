"""Layer by layer: what is measured of an INT8 graph is what was done to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import numpy_helper

from edgeproof.export.graph import save_graph
from edgeproof.export.int8 import RecipeName, layers, quantize_int8
from edgeproof.export.sensitivity import layer_noise
from edgeproof.onnx_files import load_model
from tests.export.conftest import Toy
from tests.export.runtime import run_graph
from tests.export.toys import smooth_images

IMAGES = smooth_images(40)


@pytest.mark.parametrize("recipe", ["trt", "cpu"])
def test_every_layer_is_measured_and_the_last_one_is_the_logits(toy: Toy, recipe: RecipeName, tmp_path: Path) -> None:
    path = tmp_path / "int8.onnx"
    quantize_int8(toy.graph, path, calibration=[IMAGES], recipe=recipe)
    found = layer_noise(toy.graph, path, [IMAGES[:7], IMAGES[7:]])
    assert [item.layer for item in found] == layers(toy.graph)
    assert all(10 < item.sqnr_db < 80 for item in found)
    expected, other = run_graph(toy.graph, IMAGES).astype(np.float64), run_graph(path, IMAGES)
    noise = np.square(expected - other).sum()
    assert found[-1].sqnr_db == pytest.approx(10 * np.log10(np.square(expected).sum() / noise), abs=1.0)


def test_the_first_layer_that_is_damaged_is_the_first_that_is_noisy(toy: Toy, tmp_path: Path) -> None:
    path = tmp_path / "int8.onnx"
    quantize_int8(toy.graph, path, calibration=[IMAGES])
    before = layer_noise(toy.graph, path, [IMAGES])
    damaged = layers(toy.graph)[1]
    model = load_model(path)
    for tensor in model.graph.initializer:
        if tensor.name == f"{damaged}_weight_scale":
            tensor.CopyFrom(numpy_helper.from_array(3 * numpy_helper.to_array(tensor), tensor.name))
    save_graph(model, path)
    after = layer_noise(toy.graph, path, [IMAGES])
    assert after[0] == before[0]
    assert after[1].sqnr_db < 0 < before[1].sqnr_db - 10

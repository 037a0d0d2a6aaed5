from __future__ import annotations

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from scipy.stats import entropy

from edgeproof.export.base import ExportError
from edgeproof.export.calibration import BINS, Histogram, Method, Range, _divergence, calibrate

METHODS: tuple[Method, ...] = ("minmax", "entropy", "percentile", "mse")


def through(gain: float = 1.0, offset: float = 0.0) -> onnx.ModelProto:
    """Return the graph images -> Mul(gain) -> scaled -> Add(offset) -> logits."""
    nodes = [helper.make_node("Mul", ["images", "g"], ["scaled"]), helper.make_node("Add", ["scaled", "o"], ["logits"])]
    ends = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["n", 1, 8, 8]) for n in ("images", "logits")]
    stored = [numpy_helper.from_array(np.array([v], np.float32), n) for n, v in (("g", gain), ("o", offset))]
    graph = helper.make_graph(nodes, "through", ends[:1], ends[1:], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def heavy_tailed(count: int = 1024) -> NDArray[np.float32]:
    """Return images whose pixels are mostly small, with a few near 1."""
    pixels = np.square(np.random.default_rng(0).exponential(size=(count, 1, 8, 8))) / 200
    return np.clip(pixels, 0, 1).astype(np.float32)


def ranges(method: Method, *, symmetric: bool, images: list[NDArray[np.float32]], offset: float = 0.0) -> Range:
    tensor = "logits" if offset else "images"
    return calibrate(through(offset=offset), [tensor], images, method=method, symmetric=symmetric)[tensor]


def test_minmax_is_the_smallest_and_the_largest_value_with_zero_in_between() -> None:
    images = heavy_tailed()
    found = calibrate(through(-2.0), ["images", "scaled"], [images], method="minmax", symmetric=False)
    assert found == {"images": Range(0.0, float(images.max())), "scaled": Range(-2 * float(images.max()), 0.0)}


def test_a_symmetric_range_is_centred_on_zero() -> None:
    largest = 3 * float(heavy_tailed().max())
    found = calibrate(through(3.0), ["scaled"], [heavy_tailed()], method="minmax", symmetric=True)["scaled"]
    assert found.high == pytest.approx(largest)
    assert found.low == -found.high


@pytest.mark.parametrize("method", METHODS)
def test_ranges_depend_neither_on_the_batch_size_nor_on_the_order(method: Method) -> None:
    images = heavy_tailed()
    whole = ranges(method, symmetric=True, images=[images])
    parts = ranges(method, symmetric=True, images=[images[50:], images[:0], images[:50]])
    assert whole == ranges(method, symmetric=True, images=[images[::-1][:7], images[::-1][7:]])
    assert parts == whole


@pytest.mark.parametrize("symmetric", [True, False])
def test_each_method_gives_another_range(symmetric: bool) -> None:
    found = {ranges(method, symmetric=symmetric, images=[heavy_tailed()]).high for method in METHODS}
    assert len(found) == len(METHODS)
    assert max(found) == float(heavy_tailed().max())


def test_the_percentile_is_numpys_to_a_bin() -> None:
    images = heavy_tailed(256)
    found = ranges("percentile", symmetric=True, images=[images]).high
    expected = np.quantile(images, 0.9999, method="inverted_cdf")
    assert expected <= found <= expected + 2 * images.max() / BINS


def rounding_error(values: NDArray[np.float32], covered: Range) -> float:
    """Return the mean squared error of eight bits over a range, computed on the values themselves."""
    symmetric = covered.low == -covered.high
    step = covered.high / 127 if symmetric else (covered.high - covered.low) / 255
    return float(np.square(np.rint(np.clip(values, covered.low, covered.high) / step) * step - values).mean())


@pytest.mark.parametrize("symmetric", [True, False])
def test_mse_finds_the_range_of_least_rounding_error(symmetric: bool) -> None:
    values = heavy_tailed(256)
    found = ranges("mse", symmetric=symmetric, images=[values])
    tried = [float(values.max()) * share for share in np.linspace(0.1, 1, 91)]
    best = min(rounding_error(values, Range(-high if symmetric else 0.0, high)) for high in tried)
    assert rounding_error(values, found) <= 1.02 * best
    assert rounding_error(values, found) < rounding_error(
        values, ranges("minmax", symmetric=symmetric, images=[values])
    )


def divergence_as_nvidia_writes_it(counts: NDArray[np.float64], kept: int, levels: int) -> float:
    """Return the divergence of one threshold, bin by bin, after pytorch-quantization's `_compute_amax_entropy`."""
    level = np.digitize(np.arange(kept), np.linspace(0, kept, levels + 1)) - 1
    density = np.zeros(kept)
    for each in range(levels):
        inside = (level == each) & (counts[:kept] > 0)
        if inside.any():
            density[inside] = counts[:kept][inside].sum() / inside.sum()
    reference = counts[:kept].copy()
    reference[-1] += counts[kept:].sum()
    return float(entropy(reference / reference.sum(), density / density.sum()))


@pytest.mark.parametrize("kept", [128, 136, 640, 1024, 1992, BINS])
@pytest.mark.parametrize("levels", [128, 256])
def test_the_divergence_is_that_of_nvidias_calibrator(kept: int, levels: int) -> None:
    counts = np.histogram(heavy_tailed(256), bins=BINS)[0].astype(np.float64)
    counts[100:110] = 0
    if kept >= levels:
        assert _divergence(counts, kept=kept, levels=levels) == pytest.approx(
            divergence_as_nvidia_writes_it(counts, kept, levels), rel=1e-9
        )


def test_entropy_clips_a_long_tail_and_keeps_a_flat_histogram() -> None:
    flat = np.linspace(0, 1, 64 * 64, dtype=np.float32).reshape(64, 1, 8, 8)
    assert ranges("entropy", symmetric=True, images=[flat]).high > 0.95
    outlier = heavy_tailed()
    outlier[0, 0, 0, 0] = 1.0
    outlier[outlier < 1] *= 0.2
    assert ranges("entropy", symmetric=True, images=[outlier]).high < 0.5


@pytest.mark.parametrize("method", METHODS)
def test_a_two_sided_range_keeps_the_short_side_whole(method: Method) -> None:
    found = ranges(method, symmetric=False, images=[heavy_tailed()], offset=-0.02)
    assert found.low == pytest.approx(-0.02, rel=1e-3)
    assert 0.1 < found.high < 1


@pytest.mark.parametrize("method", METHODS)
def test_a_tensor_that_is_always_zero_has_an_empty_range(method: Method) -> None:
    assert ranges(method, symmetric=False, images=[np.zeros((4, 1, 8, 8), np.float32)]) == Range(0.0, 0.0)


def test_a_histogram_counts_every_value_once() -> None:
    from edgeproof.export.calibration import _extremes, _histograms, open_with_outputs

    images = [heavy_tailed(5), heavy_tailed(40)]
    session = open_with_outputs(through(), ["images"])
    histogram: Histogram = _histograms(session, _extremes(session, ["images"], images), images)["images"]
    assert histogram.counts.sum() == sum(batch.size for batch in images)
    assert histogram.counts[-1] >= 1


@pytest.mark.parametrize("images", [[], [np.empty((0, 1, 8, 8), np.float32)]])
def test_no_images_are_an_error(images: list[NDArray[np.float32]]) -> None:
    with pytest.raises(ExportError, match="there are no calibration images; INT8 ranges need some"):
        ranges("minmax", symmetric=True, images=images)


def test_a_tensor_that_is_not_finite_is_named() -> None:
    with pytest.raises(ExportError, match="tensor 'scaled' is not finite on the calibration images"):
        calibrate(through(float("nan")), ["scaled"], [heavy_tailed()], method="minmax", symmetric=True)

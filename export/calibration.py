"""The range of every activation that INT8 has to cover, from images: minmax, entropy, percentile or mse.

ONNX Runtime's own entropy calibration is a no-op with its defaults (as many bins as levels), hence this one. Two passes: the
first finds each tensor's extremes, the second fills histograms over them, so that the result depends neither on the order of
the images nor on the batch size, and memory does not grow with their number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeproof.export.base import ExportError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Images = NDArray[np.float32]  # (N, C, H, W) in [0, 1]
Method = Literal["minmax", "entropy", "percentile", "mse"]

BINS = 2048  # TensorRT's number
PERCENTILE = 99.99
_LEVELS = 256  # of eight bits
_STRIDE = 8  # bins between the thresholds that entropy and mse try
_CHUNK = 16  # images whose intermediate tensors are held at a time


@dataclass(frozen=True)
class Range:
    """The real interval that eight bits are spread over; it contains 0."""

    low: float
    high: float


@dataclass(frozen=True)
class Histogram:
    """How often each magnitude occurs in a tensor.

    Attributes:
        extremes: The smallest and the largest value seen, 0 included.
        counts: (BINS,) number of values whose magnitude lies in each of the equal bins of [0, largest magnitude].
    """

    extremes: Range
    counts: NDArray[np.int64]

    @property
    def largest(self) -> float:
        """The largest magnitude."""
        return max(-self.extremes.low, self.extremes.high)


def calibrate(
    model: onnx.ModelProto, tensors: Sequence[str], images: Sequence[Images], *, method: Method, symmetric: bool
) -> dict[str, Range]:
    """Find the range of activations of an FP32 graph.

    The methods other than minmax choose a magnitude T and clip to [-T, T]: entropy by the Kullback-Leibler divergence between
    the histogram and its quantised form (as TensorRT and NVIDIA's pytorch-quantization do), percentile as the 99.99th of
    the magnitudes, mse by the squared error of clipping and rounding.

    Args:
        model: The FP32 graph.
        tensors: Names of the activations; the graph input is allowed.
        images: Batches (N, C, H, W) float32 in [0, 1].
        method: How the range follows from what was seen.
        symmetric: Whether the range is centred on 0.

    Raises:
        ExportError: When there are no images, or a tensor is not finite.
    """
    if not any(len(batch) for batch in images):
        raise ExportError("there are no calibration images; INT8 ranges need some, 256 for instance")
    names = list(dict.fromkeys(tensors))
    session = open_with_outputs(model, names)
    extremes = _extremes(session, names, images)
    if method != "minmax":
        choose = _THRESHOLDS[method]
        histograms = _histograms(session, extremes, images)
        extremes = {name: _clip(found, choose(found, symmetric)) for name, found in histograms.items()}
    return {name: _centred(found) if symmetric else found for name, found in extremes.items()}


def open_with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> InferenceSession:
    """Open the graph with the tensors among its outputs."""
    import onnxruntime

    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    visible = {item.name for item in (*model.graph.input, *model.graph.output)}
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in visible)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run_in_chunks(session: InferenceSession, images: Sequence[Images]) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield the tensors, the input among them, a few images at a time."""
    given = session.get_inputs()[0].name
    names = [output.name for output in session.get_outputs()]
    for batch in images:
        for start in range(0, len(batch), _CHUNK):
            chunk = np.ascontiguousarray(batch[start : start + _CHUNK])
            yield {given: chunk, **dict(zip(names, session.run(names, {given: chunk}), strict=True))}


def _extremes(session: InferenceSession, names: Sequence[str], images: Sequence[Images]) -> dict[str, Range]:
    low, high = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    for values in run_in_chunks(session, images):
        for name in names:
            least, most = float(values[name].min()), float(values[name].max())
            if not np.isfinite(least + most):
                raise ExportError(f"tensor {name!r} is not finite on the calibration images; check the model's weights")
            low[name], high[name] = min(low[name], least), max(high[name], most)
    return {name: Range(low[name], high[name]) for name in names}


def _histograms(
    session: InferenceSession, extremes: Mapping[str, Range], images: Sequence[Images]
) -> dict[str, Histogram]:
    found = {name: Histogram(seen, np.zeros(BINS, np.int64)) for name, seen in extremes.items()}
    for values in run_in_chunks(session, images):
        for name, histogram in found.items():
            if histogram.largest > 0:
                bins = np.abs(values[name]).ravel() * (BINS / histogram.largest)
                # The largest magnitude itself belongs to the last bin, and so does what a rounding puts beyond it.
                histogram.counts[:] += np.bincount(np.minimum(bins.astype(np.int64), BINS - 1), minlength=BINS)
    return found


def _centred(seen: Range) -> Range:
    largest = max(-seen.low, seen.high)
    return Range(-largest, largest)


def _clip(histogram: Histogram, threshold: float) -> Range:
    seen = histogram.extremes
    return Range(max(seen.low, -threshold), min(seen.high, threshold))


def _levels(histogram: Histogram, threshold: float, symmetric: bool) -> float:
    """Return how many of the 256 levels fall to the magnitudes up to a threshold: all when one-sided, half when centred."""
    interval = Range(-threshold, threshold) if symmetric else _clip(histogram, threshold)
    return _LEVELS * threshold / (interval.high - interval.low)


def _percentile(histogram: Histogram, symmetric: bool) -> float:
    """Return the magnitude below which 99.99 % of the values lie, to the bin."""
    share = np.cumsum(histogram.counts) / max(int(histogram.counts.sum()), 1)
    return histogram.largest * (int(np.searchsorted(share, PERCENTILE / 100)) + 1) / BINS


def _mse(histogram: Histogram, symmetric: bool) -> float:
    """Return the threshold with the least squared error of clipping and rounding, over the histogram's bins."""
    magnitudes = (np.arange(BINS) + 0.5) * (histogram.largest / BINS)

    def error(kept: int) -> float:
        threshold = histogram.largest * kept / BINS
        step = threshold / _levels(histogram, threshold, symmetric)
        rounded = np.rint(np.minimum(magnitudes, threshold) / step) * step
        return float(histogram.counts @ (magnitudes - rounded) ** 2)

    return _best(histogram, error)


def _entropy(histogram: Histogram, symmetric: bool) -> float:
    """Return the threshold with the least divergence between the clipped histogram and its quantised form."""
    counts = histogram.counts.astype(np.float64)
    counts[0] = counts[1]  # as NVIDIA does: the exact zeros behind a ReLU lose nothing and would outweigh all else

    def divergence(kept: int) -> float:
        levels = max(round(_levels(histogram, histogram.largest * kept / BINS, symmetric)), 1)
        return _divergence(counts, kept=kept, levels=levels)

    return _best(histogram, divergence)


def _divergence(counts: NDArray[np.float64], *, kept: int, levels: int) -> float:
    """Return KL(P || Q): P is the histogram with the tail in its last kept bin, Q spreads each level over its non-empty bins."""
    inside = counts[:kept]
    level = np.arange(kept) * levels // kept
    mass = np.bincount(level, weights=inside, minlength=levels)
    filled = np.bincount(level, weights=inside > 0, minlength=levels)
    quantised = np.where(inside > 0, (mass / np.maximum(filled, 1))[level], 0.0)
    clipped = inside.copy()
    clipped[-1] += counts[kept:].sum()
    if quantised.sum() == 0 or (clipped[-1] > 0 and quantised[-1] == 0):
        return float("inf")
    p, q = clipped / clipped.sum(), quantised / quantised.sum()
    seen = p > 0
    return float((p[seen] * np.log(p[seen] / q[seen])).sum())


def _best(histogram: Histogram, cost: Callable[[int], float]) -> float:
    """Return the threshold of least cost among those that keep at least half a level a bin; of equals the largest."""
    if histogram.largest == 0:
        return 0.0
    candidates = range(BINS, _LEVELS // 2 - 1, -_STRIDE)
    return histogram.largest * min(candidates, key=cost) / BINS


_THRESHOLDS: Mapping[str, Callable[[Histogram, bool], float]] = {
    "entropy": _entropy,
    "percentile": _percentile,
    "mse": _mse,
}

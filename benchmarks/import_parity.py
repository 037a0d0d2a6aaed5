"""How faithful the differentiable imports of ONNX graphs are: their classes against ONNX Runtime, their gradients against the checkpoint.

    python benchmarks/import_parity.py --graphs runs/graphs --limit 10000 --gradients 1000 --results benchmarks/results

The graphs are those of an export run. What must hold, and is judged:
    FP32        every class as ONNX Runtime's, but for near-ties (two logits closer than float32 tells apart after many layers)
    FP16, INT8  no more other classes than ONNX Runtime has against itself with its graph optimisation switched off, plus 0.2 %
    gradients   of the cross-entropy. A graph exported without folding, in float64: within 1e-9 of the checkpoint's, relative to the
                largest of the image. The deployed FP32 graph, in float32: median relative error <= 1e-5, 99 % of the images with a
                cosine > 0.9999 (the rest have a ReLU at its kink)
Results of several models are collected in one file. Exit status 1 when something does not hold.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgeproof.attacks.losses import cross_entropy
from edgeproof.config import DataConfig
from edgeproof.data.base import LabelledImages, load_part
from edgeproof.data.origin import data_of
from edgeproof.engines.base import EngineOptions, open_engine, predict_all
from edgeproof.evaluation.metrics import predictions
from edgeproof.evaluation.parity import margins, max_abs_diff
from edgeproof.models.base import Classifier, load_classifier
from edgeproof.models.imported import ImportedClassifier, import_onnx
from edgeproof.runs import Run, sha256_file, write_json, write_text
from edgeproof.source_model.gradients import value_and_grad
from edgeproof.types import Array, Logits

NEAR_TIE = 1e-4  # margin of the two largest logits as a share of the largest |logit|
EXTRA = 0.002
EXACT, MEDIAN, COSINE, ALIKE = 1e-9, 1e-5, 0.9999, 0.99
_BATCH = 100


def main() -> None:
    """Measure the graphs of one export run and add them to the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graphs", type=Path, required=True, help="export run")
    parser.add_argument("--data", help="data set (default: the one that the network was trained on)")
    parser.add_argument("--limit", type=int, default=1000, help="test images, stratified")
    parser.add_argument("--gradients", type=int, default=1000, help="of these, images whose gradients are compared")
    parser.add_argument("--name", help="what the network is called in the results (default: its own name)")
    parser.add_argument("--results", type=Path, help="folder of import-parity.json and .md")
    options = parser.parse_args()
    run = Run.open(options.graphs, kind="export")
    trained = Run.open(run.config["model"], kind="train")
    config = DataConfig(name=options.data) if options.data else data_of(trained)
    data = load_part(config, "test").head(options.limit)
    files = sorted(run.file(name) for name in run.outputs() if name.endswith(".onnx"))
    network = load_classifier(trained.file("model.safetensors"))
    graphs = {file.name: compare_classes(file, data) for file in files}
    gradients = compare_gradients(network, run.file("model.fp32.onnx"), data.head(options.gradients))
    passed = gradients["passed"] and all(graph["passed"] for graph in graphs.values())
    record = {"data": data.name, "images": len(data), "graphs": graphs, "gradients": gradients, "passed": passed}
    found = {options.name or network.name: record}
    if options.results:
        file = options.results / "import-parity.json"
        known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        found = {**known, **found}
        write_json(file, found)
        write_text(options.results / "import-parity.md", markdown(found))
    print(markdown(found), end="")
    sys.exit(0 if passed else 1)


def compare_classes(file: Path, data: LabelledImages) -> dict[str, Any]:
    """Compare the classes of an import, of ONNX Runtime and of ONNX Runtime without optimisation."""
    print(f"{file.name} on {len(data)} images", file=sys.stderr, flush=True)
    twin = import_onnx(file)
    with torch.no_grad():
        parts = [twin.outputs(part) for part in torch.split(torch.from_numpy(data.images), _BATCH)]
    ours: Logits = torch.cat(parts).numpy()
    real, precision = engine_logits(file, data, optimize=True)
    plain, _ = engine_logits(file, data, optimize=False)
    different = predictions(ours) != predictions(real)
    ties = margins(real) <= NEAR_TIE * float(np.abs(real).max())
    own = int((predictions(plain) != predictions(real)).sum())
    allowed = 0 if precision == "fp32" else own + math.ceil(EXTRA * len(data))
    counted = int((different & ~ties).sum()) if precision == "fp32" else int(different.sum())
    return {
        "precision": precision,
        "sha256": sha256_file(file),
        "other_class": int(different.sum()),
        "of_these_near_ties": int((different & ties).sum()),
        "other_class_unoptimised": int((predictions(ours) != predictions(plain)).sum()),
        "engine_against_itself": own,
        "allowed": allowed,
        "max_abs_diff": max_abs_diff(real, ours),
        "passed": counted <= allowed,
    }


def engine_logits(file: Path, data: LabelledImages, *, optimize: bool) -> tuple[Logits, str]:
    """Return ONNX Runtime's logits and the precision of the graph."""
    with open_engine(
        file, backend="onnxruntime", options=EngineOptions(optimize=optimize, threads=torch.get_num_threads())
    ) as engine:
        return predict_all(engine, data.images, batch_size=_BATCH), engine.info.precision


def compare_gradients(network: Classifier, deployed: Path, data: LabelledImages) -> dict[str, Any]:
    """Compare input gradients of imports with those of the checkpoint: unfolded in float64, as deployed in float32."""
    print(f"gradients of {len(data)} images", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        unfolded = import_onnx(export_unfolded(network, Path(folder) / "unfolded.onnx"))
        exact = errors(input_gradients(network.double(), data), input_gradients(unfolded.double(), data))
    network.float()
    rounded = errors(input_gradients(network, data), input_gradients(import_onnx(deployed), data))
    alike = float((rounded["cosine"] > COSINE).mean())
    return {
        "images": len(data),
        "float64_unfolded_largest_error": float(exact["largest"].max()),
        "float32_median_relative_error": float(np.median(rounded["relative"])),
        "float32_share_of_cosines_above_0.9999": alike,
        "float32_smallest_cosine": float(rounded["cosine"].min()),
        "passed": bool(exact["largest"].max() <= EXACT and np.median(rounded["relative"]) <= MEDIAN and alike >= ALIKE),
    }


def export_unfolded(network: Classifier, path: Path) -> Path:
    """Write a graph whose batch norms are not folded into convolutions, so that both sides compute the same sums."""
    shape = network.input_shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (torch.zeros(2, *shape),),
            str(path),
            input_names=["images"],
            output_names=["logits"],
            dynamic_axes={"images": {0: "batch"}},
            opset_version=17,
            dynamo=False,
            do_constant_folding=False,
            training=torch.onnx.TrainingMode.PRESERVE,
        )
    return path


def input_gradients(model: Classifier | ImportedClassifier, data: LabelledImages) -> Array:
    """Return the gradient of each image's cross-entropy, (N, C * H * W) float64, in the type of the model."""
    kind = next(iter(model.buffers())).dtype
    images, labels = torch.from_numpy(data.images).to(kind), torch.from_numpy(data.labels)
    parts = zip(torch.split(images, _BATCH), torch.split(labels, _BATCH), strict=True)
    found = [value_and_grad(model, x, y, loss=cross_entropy).grad.double().flatten(1) for x, y in parts]
    flat: Array = torch.cat(found).numpy()
    return flat


def errors(expected: Array, found: Array) -> dict[str, Array]:
    """Return (N,) each: the largest |error| over the largest |gradient|, the relative error in L2, and the cosine.

    Where both gradients are exactly zero the errors are 0 and the cosine is 1.
    """
    size, tiny = np.linalg.norm(expected, axis=1), np.finfo(np.float64).tiny
    same = (found == expected).all(1)
    cosine = (found * expected).sum(1) / np.maximum(size * np.linalg.norm(found, axis=1), tiny)
    return {
        "largest": np.abs(found - expected).max(1) / np.maximum(np.abs(expected).max(1), tiny),
        "relative": np.linalg.norm(found - expected, axis=1) / np.maximum(size, tiny),
        "cosine": np.where(same, 1.0, cosine),
    }


def markdown(found: dict[str, Any]) -> str:
    """Return two tables: classes by graph, and gradients by network."""
    rows = [
        ["network", "graph", "images", "other class than ORT", "near-ties", "ORT against itself", "allowed", "holds"]
    ]
    for name, record in found.items():
        for file, graph in record["graphs"].items():
            keys = ("other_class", "of_these_near_ties", "engine_against_itself", "allowed")
            counts = [str(graph[key]) for key in keys]
            rows.append([name, file, f"{record['images']:,}", *counts, "yes" if graph["passed"] else "no"])
    steep = [
        ["network", "images", "float64, unfolded: largest error", "float32: median error", "cosine > 0.9999", "holds"]
    ]
    for name, record in found.items():
        each = record["gradients"]
        numbers = [each["float64_unfolded_largest_error"], each["float32_median_relative_error"]]
        share = f"{each['float32_share_of_cosines_above_0.9999']:.1%}"
        verdict = "yes" if each["passed"] else "no"
        steep.append([name, f"{each['images']:,}", *(f"{number:.1e}" for number in numbers), share, verdict])
    return f"{_table(rows)}\n{_table(steep)}"


def _table(rows: list[list[str]]) -> str:
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


if __name__ == "__main__":
    main()

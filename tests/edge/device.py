"""The device's part, without torch: evaluate the desk's bundle, time it, report, and compare with the desk.

    python -m tests.edge.device FOLDER     where FOLDER is what tests.edge.desk has written

The same ONNX Runtime on the same processor has to give the desk's bytes. Another version or processor may order its sums
otherwise: see TOLERANCE.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from tests.edge.desk import command

#: Largest difference that another version of ONNX Runtime or another processor may give, as a share of the largest logit.
#: On an Intel Xeon with AVX512-VNNI, 1.23.2 and 1.31.1 give equal bytes in all three precisions; elsewhere a version may sum
#: in another order, which tips INT8 steps.
TOLERANCE = {"fp32": 1e-5, "fp16": 1e-5, "int8": 0.05}
FLIPS = 0.02  # share of images whose class INT8 may change then


def main(folder: Path) -> None:
    """Do what a device does, with the four commands, and compare."""
    if importlib.util.find_spec("torch"):
        raise SystemExit("torch is installed here; this is the part that needs none")
    with tempfile.TemporaryDirectory() as place:
        device = Path(place)
        shutil.copy(folder / "edge.zip", device / "edge.zip")  # nothing else of the desk's is there
        there = Path(command(device, "eval", "--bundle", str(device / "edge.zip"), "--no-throughput"))
        graphs = next((device / "runs").glob("bundle-*/graphs"))
        timed = Path(command(device, "bench", "engines", "--engine", str(graphs), "--rounds", "3", "--batch-size", "8"))
        compare(folder / "runs" / "desk", there)
        command(device, "report", str(there))
        found = json.loads(command(device, "diff", str(folder / "runs" / "desk"), str(there), "--json"))
        assert found["paired"], "the device has other images than the desk"
        assert not any(change["p_holm"] < 0.05 for change in found["overall"]), "the device differs significantly"
        timed_engines = {case["name"] for case in json.loads((timed / "bench.json").read_text())["cases"]}
        assert timed_engines == {change["engine"] for change in found["overall"]}


def compare(desk: Path, device: Path) -> None:
    """Hold the device's logits and results to the desk's."""
    ours, theirs = (json.loads((run / "results.json").read_text()) for run in (desk, device))
    same = ours["environment"]["processor"] == theirs["environment"]["processor"] and (
        version("onnxruntime") == ours["engines"][0]["versions"]["onnxruntime"]
    )
    precisions = {engine["name"]: engine["precision"] for engine in ours["engines"]}
    for file in sorted((desk / "logits").glob("*.npy")):
        one, other = np.load(file), np.load(device / "logits" / file.name)
        worst = float(np.abs(one - other).max() / np.abs(one).max())
        flips = int((one.argmax(1) != other.argmax(1)).sum())
        precision = precisions[file.name.split("--")[0]]
        print(f"{file.stem}: logits differ by {worst:.3g} of the largest, {flips} of {len(one)} classes differ")
        assert worst <= (0 if same else TOLERANCE[precision]), file.name
        assert flips <= (FLIPS * len(one) if precision == "int8" and not same else 0), file.name
    if same:
        assert _results(ours) == _results(theirs), "equal logits gave other results"
        assert (desk / "samples.npz").read_bytes() == (device / "samples.npz").read_bytes()
    print(f"{'equal to' if same else 'within tolerance of'} the desk's, ONNX Runtime {version('onnxruntime')}")


def _results(results: dict[str, Any]) -> dict[str, Any]:
    """Return what logits decide: the machine and the paths of its files are the device's own."""
    return {key: results[key] for key in ("classes", "data", "sets", "cells", "pairs", "gates")}


if __name__ == "__main__":
    main(Path(sys.argv[1]))

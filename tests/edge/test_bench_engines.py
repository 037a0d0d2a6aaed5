"""bench engines: who is timed, what is recorded; without torch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgeproof.config import BenchConfig
from edgeproof.errors import ConfigError, DataError
from edgeproof.evaluation.bench import BenchReport
from edgeproof.evaluation.bench_engines import bench_engines
from edgeproof.runs import Run
from tests.edge.tiny_onnx import write_linear

pytest.importorskip("onnxruntime")


def bench(out: Path, **options: object) -> BenchReport:
    config = BenchConfig.model_validate({"rounds": 5, "threads": 1, "memory": False, **options})
    with Run.start("bench", "engines", config=config.model_dump(mode="json"), out=out) as run:
        report = bench_engines(config, run)
        run.finish()
    return report


def test_every_engine_is_timed_at_every_batch_size(graphs: Path, tmp_path: Path) -> None:
    report = bench(tmp_path / "bench", engines=[str(graphs)], batch_sizes=[1, 4])
    assert [(case.group, case.name) for case in report.cases] == [
        (group, name) for group in ("batch 1", "batch 4") for name in ("ort-fp32", "ort-fp16", "ort-int8-trt")
    ]
    for case in report.cases:
        assert len(case.seconds) == 5
        assert case.items == int(case.group.split()[1])
        assert case.quality["latency_p50_ms"] == pytest.approx(1000 * np.median(case.seconds))
        assert case.quality["latency_p50_ms"] <= case.quality["latency_p90_ms"] <= case.quality["latency_p99_ms"]
        assert 0 <= case.quality["agreement"] <= 1
    assert report.cases[0].ratio == 1.0
    assert report.cases[0].quality["agreement"] == 1.0


def test_what_ran_is_recorded(graphs: Path, tmp_path: Path) -> None:
    bench(tmp_path / "bench", engines=[str(graphs)], batch_sizes=[2])
    written = json.loads((tmp_path / "bench" / "bench.json").read_text())
    settings = written["settings"]
    assert (settings["rounds"], settings["warm_up"], settings["mode"], settings["ort-fp16.threads"]) == (
        5,
        3,
        "latency",
        1,
    )
    assert settings["ort-int8-trt.precision"] == "int8"
    assert settings["ort-fp32.provider"] == "CPUExecutionProvider"
    assert BenchReport.model_validate(written).kind == "engines"


def test_peak_memory_is_that_of_a_process_of_its_own(graphs: Path, tmp_path: Path) -> None:
    report = bench(tmp_path / "bench", engines=[str(graphs / "model.fp32.onnx")], batch_sizes=[1], memory=True)
    assert 2**20 < report.cases[0].quality["peak_memory_bytes"] < 2**32


def test_an_engine_with_a_smaller_batch_is_left_out_of_larger_ones(tmp_path: Path) -> None:
    fixed = write_linear(tmp_path / "fixed.onnx", np.ones((16, 3), np.float32), shape=(2, 1, 4, 4))
    free = write_linear(tmp_path / "free.onnx", np.ones((16, 3), np.float32))
    report = bench(tmp_path / "bench", engines=[str(fixed), str(free)], batch_sizes=[2, 4])
    assert [(case.group, case.name) for case in report.cases] == [
        ("batch 2", "ort-fixed"), ("batch 2", "ort-free"), ("batch 4", "ort-free"),
    ]  # fmt: skip
    assert report.cases[-1].ratio is None


def test_nothing_to_time_and_odd_batch_sizes_are_refused(graphs: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no engine to time"):
        bench(tmp_path / "a")
    for sizes in ([], [0, 4]):
        with pytest.raises(ConfigError, match="cannot be timed; expected numbers from 1 on"):
            bench(tmp_path / f"b{len(sizes)}", engines=[str(graphs)], batch_sizes=sizes)
    wide = write_linear(tmp_path / "wide.onnx", np.ones((25, 3), np.float32), shape=("n", 1, 5, 5))
    with pytest.raises(DataError, match="take images of different shapes"):
        bench(tmp_path / "c", engines=[str(graphs), str(wide)])

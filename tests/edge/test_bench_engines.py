"""bench engines: who is timed, what is recorded; without torch."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest

from edgeproof.config import BenchConfig
from edgeproof.engines import onnxrt
from edgeproof.errors import ConfigError, DataError, ModelError
from edgeproof.evaluation.bench import BenchReport
from edgeproof.evaluation.bench_engines import bench_engines
from edgeproof.reports.bench_text import print_bench
from edgeproof.runs import Run
from edgeproof.types import Images, Logits
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


@pytest.mark.slow
def test_peak_memory_is_the_childs_own_and_not_what_its_parent_has_held(tmp_path: Path) -> None:
    held = np.ones(2**26, np.float32)  # written, so that it is in memory: ru_maxrss of a child would begin with it
    wide = np.zeros((3 * 256 * 256, 2), np.float32)
    small = write_linear(tmp_path / "small.onnx", wide, shape=("n", 3, 256, 256))
    report = bench(tmp_path / "bench", engines=[str(small)], batch_sizes=[64, 1], rounds=3, memory=True)
    large, one = (case.quality["peak_memory_bytes"] for case in report.cases)
    assert 2**24 < one < held.nbytes
    assert one + 0.8 * (64 * 3 * 256 * 256 * 4) < large < held.nbytes  # each batch size has its own peak


def test_an_engine_with_a_smaller_batch_is_left_out_of_larger_ones(tmp_path: Path) -> None:
    fixed = write_linear(tmp_path / "fixed.onnx", np.ones((16, 3), np.float32), shape=(2, 1, 4, 4))
    free = write_linear(tmp_path / "free.onnx", np.ones((16, 3), np.float32))
    report = bench(tmp_path / "bench", engines=[str(fixed), str(free)], batch_sizes=[2, 4])
    assert [(case.group, case.name) for case in report.cases] == [
        ("batch 2", "ort-fixed"), ("batch 2", "ort-free"), ("batch 4", "ort-free"),
    ]  # fmt: skip
    assert report.cases[-1].ratio is None
    assert [(each.group, each.name, each.reason) for each in report.left_out] == [
        ("batch 4", "ort-fixed", "takes at most 2 images per call")
    ]
    shown = io.StringIO()
    print_bench(report, file=shown)
    rows = [line for line in shown.getvalue().splitlines() if "ort-f" in line]
    assert ["not timed" in row for row in rows] == [False, False, False, True]
    assert "ort-fixed" in rows[3]


def test_an_engine_that_fails_at_a_batch_size_is_named_and_the_others_are_timed(
    graphs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict = onnxrt.OnnxRuntimeEngine.predict

    def fails(self: onnxrt.OnnxRuntimeEngine, images: Images) -> Logits:
        if self.info.precision == "int8" and len(images) > 1:
            raise ModelError("the runtime gave up")
        return predict(self, images)

    monkeypatch.setattr(onnxrt.OnnxRuntimeEngine, "predict", fails)
    report = bench(tmp_path / "bench", engines=[str(graphs)], batch_sizes=[1, 4])
    assert [case.name for case in report.cases if case.group == "batch 4"] == ["ort-fp32", "ort-fp16"]
    assert [(each.group, each.name) for each in report.left_out] == [("batch 4", "ort-int8-trt")]
    with pytest.raises(ModelError, match="no engine could be timed: ort-int8-trt on batch 4: the runtime gave up"):
        bench(tmp_path / "alone", engines=[str(graphs / "model.int8-trt.onnx")], batch_sizes=[4])


def test_nothing_to_time_and_odd_batch_sizes_are_refused(graphs: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no engine to time"):
        bench(tmp_path / "a")
    for sizes in ([], [0, 4]):
        with pytest.raises(ConfigError, match="cannot be timed; expected numbers from 1 on"):
            bench(tmp_path / f"b{len(sizes)}", engines=[str(graphs)], batch_sizes=sizes)
    wide = write_linear(tmp_path / "wide.onnx", np.ones((25, 3), np.float32), shape=("n", 1, 5, 5))
    with pytest.raises(DataError, match="take images of different shapes"):
        bench(tmp_path / "c", engines=[str(graphs), str(wide)])

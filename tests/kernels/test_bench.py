"""The benchmark without a GPU: that it says so, that each side gives torch's answer, and what the report holds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from edgeproof.evaluation.bench import BenchReport
from edgeproof.kernels import bench, bench_sides
from edgeproof.kernels.bench_sides import PIXELS, Side
from tests.kernels.host import HostDriver
from tests.kernels.on_device import OnDevice


def test_without_a_gpu_it_measures_nothing_and_says_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as exit_status:
        bench.main([])
    assert exit_status.value.code == 3
    assert capsys.readouterr().err == "nothing measured: torch finds no CUDA device\n"


@pytest.fixture
def on_this_processor(driver: HostDriver, monkeypatch: pytest.MonkeyPatch) -> HostDriver:
    """Make the benchmark's arrays here, and launch on the host build."""

    def random_images(images: int, count: int, dtype: str = "float32", *, more: int = 0) -> list[Any]:
        values = torch.rand(count, images, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        return [each.to(getattr(torch, dtype)).clone().as_subclass(OnDevice) for each in values]  # type: ignore[arg-type]

    monkeypatch.setattr(bench_sides, "random_images", random_images)
    monkeypatch.setattr(bench_sides.importlib.util, "find_spec", lambda name: None)
    driver.launches.clear()
    return driver


@pytest.mark.parametrize(
    "name, sides", list(bench_sides.groups(2, None)), ids=lambda value: value if isinstance(value, str) else ""
)
def test_each_side_gives_torchs_answer_before_it_is_timed(on_this_processor: Any, name: str, sides: Any) -> None:
    made = sides()
    assert [side.name for side in made] == ["copy", "kernel", "torch"]
    kernel, scalar = name.split()
    assert [launch.kernel for launch in on_this_processor.launches] == [f"{kernel}_{scalar}"]
    assert all(side.bytes >= 2 * PIXELS for side in made)
    for side in made:
        side.run()


def test_both_ways_take_the_same_step_of_pgd(on_this_processor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_sides, "PGD_BATCH", 2)
    results = []
    for index in (0, 1):
        torch.manual_seed(0)
        steps = bench_sides.pgd_sides(None)
        steps[index].run()
        results.append(steps[index].run.__closure__)
    images = [
        next(cell.cell_contents for cell in closure if isinstance(cell.cell_contents, torch.Tensor))
        for closure in results
    ]
    torch.testing.assert_close(images[0], images[1], rtol=0, atol=0)


def test_a_kernel_that_differs_from_torch_is_not_timed() -> None:
    with pytest.raises(RuntimeError, match=r"differ by 0\.5, more than 0: nothing is timed"):
        bench_sides.check(torch.tensor([0.5]), torch.tensor([1.0]), tolerance=0.0)
    with pytest.raises(RuntimeError, match="differ by nan"):
        bench_sides.check(torch.tensor([float("nan")]), torch.tensor([1.0]), tolerance=0.0)


def test_sides_take_turns_and_the_report_is_the_toolkits(monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[str] = []
    seconds = {"copy": 2e-3, "kernel": 4e-3}

    def device_seconds(run: Any) -> float:
        run()
        return seconds[turns[-1]] * 10

    monkeypatch.setattr(bench, "captured", lambda run: run)
    monkeypatch.setattr(bench, "device_seconds", device_seconds)
    sides = [
        Side(name, lambda name=name: turns.append(name), size) for name, size in (("copy", 8000), ("kernel", 16_000))
    ]
    cases = bench.compare("g", sides, 1000, rounds=3)
    assert turns == (["copy"] * 10 + ["kernel"] * 10) * 5
    report = {"schema_version": 1, "kind": "kernels", "settings": {"rounds": 3}, "cases": cases, "environment": {}}
    copy, kernel = BenchReport.model_validate(report).cases
    assert (copy.ratio, kernel.ratio, kernel.rate, len(kernel.seconds)) == (1.0, 0.5, 250_000.0, 3)
    assert kernel.quality == {"gb_per_s": pytest.approx(0.004), "share_of_copy": 1.0}


def test_an_attack_is_timed_step_by_step_and_as_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "captured", lambda run: run)
    monkeypatch.setattr(bench, "device_seconds", lambda run: 0.5)
    steps = [Side(name, lambda: None) for name in ("torch", "kernel")]
    cases = bench.compare_pgd(steps, rounds=1)
    assert [case["name"] for case in cases] == ["torch", "kernel", "torch, graph", "kernel, graph"]
    assert cases[0]["rate"] == bench.PGD_BATCH / 0.5


def test_percentiles_are_numpys() -> None:
    values = sorted(np.random.default_rng(0).random(17).tolist())
    for share in (0.0, 0.05, 0.5, 0.95, 1.0):
        assert bench.percentile(values, share) == pytest.approx(np.percentile(values, 100 * share))

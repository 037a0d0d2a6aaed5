from __future__ import annotations

import logging
from itertools import count
from pathlib import Path

import pytest

from edgeproof.evaluation import bench
from edgeproof.evaluation.bench import (
    BenchReport,
    bench_report,
    compare_sides,
    take_turns,
    take_turns_twice,
    watch_other_programs,
)


def test_sides_take_turns_and_the_warm_up_is_not_kept() -> None:
    order: list[str] = []
    ticks = count()
    samples = take_turns(
        {"a": lambda: order.append("a"), "b": lambda: order.append("b")},
        rounds=2,
        warm_up=1,
        clock=lambda: float(next(ticks)),
    )
    assert order == ["a", "b"] * 3
    assert samples == {"a": [1, 1], "b": [1, 1]}


def test_a_ratio_is_the_median_over_rounds_of_seconds_an_item() -> None:
    samples = {"slow": [4.0, 8.0, 6.0], "fast": [1.0, 1.0, 2.0]}
    slow, fast = compare_sides(
        "x", samples, items={"slow": 10, "fast": 20}, quality={"fast": {"success": 0.9}}, baseline="slow"
    )
    assert slow.ratio == 1
    assert fast.ratio == pytest.approx(8)  # 8, 16 and 6 in the three rounds
    assert (fast.rate, slow.rate) == (20, 10 / 6)
    assert fast.quality == {"success": 0.9}
    assert fast.seconds == (1, 1, 2)


def test_a_report_survives_its_own_json() -> None:
    cases = compare_sides("x", {"a": [1.0]}, items={"a": 3}, quality={}, baseline=None)
    report = bench_report("attacks", settings={"eps": 0.1}, cases=cases)
    assert BenchReport.model_validate_json(report.model_dump_json()) == report
    assert report.cases[0].ratio is None


def test_what_follows_a_side_counts_in_the_second_sample_only() -> None:
    now = 0.0
    seen: list[tuple[str, int]] = []

    def work(seconds: float, made: int) -> int:
        nonlocal now
        now += seconds
        return made

    def then(name: str, made: int) -> None:
        nonlocal now
        now += 10.0
        seen.append((name, made))

    sides = {"a": lambda: work(1.0, 7), "b": lambda: work(2.0, 8)}
    alone, both = take_turns_twice(sides, then, rounds=2, clock=lambda: now)
    assert alone == {"a": [1.0, 1.0], "b": [2.0, 2.0]}
    assert both == {"a": [11.0, 11.0], "b": [12.0, 12.0]}
    assert seen == [("a", 7), ("b", 8)] * 3  # a warm-up and two rounds


class Machine:
    """/proc/stat of two processors and the clocks of this process, in seconds, as a test sets them."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stat, self.wall, self.own = folder / "stat", 0.0, 0.0
        self.use(busy=0.0, idle=0.0)
        monkeypatch.setattr(bench, "_PROC_STAT", self.stat)
        monkeypatch.setattr(bench.time, "perf_counter", lambda: self.wall)
        monkeypatch.setattr(bench.time, "process_time", lambda: self.own)

    def use(self, *, busy: float, idle: float) -> None:
        # user nice system idle iowait irq softirq steal guest guest_nice, in hundredths
        fields = [busy * 40, busy * 10, busy * 20, idle * 100, 500, busy * 10, busy * 10, busy * 10, 900, 900]
        all_ = " ".join(str(round(each)) for each in fields)
        self.stat.write_text(f"cpu  {all_}\ncpu0 {all_}\ncpu1 {all_}\nintr 5\n", encoding="ascii")


@pytest.mark.parametrize(("busy", "own", "share"), [(8.0, 8.0, 0.0), (12.0, 4.0, 0.4), (10.0, 8.2, 0.09)])
def test_a_busy_machine_is_noticed_by_the_processor_time_that_is_not_ours(
    busy: float,
    own: float,
    share: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    machine = Machine(tmp_path, monkeypatch)
    with caplog.at_level(logging.WARNING), watch_other_programs() as found:
        machine.use(busy=busy, idle=20 - busy)
        machine.wall, machine.own = 10.0, own
    assert found == {"other_programs_share": pytest.approx(share)}
    said = [record.message for record in caplog.records]
    assert len(said) == (share > 0.1)
    assert all("other programs used 40% of the processors" in line for line in said)


def test_a_system_that_does_not_say_who_uses_its_processors_gives_no_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "_PROC_STAT", tmp_path / "missing")
    with watch_other_programs() as found:
        pass
    assert found == {}


def test_a_report_from_before_rows_were_left_out_is_read() -> None:
    report = bench_report("engines", settings={}, cases=[])
    old = report.model_dump(mode="json", exclude={"left_out"})
    assert BenchReport.model_validate(old).left_out == ()

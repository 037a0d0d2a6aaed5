from __future__ import annotations

from itertools import count

import pytest

from edgeproof.evaluation.bench import BenchReport, bench_report, compare_sides, take_turns, take_turns_twice


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

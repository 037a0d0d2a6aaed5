"""Damaged files give one line of ours, in little time and memory; the long version is `make fuzz`."""

from __future__ import annotations

import importlib.util
import multiprocessing
import signal
import time
from ctypes import c_longlong
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeproof.errors import DataError
from tests.fuzzing import running
from tests.fuzzing.readers import READERS
from tests.fuzzing.running import Find, Reader, check, hunt, make_input, whole_files

_SLOW = {"results", "results-diff", "samples", "bundle", "parquet"}


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_damaged_files_are_refused_in_one_line(reader: Reader, tmp_path: Path) -> None:
    for package in reader.needs:
        pytest.importorskip(package)
    seeds = whole_files(reader, tmp_path)
    examples = 40 if reader.name in _SLOW else 200

    @settings(
        max_examples=examples, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(number=st.integers(0, 10**6))
    def read(number: int) -> None:
        find = check(reader, make_input(reader, seeds, number), tmp_path, number=number)
        assert find is None

    read()


@pytest.mark.slow
def test_damaged_models_are_refused_in_one_line() -> None:
    if importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed")
    from tests.fuzzing.torch_readers import TORCH_READERS

    for reader in TORCH_READERS:
        finds, _ = hunt(reader, inputs=200)
        assert finds == []


def test_a_child_that_stands_still_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    context = multiprocessing.get_context("spawn")
    for reached, limit in ((running._NOT_BEGUN, "_BEGINNING"), (4711, "_STALLED")):
        monkeypatch.setattr(running, limit, 0.1)
        child = context.Process(target=time.sleep, args=(600,))
        child.start()
        assert running._watch(child, c_longlong(reached)) == -signal.SIGKILL


def test_of_children_that_die_three_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers: list[int] = []

    def die(reader: Reader, place: Path, number: int, last: int, finds: list[Find]) -> int:
        numbers.append(number)
        finds.append(Find("x", number, "no progress", "the process"))
        return number + 1

    monkeypatch.setattr(running, "_in_child", die)
    finds, _ = hunt(Reader("x", lambda _: [], _slow_reader), inputs=200)
    assert (numbers, len(finds)) == ([0, 1, 2], 1)


def _slow_reader(data: bytes, folder: Path) -> None:
    while data:
        pass


def _wordy_reader(data: bytes, folder: Path) -> None:
    if not data.startswith(b"seed"):
        raise DataError("x" * 10**6)


def _careless_reader(data: bytes, folder: Path) -> None:
    data.decode("ascii")


def test_what_a_reader_should_not_do_is_found(tmp_path: Path) -> None:
    for read, what in ((_slow_reader, "over 1 s of processor time"), (_careless_reader, "UnicodeDecodeError")):
        find = check(Reader("x", lambda _: [b"seed"], read), b"\xff", tmp_path)
        assert find is not None
        assert what in find.what
    assert check(Reader("x", lambda _: [b"seed"], _wordy_reader), b"\xff", tmp_path) is None  # long messages are cut

"""Who does what, as torchrun's environment says; no process is started."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import pytest
import torch

from edgeproof.errors import ConfigError, RunError
from edgeproof.runs import Run
from edgeproof.system import distributed
from edgeproof.system.distributed import collect_arrays, first, own_rows, rank, share, world_size


def ranks(patch: pytest.MonkeyPatch, *, rank: int, count: int) -> None:
    names = {"TORCHELASTIC_RUN_ID": "test", "RANK": rank, "WORLD_SIZE": count, "LOCAL_RANK": rank}
    for name, value in names.items():
        patch.setenv(name, str(value))


def test_without_torchrun_there_is_one_process_whatever_the_scheduler_has_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("RANK", "3")
    assert (world_size(), rank(), first()) == (1, 0, True)
    arrays = {"x": torch.ones(2).numpy()}
    assert share((1, "a")) == (1, "a")
    assert collect_arrays(arrays) == [arrays]


@pytest.mark.parametrize(("count", "rows"), [(1, 5), (2, 7), (4, 7), (4, 3), (3, 9)])
def test_every_row_is_one_processes_and_no_share_is_larger_by_two(
    monkeypatch: pytest.MonkeyPatch, count: int, rows: int
) -> None:
    ranks(monkeypatch, rank=count - 1, count=count)
    shares = [list(range(rows))[own_rows(rows, number=number)] for number in range(count)]
    assert list(chain.from_iterable(shares)) == list(range(rows))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert own_rows(rows) == own_rows(rows, number=count - 1)


def test_a_stage_of_one_process_refuses_torchrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ranks(monkeypatch, rank=0, count=2)
    with pytest.raises(
        RunError, match=r"^export runs in one process; torchrun is for train and attack, see docs/scale\.md$"
    ):
        Run.start("export", "test", config={}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_patience_that_is_no_number_of_seconds_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEPROOF_PATIENCE", "forever")
    with pytest.raises(
        ConfigError, match="EDGEPROOF_PATIENCE = 'forever' is no number of seconds; expected one such as 600"
    ):
        distributed._patience()


def test_an_error_before_the_processes_have_met_is_told_by_the_first_of_each_machine(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (0, 1):
        ranks(monkeypatch, rank=number, count=2)
        distributed.tell(f"error: {number}")
    assert capsys.readouterr().err == "error: 0\n"

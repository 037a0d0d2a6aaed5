"""The data set of a train run, read again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeproof.config import DataConfig
from edgeproof.data.arrays import write_npz
from edgeproof.data.base import load_splits
from edgeproof.data.origin import splits_of
from edgeproof.errors import RunError
from edgeproof.runs import Run


def test_a_data_set_is_found_where_it_was_moved_and_refused_where_it_splits_in_another_way(tmp_path: Path) -> None:
    images = (np.arange(60 * 64) % 251).astype(np.uint8).reshape(60, 1, 8, 8)
    labels = np.arange(60) % 3
    np.savez(tmp_path / "d.npz", x_train=images, y_train=labels, x_test=images[:6], y_test=labels[:6])
    config = DataConfig(name=f"npz:{tmp_path / 'd.npz'}", calibration=6)
    splits = load_splits(config)
    with Run.start("train", "t", config={"data": config.model_dump(mode="json")}, out=tmp_path / "run") as run:
        parts = ("train", "validation", "calibration", "test")
        write_npz(run.path / "splits.npz", {part: splits.part(part).index for part in parts})
    assert np.array_equal(splits_of(Run.open(run.path)).validation.index, splits.validation.index)
    (tmp_path / "d.npz").rename(tmp_path / "moved.npz")
    with pytest.raises(RunError, match=r"says that its images are in 'npz:.*d.npz', and nothing is there; give --data"):
        splits_of(Run.open(run.path))
    moved = splits_of(Run.open(run.path), data=f"npz:{tmp_path / 'moved.npz'}")
    assert np.array_equal(moved.calibration.index, splits.calibration.index)
    np.savez(tmp_path / "d.npz", x_train=images, y_train=labels[::-1], x_test=images[:6], y_test=labels[:6])
    with pytest.raises(
        RunError, match=r"the train images of .* are not those of its training .*; put the data set back"
    ):
        splits_of(Run.open(run.path))

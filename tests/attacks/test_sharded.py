"""attack --shard: the parts, merged, are the set that one process makes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from edgeproof.commands import cli
from edgeproof.data.base import load_adversarial_set
from edgeproof.errors import DataError
from edgeproof.runs import Run
from tests.attacks.test_craft import train_run
from tests.closeness import assert_near


def crafted(model: Path, out: Path, *more: str) -> Path:
    options = [
        "--eps",
        "0.1",
        "--steps",
        "2",
        "--limit",
        "50",
        "--batch-size",
        "8",
        "--pixels",
        "uint8",
        "--random-start",
        "true",
    ]
    line = ["attack", "pgd-linf", "--model", str(model), *options, "--out", str(out), *more]
    done = CliRunner().invoke(cli, line, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return out


def test_merged_shards_are_the_whole_set(tmp_path: Path) -> None:
    model = train_run(tmp_path / "model")
    whole = load_adversarial_set(Run.open(crafted(model, tmp_path / "whole")))
    parts = [crafted(model, tmp_path / f"part{n}", "--shard", f"{n}/3") for n in (2, 3, 1)]
    done = CliRunner().invoke(
        cli, ["merge", *map(str, parts), "--out", str(tmp_path / "merged")], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    merged = load_adversarial_set(Run.open(tmp_path / "merged", kind="attack"))
    assert np.array_equal(merged.images, whole.images)
    assert np.array_equal(merged.clean.index, whole.clean.index)
    assert np.array_equal(merged.clean.labels, whole.clean.labels)
    assert merged.source_logits is not None
    assert whole.source_logits is not None
    assert_near(merged.source_logits, whole.source_logits)
    assert merged.indicators["budget_used"] == pytest.approx(whole.indicators["budget_used"], rel=1e-6)
    assert (merged.name, merged.eps, merged.params) == (whole.name, whole.eps, whole.params)


def test_shards_of_two_models_do_not_fit(tmp_path: Path) -> None:
    parts = [crafted(train_run(tmp_path / f"model{n}"), tmp_path / f"part{n}", "--shard", f"{n}/2") for n in (1, 2)]
    with pytest.raises(DataError, match="expected shards of the same work"):
        CliRunner().invoke(cli, ["merge", *map(str, parts)], catch_exceptions=False)

"""Shards: together they are the whole, and anything else is refused; without torch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from edgeproof.commands import cli
from edgeproof.data.arrays import read_npz
from edgeproof.data.shard import Shard, check_complete, interleave, parse_shard
from edgeproof.errors import ConfigError, DataError, RunError
from edgeproof.evaluation.merge import open_shards
from tests.closeness import assert_near
from tests.edge.conftest import MakeSet

pytest.importorskip("onnxruntime")


def call(*words: object) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words], catch_exceptions=True)


def evaluated(out: Path, graphs: Path, sets: list[Path], *more: object) -> Path:
    options = ["--no-throughput", "--threads", 1, "--invariance", 0, "--batch-size", 50]
    named = [word for path in sets for word in ("--adversaries", path)]
    done = call("eval", "--engine", graphs, *named, *options, "--out", out, *more)
    assert done.exit_code in (0, 1), done.output
    return out


def results(run: Path) -> dict[str, object]:
    return dict(json.loads((run / "results.json").read_text()))


def test_the_shards_of_an_evaluation_are_the_whole_again(graphs: Path, make_set: MakeSet, tmp_path: Path) -> None:
    sets = [make_set(), make_set("noise")]
    whole = evaluated(tmp_path / "whole", graphs, sets, "--fail-under", "clean_accuracy=0.99")
    parts = [
        evaluated(tmp_path / f"part{n}", graphs, sets, "--fail-under", "clean_accuracy=0.99", "--shard", f"{n}/7")
        for n in (3, 1, 2, 7, 6, 5, 4)
    ]
    assert results(parts[0])["data"] == {
        **results(whole)["data"],
        "count": 17,
        "class_counts": [6, 5, 6],
        "shard": "3/7",
    }  # type: ignore[dict-item]
    done = call("merge", *parts, "--out", tmp_path / "merged")
    assert done.exit_code == 1, done.output  # the limit does not hold, as in the whole
    assert results(tmp_path / "merged") == results(whole)
    ours, theirs = (read_npz(folder / "samples.npz") for folder in (tmp_path / "merged", whole))
    assert list(ours) == list(theirs)
    for name in ours:
        if "gallery" not in name:
            assert np.array_equal(ours[name], theirs[name]), name
    rows = ours["gallery_index"]
    assert (rows % 7 == 2).all()  # the report shows images of the first run that was given
    for file in sorted((whole / "logits").glob("*.npy")):
        assert_near(np.load(tmp_path / "merged" / "logits" / file.name), np.load(file))
    with pytest.raises(DataError, match="the shards do not make a whole: 7/7 is missing"):
        open_shards([*parts[:3], *parts[4:]])
    assert (tmp_path / "merged" / "report.html").is_file()


def test_what_is_not_all_of_one_whole_is_refused(graphs: Path, make_set: MakeSet, tmp_path: Path) -> None:
    sets = [make_set()]
    one, two = (evaluated(tmp_path / f"part{n}", graphs, sets, "--shard", f"{n}/2") for n in (1, 2))
    whole = evaluated(tmp_path / "whole", graphs, sets)
    slow = evaluated(tmp_path / "slow", graphs, sets, "--shard", "2/2", "--reference", "ort-fp16")
    other = evaluated(tmp_path / "other", graphs, [make_set(eps=0.2)], "--shard", "2/2")
    with pytest.raises(DataError, match="1/2 comes twice, 2/2 is missing"):
        open_shards([one, one])
    with pytest.raises(DataError, match=r"is no shard; expected a run that was made with --shard I/N"):
        open_shards([one, whole])
    with pytest.raises(DataError, match=r"differs from .* in reference \(None, 'ort-fp16'\)"):
        open_shards([one, slow])
    with pytest.raises(DataError, match=r"differs from .* in sets"):
        open_shards([one, other])
    with pytest.raises(DataError, match="is the run of a 'export' stage; only attack and eval runs have shards"):
        open_shards([graphs, one])
    (two / "results.json").write_text((two / "results.json").read_text().replace("1", "2", 1))
    done = call("merge", one, two, "--out", tmp_path / "merged")
    assert isinstance(done.exception, RunError)
    assert "results.json" in str(done.exception)


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/0", "-1/2", "a/b", "1/2/3"])
def test_a_shard_is_one_of_n(text: str) -> None:
    with pytest.raises(ConfigError, match=r"is not understood; expected I/N with I from 1 to N, such as 1/4"):
        parse_shard(text)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_shards_are_disjoint_and_complete(count: int) -> None:
    shards = [Shard(n, count) for n in range(1, count + 1)]
    rows = [shard.rows(10) for shard in shards]
    assert np.array_equal(np.sort(np.concatenate(rows)), np.arange(10))
    assert np.array_equal(interleave([np.arange(10)[part] for part in rows], shards), np.arange(10))
    assert check_complete([str(shard) for shard in shards]) == shards


def test_shards_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DataError, match="3 images cannot be shared among 4 shards"):
        Shard(1, 4).rows(3)
    with pytest.raises(DataError, match="shards of different divisions: 1/2, 2/3"):
        check_complete(["1/2", "2/3"])
    with pytest.raises(DataError, match="shard 1/2 has 3 images; expected 4 of 7"):
        interleave([np.arange(3), np.arange(4)], [Shard(1, 2), Shard(2, 2)])

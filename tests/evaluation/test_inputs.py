"""What is measured on: attack runs, files of other tools, and clean images that they share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeproof.data.base import AdversarialSet, load_dataset, save_adversarial_set
from edgeproof.errors import DataError
from edgeproof.evaluation.inputs import load_inputs
from edgeproof.runs import Run


def foreign(path: Path, *, count: int = 12, **more: np.ndarray) -> str:
    test = load_dataset("synthetic").test
    adversaries = np.clip(test.images[:count] + np.float32(0.02), 0, 1)
    np.savez(path, adv_inputs=adversaries, labels=test.labels[:count], **more)  # type: ignore[arg-type]
    return str(path)


def test_a_set_of_another_tool_is_paired_with_the_data_that_it_was_made_from(tmp_path: Path) -> None:
    inputs = load_inputs([foreign(tmp_path / "theirs.npz")], data="synthetic")
    assert [set_.name for set_ in inputs.sets] == ["theirs"]
    assert inputs.sets[0].eps == pytest.approx(0.02, abs=1e-6)
    assert len(inputs.clean) == 12
    assert inputs.source_predictions() == {}


def test_a_set_of_another_tool_may_bring_its_own_clean_images(tmp_path: Path) -> None:
    clean = load_dataset("synthetic").test.images[:12]
    inputs = load_inputs([foreign(tmp_path / "theirs.npz", clean_inputs=clean)], data=None)
    assert np.array_equal(inputs.clean.images, clean)


def test_without_clean_images_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"theirs\.npz.*clean"):
        load_inputs([foreign(tmp_path / "theirs.npz")], data=None)


def test_one_attack_on_several_sources_is_told_apart_by_them(tmp_path: Path) -> None:
    clean = load_dataset("synthetic").test.head(6)
    for source in ("float", "int8"):
        made = AdversarialSet(
            name="pgd 0.1", attack="pgd", norm="linf", eps=0.1, images=clean.images, clean=clean, source=source
        )
        with Run.start("attack", source, config={"source": source}, out=tmp_path / source) as run:
            save_adversarial_set(run, made)
            run.finish()
    inputs = load_inputs([str(tmp_path / "float"), str(tmp_path / "int8")], data=None)
    assert [set_.name for set_ in inputs.sets] == ["pgd 0.1 on float", "pgd 0.1 on int8"]
    assert [set_.name for set_ in load_inputs([str(tmp_path / "int8")], data=None).sets] == ["pgd 0.1"]


def test_sets_of_other_clean_images_are_refused(tmp_path: Path) -> None:
    files = [foreign(tmp_path / "a.npz"), foreign(tmp_path / "b.npz", count=9)]
    with pytest.raises(DataError, match="was made from other clean images than"):
        load_inputs(files, data="synthetic")

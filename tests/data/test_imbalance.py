"""Class-imbalanced subsets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeproof.data.base import Dataset, LabelledImages, split_dataset
from edgeproof.data.imbalance import imbalanced, keep_counts, long_tailed, over_sample, under_sample
from edgeproof.errors import ConfigError, DataError
from tests.data.files import labelled

DATA = labelled([20, 20, 20, 20])


def counts(images: LabelledImages) -> list[int]:
    return np.bincount(images.labels, minlength=images.num_classes).tolist()


def test_under_sampling_reduces_one_class() -> None:
    assert counts(under_sample(DATA, target=1, count=4, seed=0)) == [20, 4, 20, 20]


def test_over_sampling_reduces_the_others() -> None:
    assert counts(over_sample(DATA, target="c2", count=4, seed=0)) == [4, 4, 20, 4]


def test_a_long_tail_falls_by_equal_factors() -> None:
    assert counts(long_tailed(DATA, largest=16, ratio=8, seed=0)) == [16, 8, 4, 2]
    assert counts(long_tailed(DATA, largest=20, ratio=1, seed=0)) == [20, 20, 20, 20]


def test_the_index_says_which_images_were_kept_in_their_order() -> None:
    kept = under_sample(DATA, target=1, count=4, seed=0)
    assert (np.diff(kept.index) > 0).all()
    np.testing.assert_array_equal(kept.images, DATA.images[kept.index])
    np.testing.assert_array_equal(kept.labels, DATA.labels[kept.index])
    assert (kept.classes, kept.name, kept.split) == (DATA.classes, DATA.name, DATA.split)


def test_a_subset_of_a_subset_keeps_the_first_index() -> None:
    kept = under_sample(over_sample(DATA, target=0, count=5, seed=0), target=0, count=2, seed=1)
    assert counts(kept) == [2, 5, 5, 5]
    np.testing.assert_array_equal(kept.images, DATA.images[kept.index])


def test_the_choice_depends_on_the_seed_alone() -> None:
    first, again, other = (under_sample(DATA, target=1, count=4, seed=seed).index.tolist() for seed in (0, 0, 1))
    assert first == again != other


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 20), min_size=4, max_size=4), st.integers(0, 3))
def test_counts_are_exact_and_smaller_subsets_are_nested(sizes: list[int], seed: int) -> None:
    kept = keep_counts(DATA, sizes, seed=seed)
    assert counts(kept) == sizes
    fewer = keep_counts(DATA, [max(1, size // 2) for size in sizes], seed=seed)
    assert set(fewer.index.tolist()) <= set(kept.index.tolist())


def test_a_class_too_small_is_an_error() -> None:
    with pytest.raises(DataError, match="toy/train: class 'c1' has 20 images and 21 were asked for; expected 1 to 20"):
        under_sample(DATA, target=1, count=21, seed=0)
    with pytest.raises(DataError, match="class 'c0' has 20 images and 0 were asked for"):
        over_sample(DATA, target=1, count=0, seed=0)
    with pytest.raises(DataError, match="class 'c3' has 20 images and 0 were asked for"):
        long_tailed(DATA, largest=16, ratio=100, seed=0)


def test_an_unknown_class_or_profile_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"toy: unknown class 'c9' \(did you mean 'c\d'\?\); known: c0, c1, c2, c3"):
        under_sample(DATA, target="c9", count=1, seed=0)
    for unknown in (4, -1, "4", "#4", "1" * 5000):  # Python does not read numbers of thousands of digits
        with pytest.raises(ConfigError, match="toy: unknown class"):
            over_sample(DATA, target=unknown, count=1, seed=0)
    with pytest.raises(DataError, match=r"ratio = 0.5; expected"):
        long_tailed(DATA, largest=16, ratio=0.5, seed=0)
    with pytest.raises(DataError, match="toy: 3 counts were given for 4 classes"):
        keep_counts(DATA, [1, 1, 1], seed=0)


def test_users_write_an_imbalance_in_a_word() -> None:
    for spec, expected in (
        ("under:c1=4", [20, 4, 20, 20]),
        ("under:1=4", [20, 4, 20, 20]),
        ("over:c2=4", [4, 4, 20, 4]),
        ("long-tailed:8", [20, 10, 5, 2]),
    ):
        assert counts(imbalanced(DATA, spec, seed=0)) == expected
    for spec in ("under:c1", "between:c1=4", "long-tailed:", "", f"under:c1={'1' * 5000}", f"long-tailed:{'1' * 5000}"):
        with pytest.raises(ConfigError, match=r"imbalance = .* is not known; expected under:CLASS=COUNT"):
            imbalanced(DATA, spec, seed=0)


def test_every_part_of_the_training_images_is_imbalanced_alike_and_the_test_images_stay() -> None:
    whole = Dataset(labelled([5, 5], split="test"), lambda: labelled([100, 100]))
    splits = split_dataset(whole, seed=0, validation=0.1, calibration=20, imbalance="under:c1=20")
    assert [counts(splits.part(part)) for part in ("train", "validation", "calibration", "test")] == [
        [75, 13],
        [10, 2],
        [15, 5],
        [5, 5],
    ]

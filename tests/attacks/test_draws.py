from __future__ import annotations

import numpy as np
import torch
from scipy import stats

from edgeproof.attacks.base import Draws, philox


def test_philox_gives_the_words_that_its_authors_publish() -> None:
    # Random123, kat_vectors: philox4x32 with 10 rounds.
    ones = 0xFFFFFFFF
    zero = philox((0, 0, 0, 0), seed=0)
    full = philox((ones, ones, ones, ones), seed=2**64 - 1)
    pi = philox((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), seed=0x299F31D0_A4093822)
    assert [f"{word:08x}" for word in zero] == ["6627e8d5", "e169c58d", "bc57ac4c", "9b00dbd8"]
    assert [f"{word:08x}" for word in full] == ["408f276d", "41c83b0e", "a20bc7c6", "6d5451fd"]
    assert [f"{word:08x}" for word in pi] == ["d16cfe09", "94fdcceb", "5001e420", "24126ea1"]


def test_draws_belong_to_the_sample_and_not_to_its_place_in_the_batch() -> None:
    index = np.array([5, 9, 2, 77, 31])
    whole = Draws(seed=3, index=index).uniform(1, (2, 3))
    for position, sample in enumerate(index):
        alone = Draws(seed=3, index=np.array([sample])).uniform(1, (2, 3))
        assert torch.equal(alone[0], whole[position])
    kept = Draws(seed=3, index=index).take(torch.tensor([3, 0]))
    assert torch.equal(kept.uniform(1, (2, 3)), whole[[3, 0]])


def test_a_longer_draw_begins_with_the_shorter_one() -> None:
    draws = Draws(seed=3, index=np.arange(2))
    assert torch.equal(draws.uniform(0, (5,)), draws.uniform(0, (11,))[:, :5])


def test_seed_sample_restart_and_stream_each_change_every_draw() -> None:
    base = Draws(seed=1, index=np.arange(3))
    numbers = base.uniform(0, (4,))
    others = [
        Draws(seed=2, index=np.arange(3)),
        Draws(seed=1 + 2**32, index=np.arange(3)),
        Draws(seed=1, index=np.arange(3) + 3),
        base.restarted(1),
    ]
    assert not (base.uniform(1, (4,)) == numbers).any()
    assert not any((other.uniform(0, (4,)) == numbers).any() for other in others)


def test_draws_are_uniform_and_stay_below_one() -> None:
    numbers = Draws(seed=0, index=np.arange(50)).uniform(0, (1000,)).numpy()
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert stats.kstest(numbers.ravel(), "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(numbers)[np.triu_indices(50, 1)]).max() < 0.2

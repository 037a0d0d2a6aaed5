"""Masking that is planted in a network is seen by the attack stage's probes; a healthy network raises nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from edgeproof.attacks.base import Draws, find_attack
from edgeproof.attacks.chunks import indicators, read_chunks, write_chunks
from edgeproof.attacks.configured import choose_attack
from edgeproof.attacks.probes import choose_probe, look_for_masking
from edgeproof.data.base import LabelledImages
from edgeproof.evaluation.masking import indicators as known
from tests.oracles import labelled_images, small_network, source_of

Model = Callable[[Tensor], Tensor]
NETWORK = small_network().float()


def certain(x: Tensor) -> Tensor:
    """The network with logits so large that float32's cross-entropy is exactly 0."""
    return NETWORK(x) * 1e4


def noisy(x: Tensor) -> Tensor:
    return NETWORK(x) + torch.randn(len(x), 5) * 0.1


def softmaxed(x: Tensor) -> Tensor:
    return NETWORK(x).softmax(1)


@pytest.fixture(scope="module")
def data() -> LabelledImages:
    """Images that the network classifies rightly."""
    images = labelled_images(48)
    with torch.no_grad():
        labels = NETWORK(torch.from_numpy(images.images)).argmax(1).numpy()
    return dataclasses.replace(images, labels=labels)


def measured(
    model: Model, data: LabelledImages, *, name: str = "pgd-linf", surrogate: Model | None = None, **params: object
) -> dict[str, float]:
    attack = choose_attack(find_attack(name), eps=0.05, params=params)
    x, y = torch.from_numpy(data.images), torch.from_numpy(data.labels)
    images = attack.run(model, x, y, draws=Draws(seed=0, index=data.index)).numpy()
    probe = choose_probe(source_of(model, data), data, count=40, seed=0)
    return look_for_masking(dataclasses.replace(probe, surrogate=surrogate), attack, images)


def reported(found: dict[str, float]) -> set[str]:
    return {each.name for each in known(chance=0.2) if each.key in found and each.reports(found[each.key])}


def test_a_healthy_network_raises_nothing(data: LabelledImages) -> None:
    found = measured(NETWORK, data, surrogate=NETWORK)
    assert set(found) == {
        "probabilities", "random_outputs", "temperature_gain", "transfer_gain", "query_gain", "large_eps_accuracy",
    }  # fmt: skip
    assert reported(found) == set()
    assert found["transfer_gain"] == 0


def test_a_network_masked_by_its_scale_is_seen_in_every_way(data: LabelledImages) -> None:
    found = measured(certain, data, surrogate=NETWORK)
    assert reported(found) == {"temperature", "transfer-stronger", "query-stronger", "eps-sweep"}
    assert found["large_eps_accuracy"] > 0.7


def test_what_the_attack_gains_by_the_margin_is_not_lost_to_the_scale(data: LabelledImages) -> None:
    assert reported(measured(certain, data, surrogate=NETWORK, loss="margin")) == set()


def test_probabilities_are_seen(data: LabelledImages) -> None:
    assert "probabilities" in reported(measured(softmaxed, data, name="noise"))


def test_answers_that_differ_from_call_to_call_are_seen(data: LabelledImages) -> None:
    assert reported(measured(noisy, data, name="noise")) == {"randomness"}


@pytest.mark.parametrize(
    ("name", "params"),
    [("noise", {}), ("square", {"queries": 3}), ("fgsm", {}), ("pgd-linf", {"direction": "descent", "label": "1"})],
)
def test_attacks_that_follow_no_gradient_away_from_the_class_are_not_repeated(
    name: str, params: dict[str, object], data: LabelledImages
) -> None:
    assert set(measured(NETWORK, data, name=name, **params)) == {"probabilities", "random_outputs"}


def test_l2_attacks_are_probed_without_queries(data: LabelledImages) -> None:
    attack = measured(NETWORK, data, name="pgd-l2")
    assert "query_gain" not in attack
    assert attack["large_eps_accuracy"] == 0


def test_probe_images_do_not_depend_on_the_batch(data: LabelledImages) -> None:
    source = source_of(NETWORK, data)
    probe = choose_probe(source, data, count=10, seed=0)
    np.testing.assert_array_equal(probe.x.numpy(), data.images[probe.rows])
    assert probe.draws.index.tolist() == data.index[probe.rows].tolist()
    assert len(choose_probe(source, data, count=1000, seed=0).rows) == len(data)


def test_saturated_and_zero_gradients_are_measured_while_crafting(data: LabelledImages, tmp_path: object) -> None:
    attack = choose_attack(find_attack("pgd-linf"), eps=0.05, params={"steps": 2})
    shares = []
    for number, model in enumerate((NETWORK, certain)):
        folder = tmp_path / str(number)  # type: ignore[operator]
        write_chunks([attack], [folder], source_of(model, data), data, batch_size=16, seed=0)
        shares.append(indicators(read_chunks(folder, count=len(data)), radius=0.05))
    assert reported(shares[0]) == set()
    assert reported(shares[1]) >= {"zero-gradients", "saturated-loss"}

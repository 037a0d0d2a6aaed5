"""Warnings appear for what they warn of, and not otherwise."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgeproof.evaluation.results import EngineRecord, InvarianceRecord, KernelsRecord, SetRecord
from edgeproof.evaluation.sanity import check_engine, check_logits, check_probabilities, check_results
from edgeproof.evaluation.scoring import Predictions, score


def set_record(name: str, eps: float = 0.1, indicators: Mapping[str, float] | None = None) -> SetRecord:
    clean = name == "clean"
    return SetRecord(
        name=name, kind="clean" if clean else "adversarial", attack=None if clean else name.split()[0],
        norm=None if clean else "linf", eps=None if clean else eps, pixels="float", params={}, source="m", count=0, sha256="",
        indicators=dict(indicators or {}),
    )  # fmt: skip


def warnings(hits: Mapping[str, int], sets: list[SetRecord], *, count: int = 300, engines: int = 1) -> list[str]:
    labels = np.arange(count) % 3
    names = [f"engine-{number}" for number in range(engines)]
    cells = {
        (name, set_.name): np.where(np.arange(count) < hits[set_.name], labels, (labels + 1) % 3)
        for name in names
        for set_ in sets
    }
    scored = score(
        Predictions(labels=labels, cells=cells), engines=names, sets=[set_.name for set_ in sets], reference=names[0],
        classes=("a", "b", "c"),
    )  # fmt: skip
    return list(check_results(scored, engines=names, sets=sets, classes=("a", "b", "c")))


CLEAN, PGD, NOISE = set_record("clean"), set_record("pgd-linf 0.1"), set_record("noise 0.1")


def test_a_healthy_evaluation_raises_none() -> None:
    assert warnings({"clean": 290, "pgd-linf 0.1": 30, "noise 0.1": 285}, [CLEAN, PGD, NOISE]) == []


def test_noise_that_hurts_as_much_as_the_attack_is_told_once_for_all_engines() -> None:
    found = warnings({"clean": 290, "pgd-linf 0.1": 200, "noise 0.1": 199}, [CLEAN, PGD, NOISE], engines=3)
    assert len(found) == 1
    assert "'noise 0.1' leaves 199 images right on engine-0 (and 2 other engines likewise)" in found[0]


def test_noise_of_a_larger_budget_proves_nothing() -> None:
    hits = {"clean": 290, "pgd-linf 0.1": 200, "noise 0.3": 100}
    assert warnings(hits, [CLEAN, PGD, set_record("noise 0.3", 0.3)]) == []


def test_accuracy_that_rises_with_eps_is_told() -> None:
    hits = {"clean": 290, "pgd-linf 0.1": 100, "pgd-linf 0.2": 150}
    found = warnings(hits, [CLEAN, set_record("pgd-linf 0.2", 0.2), PGD])
    assert any("'pgd-linf 0.2' leaves 150 images right on engine-0, 'pgd-linf 0.1' only 100" in text for text in found)


def test_few_images_and_few_images_of_a_class_are_told() -> None:
    assert "only 60 images" in warnings({"clean": 60}, [CLEAN], count=60)[0]
    labels = np.array([0] * 150 + [1] * 150 + [2] * 3)
    cells = score(
        Predictions(labels=labels, cells={("e", "clean"): labels}), engines=["e"], sets=["clean"], reference="e",
        classes=("a", "b", "c"),
    )  # fmt: skip
    (found,) = check_results(cells, engines=["e"], sets=[CLEAN], classes=("a", "b", "c"))
    assert found == "1 of 3 classes have fewer than 10 images: c (3)"


def test_an_engine_no_better_than_chance_is_told() -> None:
    (found,) = warnings({"clean": 105}, [CLEAN])
    assert "no better than chance (33%): check its class order" in found


def test_probabilities_are_reported_once_and_neither_for_logits_nor_for_our_white_box_sets() -> None:
    logits = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
    shares = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).astype(np.float32)
    ours = CLEAN.model_copy(update={"name": "pgd", "kind": "adversarial", "access": "gradients"})
    asked = {(engine, set_): shares for engine in ("e", "f") for set_ in ("clean", "pgd")}
    (found,) = check_probabilities(asked, [CLEAN, ours])
    assert found.startswith("e, f: probabilities, not logits")
    assert list(check_probabilities({("e", "pgd"): shares}, [CLEAN, ours])) == []
    assert list(check_probabilities({("e", "clean"): logits, ("f", "clean"): np.abs(logits)}, [CLEAN])) == []


def test_nan_and_infinite_logits_are_counted() -> None:
    logits = np.zeros((20, 5), np.float32)
    logits[3, 1], logits[4, 0] = np.nan, np.inf
    (found,) = check_logits("e", "clean", logits)
    assert "NaN or infinite logits on 2 of 20 images" in found


def test_an_engine_that_depends_on_the_batch_is_told() -> None:
    tried = InvarianceRecord(images=16, batch_sizes=(2, 8), flips=2, flipped=(3, 90), max_abs_diff=0.5)
    engine = EngineRecord(
        name="trt-int8", backend="tensorrt", precision="int8", device="cuda:0", provider="GPU", path="m.plan", sha256="",
        size=1, versions={}, note="", options={}, throughput=None, invariance=tried,
    )  # fmt: skip
    (found,) = check_engine(engine)
    assert found == "trt-int8 gives 2 of 16 images another class in another batch size or slot (rows 3, 90)"
    assert list(check_engine(engine.model_copy(update={"invariance": None}))) == []


def test_int8_that_is_not_computed_in_integers_is_told() -> None:
    engine = EngineRecord(
        name="ort-int8-trt", backend="onnxruntime", precision="int8", device="cpu", provider="CPU", path="m.onnx", sha256="",
        size=1, versions={}, note="", options={}, throughput=None, kernels=KernelsRecord(integer=8, total=20),
    )  # fmt: skip
    (found,) = check_engine(engine)
    assert "ort-int8-trt computes 8 of 20 convolutions and matrix products in integers" in found
    assert list(check_engine(engine.model_copy(update={"kernels": KernelsRecord(integer=20, total=20)}))) == []

"""A graph that ends in a softmax is attacked as well as the same graph without it."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgeproof.attacks.base import find_attack
from edgeproof.attacks.craft import craft_sets
from edgeproof.attacks.losses import cross_entropy
from edgeproof.config import AttackConfig
from edgeproof.data.base import AdversarialSet, LabelledImages
from edgeproof.evaluation.metrics import predictions
from edgeproof.source_model.base import SourceModel
from edgeproof.source_model.checkpoint import Checkpoint
from edgeproof.source_model.engine import open_engine_source
from edgeproof.source_model.ensemble import combine
from edgeproof.source_model.graph import open_graph
from edgeproof.source_model.probabilities import are_probabilities, log_probabilities

pytest.importorskip("onnxruntime")

SHAPE, CLASSES, COUNT = (1, 8, 8), 5, 60
Forms = dict[str, nn.Module]


@pytest.fixture(scope="module")
def data() -> LabelledImages:
    """Five patterns under noise."""
    random = np.random.default_rng(0)
    patterns = random.random((CLASSES, *SHAPE))
    labels = np.arange(COUNT) % CLASSES
    images = 0.5 + 0.3 * (patterns[labels] - 0.5) + random.normal(size=(COUNT, *SHAPE)) * 0.1
    levels = np.round(images.clip(0, 1) * 255) / 255
    return LabelledImages(
        name="patterns",
        split="test",
        images=levels.astype(np.float32),
        labels=labels.astype(np.int64),
        index=np.arange(COUNT),
        classes=tuple("abcde"),
    )


@pytest.fixture(scope="module")
def forms(data: LabelledImages) -> Forms:
    """One network, trained until it is sure of itself, with and without a softmax at its end."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, CLASSES))
        optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
        for _ in range(150):
            loss = nn.functional.cross_entropy(network(torch.from_numpy(data.images)), torch.from_numpy(data.labels))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        network[-1].weight.mul_(4)
        network[-1].bias.mul_(4)
    return {"logits": network.eval(), "softmax": nn.Sequential(*network, nn.Softmax(1)).eval()}


@pytest.fixture(scope="module")
def files(forms: Forms, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    from edgeproof.export.to_onnx import export_onnx

    folder = tmp_path_factory.mktemp("files")
    for name, network in forms.items():
        export_onnx(network, folder / f"{name}.onnx", input_shape=SHAPE, opset=17, exporter="torchscript")
    return {name: folder / f"{name}.onnx" for name in forms}


def crafted(source: SourceModel, data: LabelledImages, folder: Path, *, name: str, **options: object) -> AdversarialSet:
    config = AttackConfig(model="", attack=name, **{"eps": 0.1, "probe": 0, "batch_size": 50, **options})  # type: ignore[arg-type]
    (made,) = craft_sets([config], [folder], spec=find_attack(name), source=source, data=data, load_train=lambda: data)
    return made


def wrong(made: AdversarialSet, network: nn.Module) -> int:
    with torch.no_grad():
        return int((network(torch.from_numpy(made.images)).argmax(1).numpy() != made.clean.labels).sum())


def opened(kind: str, form: str, files: dict[str, Path], forms: Forms, stack: ExitStack) -> SourceModel:
    if kind == "engine":
        return stack.enter_context(open_engine_source(str(files[form]), device="cpu", batch_size=64))
    graph = open_graph(files[form], device="cpu")
    checkpoint = Checkpoint(forms[form], form, SHAPE, CLASSES)
    return {"graph": graph, "checkpoint": checkpoint, "builds": combine([checkpoint, graph])}[kind]


@pytest.mark.parametrize(
    ("kind", "name", "options"),
    [
        ("engine", "square", {"eps": 0.08, "params": {"queries": 150}}),
        ("engine", "square", {"eps": 0.08, "params": {"queries": 150}, "stop": "first"}),
        ("engine", "hop-skip-jump", {"eps": 0.12, "params": {"queries": 200, "directions": 20}}),
        ("checkpoint", "square", {"eps": 0.08, "params": {"queries": 150}}),
        ("checkpoint", "pgd-linf", {"params": {"loss": "margin"}}),
        ("checkpoint", "pgd-linf", {"stop": "margin=2"}),
        ("graph", "pgd-linf", {}),
        ("builds", "pgd-linf", {"params": {"loss": "margin"}}),
    ],
)
def test_a_softmax_at_the_end_hides_nothing_from_an_attack(
    kind: str, name: str, options: dict[str, object], files: dict[str, Path], forms: Forms, data: LabelledImages, tmp_path: Path
) -> None:  # fmt: skip
    found = {}
    for form in forms:
        with ExitStack() as stack:
            source = opened(kind, form, files, forms, stack)
            made = crafted(source, data, tmp_path / form, name=name, **{"eps": 0.06, **options})
        assert made.source_logits is not None
        found[form] = wrong(made, forms["logits"])
    assert found["logits"] >= 10
    assert abs(found["softmax"] - found["logits"]) <= 2


def test_probabilities_are_reported_once_and_logits_are_not(
    files: dict[str, Path], data: LabelledImages, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    said = {}
    for form, file in files.items():
        caplog.clear()
        with open_engine_source(str(file), device="cpu", batch_size=64) as source:
            crafted(source, data, tmp_path / form, name="square", params={"queries": 3})
        said[form] = [text for text in caplog.messages if "ends in a softmax" in text]
    assert (len(said["logits"]), len(said["softmax"])) == (0, 1)


def test_logits_come_back_from_probabilities_with_every_class_kept() -> None:
    logits = torch.randn(200, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 8
    p = logits.softmax(1).float()
    back = log_probabilities(p)
    expected = logits - logits.amax(1, keepdim=True)
    torch.testing.assert_close(back.double(), expected, atol=1e-5, rtol=1e-5)
    near = torch.full((1, 1000), 0.001)
    near[0, 700] = torch.nextafter(near[0, 0], torch.tensor(1.0))
    assert int(log_probabilities(near).argmax()) == 700


def test_gradients_through_probabilities_of_exactly_0_and_1_are_finite() -> None:
    p = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1e-45, 1.0], [0.3, 0.3, 0.4]], requires_grad=True)
    scores = log_probabilities(p)
    assert bool(torch.isfinite(scores).all())
    (grad,) = torch.autograd.grad(cross_entropy(scores, torch.tensor([0, 1, 2])).sum(), p)
    assert bool(torch.isfinite(grad).all())


def test_logits_are_not_taken_for_probabilities() -> None:
    p = torch.rand(8, 5, generator=torch.Generator().manual_seed(0)).softmax(1)
    outputs: list[Tensor] = [p.log(), p * 5, torch.randn(8, 5), torch.full((8, 5), torch.nan), p[:0]]
    assert [are_probabilities(each) for each in outputs] == [False] * 5
    assert are_probabilities(p)
    assert are_probabilities((p * 256).round() / 256)
    assert predictions(log_probabilities(p).numpy()).tolist() == p.argmax(1).tolist()

"""What every source model can do: a checkpoint, a graph, an engine and several builds answer alike."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np
import pytest
import torch

from edgeproof.attacks.losses import cross_entropy
from edgeproof.errors import DataError, ModelError
from edgeproof.runs import sha256_file
from edgeproof.source_model.base import SourceModel
from edgeproof.source_model.checkpoint import open_checkpoint
from edgeproof.source_model.engine import open_engine_source
from edgeproof.source_model.ensemble import combine
from edgeproof.source_model.graph import open_graph
from tests.attacks.test_craft import train_run
from tests.closeness import assert_near
from tests.oracles import labelled_images

pytest.importorskip("onnxruntime")
KINDS = ("checkpoint", "graph", "engine", "ensemble")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, SourceModel]]:
    """One network, opened in each way."""
    from edgeproof.export.to_onnx import export_onnx

    folder = tmp_path_factory.mktemp("sources")
    checkpoint = open_checkpoint(train_run(folder / "train"), device="cpu")
    file = folder / "model.onnx"
    export_onnx(checkpoint.network, file, input_shape=(1, 32, 32), opset=17, exporter="torchscript")
    with ExitStack() as held:
        engine = held.enter_context(open_engine_source(f"onnxruntime:{file}", device="cpu", batch_size=4))
        graph = open_graph(file, device="cpu")
        ensemble = combine([checkpoint, graph])
        yield {"checkpoint": checkpoint, "graph": graph, "engine": engine, "ensemble": ensemble}


def images() -> np.ndarray:
    return np.random.default_rng(0).random((6, 1, 32, 32), np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_every_form_of_a_network_gives_its_logits(kind: str, sources: dict[str, SourceModel]) -> None:
    source, x = sources[kind], torch.from_numpy(images())
    expected = sources["checkpoint"].network(x).detach()
    prepared = source.prepared(x[:2], mode="fast")
    served = torch.from_numpy(source.served_logits(images(), batch_size=4))
    for found in (source.logits(x), source(x).detach(), prepared.follow(x).detach(), served):
        assert_near(found, expected)
    assert not source.logits(x).requires_grad
    assert (source.input_shape, source.num_classes) == ((1, 32, 32), 10)


@pytest.mark.parametrize("kind", ["checkpoint", "graph", "ensemble"])
def test_every_form_but_an_engine_gives_its_gradients(kind: str, sources: dict[str, SourceModel]) -> None:
    x, y = torch.from_numpy(images()), torch.arange(6)
    found, expected = (sources[name].value_and_grad(x, y, loss=cross_entropy) for name in (kind, "checkpoint"))
    assert_near(found.losses, expected.losses)
    assert_near(found.grad, expected.grad)
    assert sources[kind].has_gradients


def test_an_engine_has_no_gradients(sources: dict[str, SourceModel]) -> None:
    assert not sources["engine"].has_gradients
    with pytest.raises(ModelError, match="gives no gradient with respect to its images; use an attack that needs none"):
        sources["engine"].value_and_grad(torch.from_numpy(images()), torch.arange(6), loss=cross_entropy)


def test_the_hash_is_that_of_what_was_opened(sources: dict[str, SourceModel]) -> None:
    checkpoint, graph = (sources[name].sha256 for name in ("checkpoint", "graph"))
    assert graph == sources["engine"].sha256 == (sha256_file(sources["graph"].path),)  # type: ignore[attr-defined]
    assert sources["ensemble"].sha256 == (*checkpoint, *graph)
    assert checkpoint != graph


def test_only_what_is_attacked_in_another_form_has_a_last_word(sources: dict[str, SourceModel]) -> None:
    assert {name: list(source.builds) for name, source in sources.items()} == {
        "checkpoint": [],
        "graph": ["model.onnx"],
        "engine": [],
        "ensemble": ["train", "model.onnx"],
    }


@pytest.mark.parametrize("kind", KINDS)
def test_images_of_another_shape_are_refused(kind: str, sources: dict[str, SourceModel]) -> None:
    with pytest.raises(DataError, match=r"random has images \(3, 8, 8\); the source model .* takes \(1, 32, 32\)"):
        sources[kind].fitted(labelled_images())

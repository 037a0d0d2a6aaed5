"""The PyTorch engine against the classifier that it opens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edgeproof.engines.base import EngineOptions, open_engine, predict_all
from edgeproof.errors import ConfigError, UnavailableError
from edgeproof.models.base import Classifier, build_classifier, save_classifier
from tests.closeness import assert_near

SHAPE = (3, 16, 16)


@pytest.fixture
def model() -> Classifier:
    torch.manual_seed(0)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    return build_classifier("small-cnn", input_shape=SHAPE, classes=("a", "b"), mean=mean, std=std).eval()


@pytest.fixture
def path(model: Classifier, tmp_path: Path) -> Path:
    save_classifier(tmp_path / "model.safetensors", model)
    return tmp_path / "model.safetensors"


def images(count: int) -> np.ndarray:
    return np.random.default_rng(1).random((count, *SHAPE), np.float32)


def test_fp32_gives_the_classifiers_own_logits(model: Classifier, path: Path) -> None:
    with open_engine(path) as engine, torch.no_grad():
        expected = model(torch.from_numpy(images(5))).numpy()
        assert_near(predict_all(engine, images(5), batch_size=5), expected)
        assert (engine.info.backend, engine.info.precision, engine.info.note) == ("pytorch", "fp32", "")


def test_fp16_computes_in_half_precision_from_the_normalisation_on(model: Classifier, path: Path) -> None:
    with open_engine(path, options=EngineOptions(precision="fp16")) as engine, torch.no_grad():
        found = predict_all(engine, images(5), batch_size=5)
        whole = model(torch.from_numpy(images(5))).numpy()
        half = model.half()(torch.from_numpy(images(5)).half()).float().numpy()
    np.testing.assert_array_equal(found, half)
    assert 1e-5 < np.abs(found - whole).max() < 0.05
    assert engine.info.precision == "fp16"
    assert "arithmetic in FP16" in engine.info.note


def test_the_thread_count_is_honoured_and_put_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    seen: list[int] = []
    forward = Classifier.forward

    def spy(self: Classifier, x: torch.Tensor) -> torch.Tensor:
        seen.append(torch.get_num_threads())
        return forward(self, x)

    monkeypatch.setattr(Classifier, "forward", spy)
    with open_engine(path, options=EngineOptions(threads=1)) as engine:
        seen.clear()
        engine.predict(images(2))
    assert seen == [1]
    assert torch.get_num_threads() == before
    assert engine.info.options["threads"] == 1


def test_another_precision_is_refused(path: Path) -> None:
    with pytest.raises(ConfigError, match="pytorch runs checkpoints in fp32 or fp16, not 'int8'"):
        open_engine(path, options=EngineOptions(precision="int8"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_that_is_not_there_is_refused(path: Path) -> None:
    with pytest.raises(UnavailableError, match="device 'cuda' is not there"):
        open_engine(path, device="cuda")

"""Small runs to evaluate: ten classes would hide nothing more than three do."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeproof.__main__ import main
from edgeproof.data.base import AdversarialSet, LabelledImages, save_adversarial_set
from edgeproof.runs import Run
from tests.edge.tiny_onnx import write_linear

CLASSES = ("ant", "bee", "cat")
SHAPE = (1, 4, 4)

MakeSet = Callable[..., Path]


def templates() -> NDArray[np.float32]:
    """One pattern a class: (16, K) weights of a linear classifier, and where its images lie."""
    return np.random.default_rng(3).normal(size=(16, 3)).astype(np.float32)


@pytest.fixture
def clean() -> LabelledImages:
    random = np.random.default_rng(4)
    labels = np.arange(120, dtype=np.int64) % 3
    noise = random.normal(size=(120, 16)) * 0.25
    pixels = np.clip(0.5 + 0.15 * templates().T[labels] + noise, 0, 1).astype(np.float32)
    return LabelledImages(
        images=pixels.reshape(120, *SHAPE),
        labels=labels,
        index=np.arange(120),
        classes=CLASSES,
        name="patterns",
        split="test",
    )


@pytest.fixture
def weights() -> NDArray[np.float32]:
    """The classifier that the patterns call for: centred, so that 0.5 grey says nothing."""
    return templates() - templates().mean(axis=0)


@pytest.fixture
def make_set(clean: LabelledImages, weights: NDArray[np.float32], tmp_path: Path) -> MakeSet:
    """Make attack runs: every image moved by eps against its class, as FGSM does on a linear classifier, or by noise."""

    def make(name: str = "fgsm", eps: float = 0.1, *, limit: int | None = None, source_known: bool = True) -> Path:
        data = clean.head(limit)
        flat = data.images.reshape(len(data), -1)
        others = weights.sum(axis=1, keepdims=True) - weights
        step = np.sign(others / 2 - weights).T[data.labels]
        if name == "noise":
            step = np.sign(np.random.default_rng(5).normal(size=flat.shape))
        attacked = np.clip(flat + np.float32(eps) * step, 0, 1).astype(np.float32)
        adversaries = AdversarialSet(
            name=f"{name} {eps:g}", attack=name, norm="linf", eps=eps, images=attacked.reshape(data.images.shape), clean=data,
            source="linear", source_logits=attacked @ weights if source_known else None,
            source_clean_logits=flat @ weights if source_known else None, indicators={"budget_used": 1.0},
        )  # fmt: skip
        folder = tmp_path / f"attack-{name}-{eps:g}-{limit}-{source_known}"
        with Run.start("attack", name, config={"eps": eps}, out=folder) as run:
            save_adversarial_set(run, adversaries)
            run.finish()
        return folder

    return make


@pytest.fixture
def graphs(weights: NDArray[np.float32], tmp_path: Path) -> Path:
    """Make an export run with an FP32, an FP16 and an INT8 graph."""
    folder = tmp_path / "export-linear"
    with Run.start("export", "linear", config={}, out=folder) as run:
        for tag, precision in (("fp32", "fp32"), ("fp16", "fp16"), ("int8-trt", "int8")):
            write_linear(folder / f"model.{tag}.onnx", weights, precision=precision, classes=CLASSES)
        run.finish()
    return folder


class Outcome:
    """Exit status, stdout and stderr of one command."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    def call(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["cli.py", *map(str, arguments)])
        try:
            main()
            status = 0
        except SystemExit as stop:
            status = int(stop.code or 0)
        return Outcome(status, *capsys.readouterr())

    return call

"""Toys as modules and as graphs; each is exported once a session."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from torch import nn

from edgeproof.export.to_onnx import export_onnx
from tests.export.toys import SHAPE, TOYS, build_toy


@dataclass(frozen=True)
class Toy:
    """A module and the FP32 graph that was exported from it."""

    name: str
    module: nn.Module
    graph: Path


@pytest.fixture(scope="session", params=TOYS)
def toy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Toy:
    name: str = request.param
    module, path = build_toy(name), tmp_path_factory.mktemp(name) / "model.onnx"
    export_onnx(module, path, input_shape=SHAPE, metadata={"classes": '["a", "b"]', "precision": "fp32"})
    return Toy(name, module, path)


@pytest.fixture(scope="session")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    """The residual toy from PyTorch's older exporter, which is quick."""
    module, path = build_toy("resnet"), tmp_path_factory.mktemp("old") / "model.onnx"
    export_onnx(module, path, input_shape=SHAPE, exporter="torchscript")
    return Toy("resnet", module, path)

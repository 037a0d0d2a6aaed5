from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import edgeproof as ep
from edgeproof.config import TrainConfig, build_config
from edgeproof.stages import Place, run_stage

QUICK = {"data.name": "digits", "model": "small-cnn", "epochs": 2, "batch_size": 32, "lr": 0.05}


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a train run on digits."""
    folder = tmp_path_factory.mktemp("api") / "train"
    return run_stage("train", build_config(TrainConfig, options=QUICK), Place(folder)).path


@pytest.fixture(scope="session")
def exported(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the export run of it: FP32 and FP16."""
    folder = tmp_path_factory.mktemp("api") / "export"
    ep.build(
        trained, exporter="torchscript", precision=["fp32", "fp16"], parity={"fp16_accuracy_drop": 1.0}, out=folder
    )
    return folder


@pytest.fixture(scope="session")
def network() -> nn.Module:
    """Return a small network that has learned digits a little, on normalised images."""
    torch.manual_seed(0)
    made = nn.Sequential(nn.Conv2d(1, 6, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 10 * 10, 10))
    train = ep.images("digits", split="train")
    x, y = (torch.from_numpy(train.images) - 0.5) / 0.25, torch.from_numpy(train.labels)
    optimizer = torch.optim.Adam(made.parameters(), 3e-3)
    for _ in range(15):
        optimizer.zero_grad()
        nn.functional.cross_entropy(made(x), y).backward()
        optimizer.step()
    return made


@pytest.fixture(scope="session")
def wrapped(network: nn.Module) -> Any:
    """Return the same, wrapped."""
    return ep.wrap(network, classes=10, mean=[0.5], std=[0.25], name="net")

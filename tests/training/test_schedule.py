from __future__ import annotations

import pytest
import torch

from edgeproof.config import TrainConfig
from edgeproof.training.schedule import learning_rate


def rates(schedule: str, *, total: int, lr: float = 0.4, **changes: float) -> list[float]:
    config = TrainConfig(schedule=schedule, lr=lr, **changes)  # type: ignore[arg-type]
    return [learning_rate(config, step=step, total=total) for step in range(total)]


@pytest.mark.parametrize("total", [4, 10, 137])
def test_onecycle_is_that_of_torch(total: int) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1)
    reference = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.4, total_steps=total, cycle_momentum=False)
    expected = []
    for _ in range(total):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if len(expected) < total:
            reference.step()
    assert rates("onecycle", total=total) == pytest.approx(expected)


def test_cosine_is_that_of_torch() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20)
    expected = []
    for _ in range(20):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        reference.step()
    assert rates("cosine", total=20) == pytest.approx(expected)


def test_inverse_time_is_the_decay_of_keras_and_constant_stays() -> None:
    assert rates("inverse-time", total=3, lr_decay=0.5) == pytest.approx([0.4, 0.4 / 1.5, 0.4 / 2])
    assert rates("constant", total=3) == [0.4, 0.4, 0.4]


@pytest.mark.parametrize("schedule", ["constant", "cosine", "onecycle", "inverse-time"])
def test_a_single_step_has_a_rate_between_zero_and_the_peak(schedule: str) -> None:
    (rate,) = rates(schedule, total=1)
    assert 0 < rate <= 0.4

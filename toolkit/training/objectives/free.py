"""Free adversarial training: one backward pass moves the weights and the perturbations."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from edgeproof.attacks.base import Draws, check_positive
from edgeproof.config import check_eps
from edgeproof.models.base import Classifier
from edgeproof.ops import linf_step
from edgeproof.plugins.registry import register
from edgeproof.training.objectives.base import Objective, Task


@register("free", stateful=True)
def free(task: Task, *, eps: float, replays: int = 4, step_size: float | None = None) -> Objective:
    """Free adversarial training (Shafahi et al., 2019, arXiv:1904.12843): each batch is replayed, and its gradient used twice.

    A batch is kept for `replays` steps, and the batches that the loop offers meanwhile are passed over: so it costs what
    natural training of as many epochs costs, and sees 1/replays of the images. The model stays in training mode throughout,
    as in the paper. The fast method of Wong et al. is `adversarial` with steps = 1.

    Args:
        task: What is trained on.
        eps: L-infinity budget in pixel units.
        replays: Steps on each batch.
        step_size: Length of a step (default: eps).

    Raises:
        ConfigError: For a budget that cannot be meant, or numbers that are not positive.
    """
    check_eps(eps, norm="linf")
    check_positive(replays=replays, step_size=step_size)
    return FreeTraining(task, eps=eps, replays=replays, step_size=step_size or eps)


class FreeTraining(Objective):
    """Cross-entropy on perturbed images; running it backwards moves the perturbations too.

    Attributes:
        delta: (B, C, H, W), of the places in a batch; the next batch starts from it.
        x: The batch that is being replayed.
        y: Its classes.
        step: Steps so far, (1,) int64.
    """

    delta: Tensor
    x: Tensor
    y: Tensor
    step: Tensor

    def __init__(self, task: Task, *, eps: float, replays: int, step_size: float) -> None:
        super().__init__()
        self._eps, self._replays, self._step_size = eps, replays, step_size
        held = torch.zeros(min(task.batch_size, len(task.images)), *task.images.shape[1:])
        self.register_buffer("delta", held)
        self.register_buffer("x", torch.zeros_like(held))
        self.register_buffer("y", torch.zeros(len(held), dtype=torch.int64))
        self.register_buffer("step", torch.zeros(1, dtype=torch.int64))

    def forward(self, model: Classifier, x: Tensor, y: Tensor, *, draws: Draws) -> Tensor:
        """Return the loss of the batch that is being replayed, under its perturbations."""
        if int(self.step) % self._replays == 0:
            self.x.copy_(x)
            self.y.copy_(y)
        self.step += 1
        x_adv = (self.x + self.delta).clamp(0, 1).requires_grad_()
        x_adv.register_hook(self._move)  # type: ignore[no-untyped-call]
        return functional.cross_entropy(model(x_adv), self.y)

    @torch.no_grad()
    def _move(self, grad: Tensor) -> None:
        moved = linf_step(self.x + self.delta, grad, self.x, step_size=self._step_size, eps=self._eps)
        self.delta.copy_(moved - self.x)

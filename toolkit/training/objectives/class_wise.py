"""Adversarial training that treats classes by how well they are doing: the fairness baselines of the later literature."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor

from edgeproof.attacks.base import Draws
from edgeproof.attacks.losses import cross_entropy
from edgeproof.attacks.options import IterativeOptions
from edgeproof.attacks.pgd import pgd
from edgeproof.config import check_eps
from edgeproof.models.base import Classifier
from edgeproof.plugins.registry import register
from edgeproof.training.objectives.adversarial import check_share, mixed
from edgeproof.training.objectives.base import Objective, Task, attacking

Rule: TypeAlias = Literal["cfa", "dafa", "worst"]
_CFA_BASE = 0.5  # lambda_1 in the paper


@register("class-wise", stateful=True)
def class_wise(
    task: Task,
    *,
    eps: float,
    rule: Rule = "dafa",
    strength: float = 1.0,
    steps: int = 7,
    clean: float = 0.5,
) -> Objective:
    """Adversarial training with a budget or a weight of its own for every class.

    "cfa" gives class k the budget (0.5 + its robust accuracy) * eps (Wei et al., 2023, arXiv:2303.14460), "dafa" the weight
    and budget factor of Lee et al. (2024, arXiv:2401.12532), which moves effort from a class to those it is confused with and
    does worse than it, "worst" multiplies the weight of a class by exp(strength * its robust error) again and again, as in
    worst-class adversarial training (Li & Liu, 2023, arXiv:2302.04025). Differing from the papers, all three look at the
    attacked training images of the epoch before, not at a validation split (WAT) or once after a warm-up (DAFA); CFA's weight
    averaging is left out. The first epoch treats all classes alike.

    Args:
        task: What is trained on.
        eps: L-infinity budget in pixel units, before it is scaled.
        rule: "cfa", "dafa" or "worst".
        strength: lambda of DAFA; the step of the worst-class rule.
        steps: Gradients an image; a step is 2.5 / steps of the class's budget.
        clean: Share of the loss that is of the clean images, from 0 to 1.

    Raises:
        ConfigError: For a budget or a share that cannot be meant.
    """
    check_eps(eps, norm="linf")
    check_share(clean)
    return ClassWise(task.num_classes, eps=eps, rule=rule, strength=strength, steps=steps, clean=clean)


class ClassWise(Objective):
    """A weight and a budget factor for every class, set at the start of each epoch by what the last one has shown.

    Attributes:
        weight: (K,) factor of the loss.
        budget: (K,) factor of eps.
        answers: (K, K) sum of the softmax over the attacked images of each true class, since the epoch began.
        hits: (K,) attacked images that are correctly classified.
        seen: (K,) attacked images.
    """

    weight: Tensor
    budget: Tensor
    answers: Tensor
    hits: Tensor
    seen: Tensor

    def __init__(self, classes: int, *, eps: float, rule: Rule, strength: float, steps: int, clean: float) -> None:
        super().__init__()
        self._eps, self._rule, self._strength = eps, rule, strength
        self._steps, self._clean = steps, clean
        for name in ("weight", "budget"):
            self.register_buffer(name, torch.ones(classes))
        for name, shape in (("answers", (classes, classes)), ("hits", (classes,)), ("seen", (classes,))):
            self.register_buffer(name, torch.zeros(shape))

    def begin_epoch(self, model: Classifier, *, epoch: int) -> None:
        """Set weights and budgets by the last epoch, and forget it."""
        if bool((self.seen > 0).all()):
            confused, robust = self.answers / self.seen[:, None], self.hits / self.seen
            if self._rule == "cfa":
                self.budget.copy_(_CFA_BASE + robust)
            elif self._rule == "dafa":
                self.weight.copy_(dafa_weights(confused, strength=self._strength))
                self.budget.copy_(self.weight)
            else:
                raised = self.weight * torch.exp(self._strength * (1 - robust))
                self.weight.copy_(raised / raised.mean())
        for memory in (self.answers, self.hits, self.seen):
            memory.zero_()

    def forward(self, model: Classifier, x: Tensor, y: Tensor, *, draws: Draws) -> Tensor:
        """Return the loss of a batch."""
        eps = (self._eps * self.budget[y]).view(-1, 1, 1, 1)
        with attacking(model):
            x_adv = pgd(model, x, y, IterativeOptions(eps, self._steps, keep="last", draws=draws))
            self._note(model, x_adv, y)
        return mixed(lambda logits, y: self.weight[y] * cross_entropy(logits, y), model, x_adv, x, y, clean=self._clean)

    @torch.no_grad()
    def _note(self, model: Classifier, x_adv: Tensor, y: Tensor) -> None:
        logits = model(x_adv).float()
        self.answers.index_add_(0, y, logits.softmax(1))
        self.hits.index_add_(0, y, (logits.argmax(1) == y).float())
        self.seen.index_add_(0, y, torch.ones_like(y, dtype=torch.float32))


def dafa_weights(confused: Tensor, *, strength: float) -> Tensor:
    """Return DAFA's class weights W_i = 1 + strength * sum_j (p_ij p_jj where p_ii < p_jj, else -p_ji p_ii).

    Args:
        confused: p (K, K), the mean softmax of the images of each true class in a row.
        strength: lambda.
    """
    right = confused.diag()
    gives = right[:, None] < right[None, :]
    flow = torch.where(gives, confused * right[None, :], -confused.T * right[:, None])
    return 1 + strength * flow.fill_diagonal_(0).sum(1)

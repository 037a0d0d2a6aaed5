"""Adversarial training: cross-entropy on the worst images in reach."""

from __future__ import annotations

import torch
from torch import Tensor

from edgeproof.attacks.base import Draws
from edgeproof.attacks.losses import cross_entropy
from edgeproof.attacks.pgd import pgd_linf
from edgeproof.config import check_eps
from edgeproof.errors import ConfigError
from edgeproof.models.base import Classifier
from edgeproof.plugins.registry import register
from edgeproof.source_model.gradients import Loss
from edgeproof.training.objectives.base import attacking


@register("adversarial")
def adversarial(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    steps: int = 7,
    step_size: float | None = None,
    random_start: bool = True,
    clean: float = 0.0,
    draws: Draws,
) -> Tensor:
    """Adversarial training against PGD (Madry et al., 2018, arXiv:1706.06083), or FGSM with `steps=1`.

    The images are attacked in eval mode, so that batch statistics neither help the attack nor are moved by it. One step
    from a random start with the default step size is the fast method of Wong et al. (2020, arXiv:2001.03994); without the
    random start it is that of Goodfellow et al. (2015), which is prone to label leaking.

    Args:
        model: The classifier in training.
        x: Images, (N, C, H, W) in [0, 1].
        y: Classes, (N,) int64.
        eps: L-infinity budget in pixel units.
        steps: Gradients an image.
        step_size: Length of a step (default: 2.5 * eps / steps, and 1.25 * eps for a single step).
        random_start: Start at a uniform point of the ball.
        clean: Share of the loss that is of the clean images, from 0 to 1.
        draws: Random numbers of the starts.

    Raises:
        ConfigError: For a budget that cannot be meant, or a share outside [0, 1].
    """
    check_eps(eps, norm="linf")
    check_share(clean)
    length = 1.25 * eps if step_size is None and steps == 1 else step_size
    with attacking(model):
        x_adv = pgd_linf(
            model, x, y, eps=eps, steps=steps, step_size=length, random_start=random_start, keep="last", draws=draws
        )
    return mixed(cross_entropy, model, x_adv, x, y, clean=clean)


def check_share(clean: float) -> None:
    """Refuse what is no share.

    Raises:
        ConfigError: Outside [0, 1].
    """
    if not 0 <= clean <= 1:
        raise ConfigError(f"clean = {clean:g} is no share; expected a number from 0 to 1")


def mixed(loss: Loss, model: Classifier, x_adv: Tensor, x: Tensor, y: Tensor, *, clean: float) -> Tensor:
    """Return the mean loss on attacked images, a share `clean` of it that on the clean ones, seen in the same batch."""
    if not clean:
        return loss(model(x_adv), y).mean()
    logits, clean_logits = model(torch.cat([x_adv, x])).chunk(2)
    return (1 - clean) * loss(logits, y).mean() + clean * loss(clean_logits, y).mean()

"""Several attacks in a row, the worst image of all of them kept."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from edgeproof.attacks.base import Draws, draws_of, find_attack
from edgeproof.attacks.configured import choose_attack
from edgeproof.attacks.iterative import BestAdversarial
from edgeproof.errors import ConfigError
from edgeproof.plugins.registry import register
from edgeproof.types import LogitsFn


@register("ensemble", norm="linf", access="gradients")
def ensemble(
    model: LogitsFn,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    attacks: str = "fgsm,apgd-ce,apgd-t,square",
    steps: int | None = None,
    queries: int | None = None,
    stop: str = "never",
    draws: Draws | None = None,
) -> Tensor:
    """The worst case of each image over several attacks, in the manner of AutoAttack (Croce & Hein, 2020, arXiv:2003.01690).

    Differing from AutoAttack's standard version, FGSM goes first, which settles most images of an undefended model, and FAB,
    which very rarely adds anything, is left out.

    Args:
        attacks: Names of L-infinity attacks, separated by commas, the cheap ones first.
        steps: Gradients an image of each member that takes steps (default: the member's own).
        queries: The same for queries.
        stop: With "first" or "margin=K" an image that one attack has broken is spared the others; "never" runs all.
    """
    specs = [find_attack(name.strip()) for name in attacks.split(",")]
    for spec in specs:
        within = spec.norm == "linf" and spec.budget == "eps" and spec.box
        if not within or spec.access == "data" or spec.name == "ensemble":
            raise ConfigError(
                f"attack {spec.name!r} cannot be part of an ensemble; expected L-infinity attacks within eps"
            )
    if len(x) and any(spec.least_classes > 2 for spec in specs):
        with torch.no_grad():
            classes = model(x[:1]).shape[1]
        odd = next((spec for spec in specs if spec.least_classes > classes), None)
        if odd:
            defined = ",".join(spec.name for spec in specs if spec.least_classes <= classes)
            advice = f"give --attacks {defined}" if defined else "choose others"
            raise ConfigError(
                f"{odd.name} needs at least {odd.least_classes} classes and the model has {classes}; {advice}"
            )
    draws = draws_of(draws, x)
    best = BestAdversarial(x, y, direction="ascent", stop=stop)
    budget = {name: value for name, value in (("steps", steps), ("queries", queries)) if value is not None}
    every = torch.arange(len(x), device=x.device)
    for spec in specs:
        rows = best.active(every)
        if not len(rows):
            break
        params = {name: value for name, value in budget.items() if spec.takes(name)}
        chosen = choose_attack(spec, eps=eps, params=params)
        # An attack that keeps the last iterate has to reach it.
        if spec.takes("stop") and chosen.params.get("keep") != "last":
            chosen = replace(chosen, stop=stop)
        images = chosen.run(model, x[rows], y[rows], draws=draws.take(rows))
        with torch.no_grad():
            best.update(rows, images, model(images))
    return best.images

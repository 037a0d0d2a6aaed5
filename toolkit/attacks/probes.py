"""Looking for masked gradients while an attack is crafted: a few images, attacked in ways that masking does not stop.

After the checks of Athalye et al. (2018, arXiv:1802.00420), Carlini et al. (2019, arXiv:1902.06705) and Gupta & Ajanthan (2022,
arXiv:2003.13511). What is measured here is stored with the set and judged by `edgeproof.evaluation.masking`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from edgeproof.attacks.base import Draws, find_attack
from edgeproof.attacks.configured import Attack, choose_attack
from edgeproof.attacks.losses import soften
from edgeproof.data.base import LabelledImages
from edgeproof.data.sampling import stratified_sample
from edgeproof.source_model.base import SourceModel
from edgeproof.source_model.opening import open_source
from edgeproof.types import Array, Images, LogitsFn

DEFAULT_COUNT = 64
_QUERIES = 100  # of Square for each image that the attack has left right
_GREY = 0.5  # with an L-infinity budget of 0.5 every image can become the same grey, so no model can tell classes apart
_SAME = 1e-4  # two calls differ by more than rounding: |difference| of a logit as a share of the largest
_RHO = 0.01  # probability that softened logits leave to the other classes


@dataclass(frozen=True)
class Probe:
    """The images that are looked at, and the model behind them.

    Attributes:
        source: What is attacked.
        rows: (n,) their positions in the whole set.
        x: Clean images, (n, C, H, W).
        y: True classes, (n,).
        draws: Their random numbers.
        surrogate: Another form of the model whose gradients are no secret, for a transferred attack: the checkpoint that a graph
            was exported from; None where there is none.
    """

    source: SourceModel
    rows: Array
    x: Tensor
    y: Tensor
    draws: Draws
    surrogate: LogitsFn | None = None

    def fooled(self, x_adv: Tensor) -> Tensor:
        """Return which of these images the source gets wrong, (n,) bool."""
        return self.source.logits(x_adv).argmax(1) != self.y

    def attacked(self, attack: Attack, model: LogitsFn) -> Tensor:
        """Return which images the source gets wrong after an attack that followed this model."""
        return self.fooled(attack.run(model, self.x, self.y, draws=self.draws))


def choose_probe(source: SourceModel, data: LabelledImages, *, count: int, seed: int) -> Probe:
    """Choose the images, stratified by class."""
    rows = np.sort(stratified_sample(data.labels, min(count, len(data)), seed=seed))
    part = data.take(rows)
    x, y = torch.from_numpy(part.images).to(source.device), torch.from_numpy(part.labels).to(source.device)
    known = open_source(source.checkpoint, device=source.device).as_logits(x[:8]) if source.checkpoint else None
    return Probe(source, rows, x, y, Draws(seed=seed, index=part.index), known and known.follow)


def look_for_masking(probe: Probe, attack: Attack, images: Images) -> dict[str, float]:
    """Ask the source twice, attack the chosen images again in ways that masked gradients do not stop, and compare.

    Args:
        probe: The images.
        attack: What was run on all images.
        images: What it has made of all images, (N, C, H, W).

    Returns:
        `probabilities`, `random_outputs`: shares of images whose answers are probabilities, or another one at the second call.
        For attacks that follow gradients step by step away from the true class also `temperature_gain`, `transfer_gain`,
        `query_gain`: the share of images that the probe fools minus the share that the attack fools; and `large_eps_accuracy`:
        what the same attack leaves with a budget that can turn every image grey.
    """
    first, again = (probe.source.logits(probe.x).double() for _ in range(2))
    sum_to_one = (first.sum(1) - 1).abs() < 1e-3
    allowed = _SAME * float(first.abs().max())
    measured = {
        "probabilities": float((sum_to_one & (first.amin(1) >= 0)).double().mean()),
        "random_outputs": float(((first - again).abs().amax(1) > allowed).double().mean()),
    }
    if not _follows_gradients(attack):
        return measured
    before = probe.fooled(torch.from_numpy(images[probe.rows]).to(probe.x.device))
    # The same attack, which lets an image go once it is misclassified where it can: no more is asked here.
    possible = attack.spec.takes("stop") and attack.stop == "never" and attack.params.get("keep") != "last"
    follow, early = probe.source.follow, replace(attack, stop="first") if possible else attack
    # Softened, the logits are nothing that the cross-entropy is certain of; the classes stay the same.
    softened = follow.mapped(lambda logits: soften(logits, _RHO))
    measured["temperature_gain"] = _gain(before, probe.attacked(early, softened))
    if probe.surrogate is not None:
        measured["transfer_gain"] = _gain(before, probe.attacked(attack, probe.surrogate))
    if attack.spec.norm == "linf":
        left, fooled = torch.nonzero(~before).flatten(), before.clone()
        if len(left):
            square = choose_attack(find_attack("square"), eps=attack.eps, params={"queries": _QUERIES}, stop="first")
            rest = replace(probe, x=probe.x[left], y=probe.y[left], draws=probe.draws.take(left))
            fooled[left] = rest.attacked(square, follow)
        measured["query_gain"] = _gain(before, fooled)
    unbounded = replace(
        early,
        eps=_GREY if attack.spec.norm == "linf" else _GREY * float(probe.x[0].numel()) ** 0.5,
        params={**attack.params, **({"step_size": None} if "step_size" in attack.params else {})},
        pixels="float",
    )
    measured["large_eps_accuracy"] = 1 - float(probe.attacked(unbounded, follow).double().mean())
    return measured


def _follows_gradients(attack: Attack) -> bool:
    spec, params = attack.spec, attack.params
    if spec.takes("deployed"):  # it wants the source to stay right
        return False
    iterated = spec.access == "gradients" and spec.takes("steps") and not spec.nested
    bounded = spec.budget == "eps" and spec.box and attack.eps > 0
    return (
        iterated and bounded and params.get("direction", "ascent") == "ascent" and params.get("label", "true") == "true"
    )


def _gain(before: Tensor, after: Tensor) -> float:
    return float(after.double().mean() - before.double().mean())

"""Several builds of one network as one source: their losses are averaged, and in the end each is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from edgeproof.data.base import LabelledImages
from edgeproof.engines.specs import distinct_names
from edgeproof.errors import DataError
from edgeproof.source_model.base import SourceModel
from edgeproof.source_model.gradients import Averaged
from edgeproof.types import GradientMode


@dataclass(frozen=True)
class Ensemble(SourceModel):
    """Several source models; `network` averages their losses, so their gradients.

    Attributes:
        members: The first one is the source whose logits a set carries.
    """

    members: tuple[SourceModel, ...] = ()

    def prepared(self, x: Tensor, *, mode: GradientMode) -> Ensemble:
        """Return the same source with a faster form of each member."""
        fast = [member.prepared(x, mode=mode).follow for member in self.members]
        return replace(self, fast=Averaged([network for form in fast for network in form.members]))

    def self_check(self, data: LabelledImages, *, batch_size: int) -> dict[str, float]:
        """Check each member; return the worst that was measured."""
        checked = [member.self_check(data, batch_size=batch_size) for member in self.members]
        return {key: max(each.get(key, 0.0) for each in checked) for each in checked for key in each}

    def as_logits(self, x: Tensor) -> Ensemble:
        """Return the same source with logits in the place of each member's probabilities."""
        members = tuple(member.as_logits(x) for member in self.members)
        return replace(self, members=members, network=Averaged(members))

    @property
    def builds(self) -> Mapping[str, SourceModel]:
        """All members."""
        names = distinct_names([member.name for member in self.members], taken=())
        return dict(zip(names, self.members, strict=True))

    def fitted(self, data: LabelledImages, *, quiet: bool = False) -> LabelledImages:
        """Return the images with their labels in the order of classes that all members have.

        Raises:
            DataError: For images that a member does not take, or members of different orders.
        """
        fitted = super().fitted(data, quiet=quiet)
        for member in self.members:
            if member.fitted(fitted, quiet=True).classes != fitted.classes:
                raise DataError(
                    f"{member.name} and {self.members[0].name} order their classes differently; attack them apart"
                )
        return fitted


def combine(members: Sequence[SourceModel]) -> SourceModel:
    """Return one source as it is, and several as one."""
    first = members[0]
    if len(members) == 1:
        return first
    return Ensemble(
        network=Averaged(members),
        name=" + ".join(member.name for member in members),
        input_shape=first.input_shape,
        num_classes=first.num_classes,
        device=first.device,
        sha256=tuple(sha256 for member in members for sha256 in member.sha256),
        classes=next((member.classes for member in members if member.classes), ()),
        trained_on=first.trained_on,
        members=tuple(members),
    )

"""What attacks share: their options, each explained here once. The command line takes these explanations into `--help`.

An attack's own docstring explains its other parameters, and a shared one where it means something else there. All attacks take

    model: Maps images (N, C, H, W) in [0, 1] to logits (N, K); differentiable where the attack's access is "gradients".
    x: Clean images, (N, C, H, W) in [0, 1].
    y: True classes, (N,) int64.

and return images of the shape and dtype of `x`, within `eps` of it and in [0, 1], where they do not say otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from torch import Tensor

from edgeproof.attacks.base import Draws, check_positive
from edgeproof.attacks.losses import LossName
from edgeproof.errors import ConfigError
from edgeproof.types import Direction

if TYPE_CHECKING:
    from edgeproof.attacks.fitting import FitCheckpoint
    from edgeproof.attacks.queries import QueryTrace

Keep: TypeAlias = Literal["best", "last"]
Method: TypeAlias = Literal["sgd", "deepfool"]
Per: TypeAlias = Literal["data", "class"]


@dataclass(frozen=True)
class IterativeOptions:
    """How an attack takes its steps.

    Attributes:
        eps: Budget in the units of `x`: under L-infinity of a pixel (8/255 is eight grey levels), under L2 of a whole image.
        step_size: Length of a step (default: 2.5 * eps / steps).
        steps: Number of steps, each one gradient.
        restarts: Number of random starts; the worst image over them is kept.
        random_start: Start at a uniform point of the ball instead of the clean image.
        loss: "ce", "margin" or "dlr".
        direction: "ascent" moves away from the class that is followed, "descent" towards it.
        label: The class that is followed: "true", "most-likely", "least-likely" on the clean image, or an index.
        keep: "best" keeps the worst iterate of each image, which costs one forward pass more; "last" the last one.
        stop: "never", "first" or "margin=K": when an image has been attacked enough and leaves the batch.
        draws: Random numbers of the attack.

    Raises:
        ConfigError: For a number that must be above 0, or options that contradict each other.
    """

    eps: float | Tensor
    steps: int
    step_size: float | None = None
    restarts: int = 1
    random_start: bool = True
    loss: LossName = "ce"
    direction: Direction = "ascent"
    label: str = "true"
    keep: Keep = "best"
    stop: str = "never"
    draws: Draws | None = None

    def __post_init__(self) -> None:
        check_positive(steps=self.steps, restarts=self.restarts, step_size=self.step_size)
        if self.keep == "last" and (self.stop != "never" or self.restarts > 1):
            raise ConfigError(
                f"keep = 'last' needs restarts = 1 and stop = 'never', not {self.restarts} and {self.stop!r}; "
                "or take keep = 'best'"
            )


@dataclass(frozen=True)
class QueryOptions:
    """How an attack asks a model of which it sees the classes alone.

    Attributes:
        eps: As in `IterativeOptions`. The nearest adversary is looked for; one that is farther is projected.
        queries: Most times that each image is shown to the model.
        directions: Random directions of the first estimate of a gradient; the t-th takes sqrt(t) times as many.
        reach: How far out they are tried, as a share of the distance reached: the change of a pixel, under L2 the length.
        stop: "first" lets an image leave once its adversary is within `eps`; "never" uses up the queries.
        draws: Random numbers.
        trace: Notes each query.

    Raises:
        ConfigError: For a number that must be above 0, or another `stop`.
    """

    eps: float
    queries: int
    directions: int
    reach: float
    stop: str
    draws: Draws | None
    trace: QueryTrace | None

    def __post_init__(self) -> None:
        check_positive(queries=self.queries, directions=self.directions, reach=self.reach)
        if self.stop not in ("never", "first"):
            raise ConfigError(f"stop = {self.stop!r}; a decision has no margin, so expected never or first")


@dataclass(frozen=True)
class UniversalOptions:
    """How a universal perturbation is fitted to images, which may stay on the host; their classes are on the model's device.

    Attributes:
        eps: As in `IterativeOptions`.
        method: "sgd" or "deepfool".
        per: "data" fits one perturbation for all images, "class" one per class.
        steps: Number of batches.
        fit_batch: Images of a batch.
        step_size: Length of the first step of "sgd" (default: 0.8 * eps).
        beta: Cross-entropy above which an image no longer pulls.
        candidates: Classes whose boundaries "deepfool" considers.
        direction: As in `IterativeOptions`, for "sgd".
        label: As in `IterativeOptions`, for "sgd".
        checkpoint: Where the state of the fit is kept.
        draws: Random numbers of the batches' order.

    Raises:
        ConfigError: For a number that must be above 0, or options that contradict each other.
    """

    eps: float
    method: Method
    per: Per
    steps: int
    fit_batch: int
    step_size: float | None
    beta: float
    candidates: int
    direction: Direction
    label: str
    checkpoint: FitCheckpoint | None
    draws: Draws | None

    def __post_init__(self) -> None:
        check_positive(steps=self.steps, fit_batch=self.fit_batch, step_size=self.step_size, beta=self.beta)
        if self.candidates < 2:
            raise ConfigError(f"candidates = {self.candidates}; expected at least 2, the own class and another")
        if self.method == "deepfool" and (self.direction == "descent" or self.label != "true"):
            raise ConfigError(
                "method = 'deepfool' leaves the true class; expected direction = 'ascent' and label = 'true'"
            )

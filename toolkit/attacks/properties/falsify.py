"""The search for a counterexample. It says "sat" with one that ONNX Runtime confirms, or "unknown": it proves nothing.

Rounds take turns: projected gradient descent from many points of the box at once (Madry et al., 2018, arXiv:1706.06083),
half of them by signs and half along the gradient, on the loss of one alternative each; and a random search that needs no
gradient, for graphs whose steps have none (Sign, Floor, rounding) and for those that torch cannot run.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from edgeproof.attacks.properties.graph import Graph
from edgeproof.attacks.properties.regions import Property, Region, Vector
from edgeproof.errors import DataError

Way: TypeAlias = Literal["start", "gradient", "random search"]

_STEPS = 40  # of one descent; the first one crosses the whole box
_LAST_STEP = 0.002  # length of the last step, as a share of the box
_TRIES = 100  # of one random search
_SPREAD = 16  # alternatives that one round pursues at most, the nearest first
_TINY = 1e-30


@dataclass(frozen=True)
class Answer:
    """What a search has come to.

    Attributes:
        verdict: "sat" with a counterexample, "unknown" without.
        seconds: Of the search.
        rounds: Begun.
        x: The counterexample, (n,) in the graph's own units, or None.
        y: ONNX Runtime's outputs for it, (K,), or None.
        found_by: What found it, or "".
        rejected: Points that the torch form took for counterexamples and ONNX Runtime did not.
        note: Why there were no gradients, where there were none.
    """

    verdict: Literal["sat", "unknown"]
    seconds: float
    rounds: int
    x: Vector | None = None
    y: Vector | None = None
    found_by: Way | Literal[""] = ""
    rejected: int = 0
    note: str = ""


class Seen(NamedTuple):
    """Points (N, n) that were tried, and by how much their outputs miss each condition of each alternative, (N, A, R)."""

    x: Tensor
    excess: Tensor


class Box:
    """One region as tensors, with how near each alternative has come."""

    def __init__(self, graph: Graph, region: Region, *, generator: torch.Generator) -> None:
        low, high = region.representable()
        self.region, self.graph, self.generator = region, graph, generator
        self.low, self.high = torch.from_numpy(low), torch.from_numpy(high)
        self.width = self.high - self.low
        self.weights = torch.from_numpy(region.weights).float()
        self.limits = torch.from_numpy(region.limits).float()
        # A condition such as Y_0 <= Y_1 holds for logits where it holds for their softmax, which saturates.
        comparing = ((self.weights != 0).sum(2) == 2) & (self.weights.sum(2) == 0) & (self.limits == 0)
        self.comparing = comparing if graph.probabilities else torch.zeros_like(comparing)
        self.nearest = torch.full((len(self.weights),), torch.inf)

    def follow(self, x: Tensor) -> Seen:
        """Try points, ready to be differentiated."""
        outputs, logits = self.graph(x)
        excess = torch.einsum("ark,nk->nar", self.weights, outputs) - self.limits
        if not self.comparing.any():
            return Seen(x, excess)
        return Seen(x, torch.where(self.comparing, torch.einsum("ark,nk->nar", self.weights, logits), excess))

    def look(self, x: Tensor) -> Seen:
        """Try points without a gradient."""
        with torch.no_grad():
            return self.follow(x)

    def candidate(self, seen: Seen) -> Tensor | None:
        """Return the best point (n,) when it looks like a counterexample, and remember how near each alternative is."""
        worst = seen.excess.detach().amax(2).nan_to_num_(nan=torch.inf)  # an overflow hides no other point
        self.nearest = torch.minimum(self.nearest, worst.amin(0))
        distance = worst.amin(1)
        best = int(distance.argmin())
        return seen.x[best].detach() if float(distance[best]) <= 0 else None

    def confirm(self, x: Tensor) -> tuple[Vector, Vector] | None:
        """Return a point and its outputs as ONNX Runtime gives them, if they are a counterexample there too."""
        given = x.numpy()
        y = self.graph.run(given[None])[0]
        exact = np.clip(given.astype(np.float64), self.region.lower, self.region.upper)
        return (exact, y) if self.region.holds(exact, y) else None

    def points(self, count: int, *, corners: bool) -> Tensor:
        """Return random points of the box, or corners of it, (count, n)."""
        share = torch.rand(count, len(self.low), generator=self.generator)
        return self.place(share.round_() if corners else share)

    def place(self, share: Tensor) -> Tensor:
        """Return the points at these shares of the way from the lower to the upper bounds."""
        return torch.clamp(self.low + share * self.width, self.low, self.high)

    def assigned(self, count: int) -> Tensor:
        """Return which alternative each of `count` points is to pursue: the nearest ones in turn."""
        order = self.nearest.argsort()[: min(_SPREAD, count)]
        return order[torch.arange(count) % len(order)]


def falsify(
    graph: Graph, asked: Property, *, timeout: float, rounds: int | None = None, points: int = 64, seed: int = 0
) -> Answer:
    """Look for a counterexample to a property.

    Args:
        graph: What is to be shown wrong.
        asked: The property, in the units of the graph's input.
        timeout: Seconds after which the search gives up; the call that is under way then is finished.
        rounds: Most rounds, or None for as many as the time allows. With it an answer repeats itself exactly.
        points: Points that are moved at once.
        seed: Of the starting points and of the random search.

    Returns:
        "sat" only with inputs inside the box, as float32 numbers, for which ONNX Runtime's outputs meet every condition of
        an alternative without tolerance. "unknown" says nothing about the property.

    Raises:
        DataError: When the property is about other inputs or outputs than the graph's.
        ModelError: When ONNX Runtime fails.
    """
    began = time.monotonic()
    outputs = graph.run(np.zeros((1, graph.inputs), np.float32)).shape[1]
    if (asked.inputs, asked.outputs) != (graph.inputs, outputs):
        raise DataError(
            f"the property is about {asked.inputs} inputs and {asked.outputs} outputs and the graph has {graph.inputs} "
            f"and {outputs}; is it the property of another graph?"
        )
    generator = torch.Generator().manual_seed(seed)
    boxes = [Box(graph, region, generator=generator) for region in asked.regions if not region.empty]
    number = rejected = 0
    for number, box, way, seen in _sightings(boxes, rounds=rounds, points=points):
        candidate = box.candidate(seen)
        confirmed = None if candidate is None else box.confirm(candidate)
        seconds = time.monotonic() - began
        if confirmed:
            return Answer("sat", seconds, number, *confirmed, way, rejected, graph.why_no_twin)
        rejected += candidate is not None
        if seconds > timeout:
            break
    return Answer("unknown", time.monotonic() - began, number, rejected=rejected, note=graph.why_no_twin)


def _sightings(boxes: list[Box], *, rounds: int | None, points: int) -> Iterator[tuple[int, Box, Way, Seen]]:
    """Yield what is tried, box by box and round by round, with the round and the way."""
    for box in boxes:  # the centre, both ends, random points and random corners
        fixed = box.place(torch.tensor([[0.5], [0.0], [1.0]]).expand(3, len(box.low)))
        tried = torch.cat([fixed, box.points(points, corners=False), box.points(points, corners=True)])
        yield 1, box, "start", box.look(tried)
    for number in (count(1) if rounds is None else range(1, rounds + 1)) if boxes else ():
        for box in boxes:
            if box.graph.twin is not None:
                yield from ((number, box, "gradient", seen) for seen in _descend(box, points))
            yield from ((number, box, "random search", seen) for seen in _wander(box, points))


def _descend(box: Box, points: int) -> Iterator[Seen]:
    """Follow the gradient of the conditions that an alternative still misses."""
    x, pursued = box.points(points, corners=False), box.assigned(points)
    by_sign = _half(points)
    for step in range(_STEPS):
        seen = box.follow(x.requires_grad_())
        (grad,) = torch.autograd.grad(_distance(seen, pursued).sum(), x)
        yield seen
        scaled = grad.nan_to_num_() * box.width
        along = scaled / scaled.abs().amax(1, keepdim=True).clamp(min=_TINY)
        direction = torch.where(by_sign, grad.sign(), along)
        length = _LAST_STEP ** (step / (_STEPS - 1))
        x = torch.clamp(x.detach() - length * box.width * direction, box.low, box.high)
    yield box.look(x)


def _wander(box: Box, points: int) -> Iterator[Seen]:
    """Redraw some coordinates of each point, half of them at the borders, and keep what comes closer."""
    tried, pursued = box.points(points, corners=False), box.assigned(points)
    at_corners, size = _half(points), len(box.low)
    x, distance = tried, torch.full((points,), torch.inf)
    for attempt in range(_TRIES):
        seen = box.look(tried)
        yield seen
        now = _distance(seen, pursued)
        closer = now < distance
        x, distance = torch.where(closer[:, None], tried, x), torch.where(closer, now, distance)
        share = max(1.5 / size, 0.5 ** (1 + 8 * attempt / _TRIES))
        redrawn = torch.rand(points, size, generator=box.generator) < share
        fresh = torch.where(at_corners, box.points(points, corners=True), box.points(points, corners=False))
        tried = torch.where(redrawn, fresh, x)


def _half(points: int) -> Tensor:
    """Return (N, 1), true for the first half: every alternative, assigned in turn, has points in both."""
    return (torch.arange(points) < points // 2)[:, None]


def _distance(seen: Seen, pursued: Tensor) -> Tensor:
    """Return how far each point is from the alternative that it pursues, (N,)."""
    mine = seen.excess[torch.arange(len(pursued)), pursued]
    # The second term keeps a gradient where all conditions hold in torch and ONNX Runtime has said no.
    return mine.clamp(min=0).sum(1) + mine.amax(1)
